"""The model registry: versions of a family's models, stored independently of runs, and aliases to them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.cli.context import UsageFailure
from jobs.tracking.client import Tracking
from jobs.tracking.mlmodel import write_mlmodel
from jobs.tracking.spool import CallRejected
from models import FAMILIES
from models.family import Family

if TYPE_CHECKING:
    from jobs.tracking.client import ModelVersion

CHAMPION = "champion"
TAG_PREVIOUS = "previous_champion"
MAX_VERSIONS = 1000


@dataclass(frozen=True)
class VersionInfo:
    """A version in the model registry; time is epoch milliseconds."""

    family: str
    version: str
    run_id: str | None
    created_ms: int
    source: str | None
    tags: dict[str, str]
    aliases: list[str] = field(default_factory=list)


class Registry:
    """The model registry of a tracking server; every call raises DependencyDown if the server does not respond."""

    def __init__(self, tracking: Tracking) -> None:
        self._tracking, self._name = tracking, tracking.name_of

    def register(
        self,
        family: str,
        run_id: str | None,
        directory: Path,
        tags: Mapping[str, str],
        evidence: Mapping[str, str] | None = None,
        *,
        description: str = "",
    ) -> str:
        """Store a copy of a model directory in the registry and return its new version.

        `evidence` maps names to the content of text files that are stored with the model.
        """
        with self._tracking.reached():
            experiment, name = self._tracking.make_experiment(family), self._name(family)
            if not self._tracking.client.search_registered_models(f"name = '{name}'"):
                self._tracking.client.create_registered_model(name)
            model = self._tracking.client.create_logged_model(
                experiment, name=family, source_run_id=run_id, model_type="shopkeeper-bundle"
            )
            self._log_files(model.model_id, FAMILIES[family], directory, evidence or {})
            self._tracking.client.finalize_logged_model(model.model_id, "READY")
            # With a local database, MLflow would look up the model id on the server in MLFLOW_TRACKING_URI.
            remote = self._tracking.is_remote
            version = self._tracking.client.create_model_version(
                name,
                source=f"models:/{model.model_id}" if remote else model.artifact_location,
                run_id=run_id,
                tags=dict(tags),
                description=description or None,
                model_id=model.model_id if remote else None,
            )
            return str(version.version)

    def _log_files(self, model_id: str, family: Family, directory: Path, evidence: Mapping[str, str]) -> None:
        """Log the model directory, what MLflow loads it by, and the evidence."""
        with tempfile.TemporaryDirectory() as temporary:
            described = Path(temporary) / "mlmodel"
            write_mlmodel(family, directory, described)
            for name, text in evidence.items():
                (described / name).write_text(text, encoding="utf-8")
            for each in (directory, described):
                self._tracking.client.log_model_artifacts(model_id, str(each))

    def set_alias(self, family: str, alias: str, version: str) -> None:
        """Point an alias to a version."""
        with self._tracking.reached():
            self._tracking.client.set_registered_model_alias(self._name(family), alias, version)

    def get_alias(self, family: str, alias: str) -> str | None:
        """The version that an alias points to, or None."""
        try:
            with self._tracking.reached():
                return str(self._tracking.client.get_model_version_by_alias(self._name(family), alias).version)
        except CallRejected:
            return None

    def set_version_tags(self, family: str, version: str, tags: Mapping[str, str]) -> None:
        """Set or replace tags of a version."""
        with self._tracking.reached():
            for name, value in tags.items():
                self._tracking.client.set_model_version_tag(self._name(family), version, name, value)

    def version_info(self, family: str, version: str) -> VersionInfo:
        """A version; raises UsageFailure if it does not exist."""
        try:
            with self._tracking.reached():
                return _version_info(self._tracking.client.get_model_version(self._name(family), version))
        except CallRejected:
            known = ", ".join(info.version for info in self.list_versions(family)) or "none"
            raise UsageFailure(
                f"{family} has no version {version!r} in {self._tracking.shown_uri}; there are: {known}"
            ) from None

    def location(self, family: str, version: str) -> str:
        """URI of a version's model directory, for `Tracking.download`."""
        with self._tracking.reached():
            return str(self._tracking.client.get_model_version_download_uri(self._name(family), version))

    def list_versions(self, family: str) -> list[VersionInfo]:
        """All versions of a family, newest first."""
        with self._tracking.reached():
            found = self._tracking.client.search_model_versions(
                f"name = '{self._name(family)}'", max_results=MAX_VERSIONS
            )
            aliases: dict[str, list[str]] = {}
            if found:
                for alias, version in self._tracking.client.get_registered_model(self._name(family)).aliases.items():
                    aliases.setdefault(str(version), []).append(alias)
            infos = [_version_info(version, aliases.get(str(version.version), [])) for version in found]
        return sorted(infos, key=lambda info: int(info.version), reverse=True)


def champion_uri(family: str) -> str:
    """URI of the champion, the default model."""
    return f"models:/{family}@{CHAMPION}"


def _version_info(version: ModelVersion, aliases: list[str] | None = None) -> VersionInfo:
    return VersionInfo(
        family=version.name,
        version=str(version.version),
        run_id=version.run_id or None,
        created_ms=version.creation_timestamp,
        source=version.source,
        tags=dict(version.tags),
        aliases=list(version.aliases) if aliases is None else aliases,
    )
