"""Resolves a model URI (run, version, alias or directory) to a verified local directory."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from jobs.cli.context import Context, UsageFailure
from jobs.tracking.client import BUNDLE, Tracking
from jobs.tracking.registry import Registry
from models import bundle
from models.errors import BundleRejected
from models.files import put_directory, remove_directory, temporary_path

FORMS = "runs:/RUN_ID, models:/FAMILY@ALIAS, models:/FAMILY/VERSION or a directory"

RUN = re.compile(r"runs:/([^/]+)(?:/bundle)?/?")
ALIAS = re.compile(r"models:/([^/@]+)@([^/@]+)/?")
VERSION = re.compile(r"models:/([^/@]+)/([0-9]+)/?")


@dataclass(frozen=True)
class LocatedModel:
    """A verified model directory, with its run and version if it has any."""

    directory: Path
    uri: str
    """Resolved URI: an alias is replaced by the version it points to."""
    run_id: str | None = None
    family: str | None = None
    version: str | None = None

    @property
    def name(self) -> str:
        """Name of the model in answers and reports: its version, else its run id, else its directory name."""
        return self.version or self.run_id or self.directory.name


def locate_model(context: Context, uri: str, *, tracking: Tracking | None = None) -> LocatedModel:
    """Find, fetch and verify a model; raises UsageFailure if it does not exist, BundleRejected if it is damaged."""
    tracking = tracking or Tracking(context)
    if match := RUN.fullmatch(uri):
        return _of_run(context, tracking, match[1])
    if match := ALIAS.fullmatch(uri):
        return _of_alias(context, tracking, match[1], match[2])
    if match := VERSION.fullmatch(uri):
        return _of_version(context, tracking, match[1], match[2])
    if ":/" in uri:
        raise UsageFailure(f"{uri!r} is not a model URI; use {FORMS}")
    directory = Path(uri).absolute()
    if not directory.is_dir():
        raise UsageFailure(f"there is no directory {uri!r}; use {FORMS}")
    bundle.verify(directory)
    return LocatedModel(directory=directory, uri=str(directory))


def resolve_model(context: Context, uri: str) -> Path:
    """The verified local directory of a model; see `locate_model`."""
    return locate_model(context, uri).directory


def _of_run(context: Context, tracking: Tracking, run_id: str) -> LocatedModel:
    info = tracking.run_info(run_id)
    if not tracking.has_bundle(run_id):
        raise UsageFailure(
            f"run {run_id} ({info.status.lower()}) has no model; it is logged when training ends. "
            f"`{context.command('status')}` lists the runs"
        )
    directory = _fetch(context, tracking, tracking.artifact_uri(run_id, BUNDLE), f"run-{run_id}-{info.ended_ms}")
    return LocatedModel(directory=directory, uri=f"runs:/{run_id}", run_id=run_id)


def _of_alias(context: Context, tracking: Tracking, family: str, alias: str) -> LocatedModel:
    version = Registry(tracking).get_alias(family, alias)
    if version is None:
        raise UsageFailure(
            f"models:/{family}@{alias} does not exist; `{context.command(f'promote {family}')}` makes a champion, "
            "or name a model with --model"
        )
    return _of_version(context, tracking, family, version)


def _of_version(context: Context, tracking: Tracking, family: str, version: str) -> LocatedModel:
    registry = Registry(tracking)
    info = registry.version_info(family, version)
    directory = _fetch(context, tracking, registry.location(family, version), f"{family}-{version}")
    return LocatedModel(
        directory=directory,
        uri=f"models:/{tracking.name_of(family)}/{version}",
        run_id=info.run_id,
        family=family,
        version=version,
    )


def _fetch(context: Context, tracking: Tracking, uri: str, name: str) -> Path:
    """Fetch a model into the cache; a damaged copy is fetched again."""
    # The hash of the location distinguishes version 1 of two servers.
    cached = context.store.root / "fetched" / f"{name}-{hashlib.sha256(uri.encode()).hexdigest()[:8]}"
    if cached.is_dir():
        try:
            bundle.verify(cached)
        except BundleRejected:
            remove_directory(cached)
        else:
            return cached
    temporary = temporary_path(cached)
    try:
        found = tracking.download(uri, temporary)
        bundle.verify(found)
        if temporary not in (found, *found.parents):
            return found
        put_directory(found, cached)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return cached
