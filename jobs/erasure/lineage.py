"""Which models were trained with a user's data: runs, registered versions, and copies of bundles in the store."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.cli.context import Context, DependencyDown, Failure
from jobs.erasure.data import prepared_data
from jobs.serving.config import PINNED, config_path, read_config, user_config
from jobs.tracking.client import MAX_RUNS, TAG_FINGERPRINT, Tracking
from jobs.tracking.registry import CHAMPION, Registry
from models.erasure.receipts import State, Trace
from models.erasure.tombstones import Tombstones
from models.errors import BundleRejected
from models.family import Family
from models.json_files import read_json
from models.prepared import NAME_LENGTH, SCHEMA

DATA = "prepared data"
RUN, VERSION, PINNED_BUNDLE, FETCHED = "run", "model version", "pinned bundle", "fetched bundle"


@dataclass(frozen=True)
class Model:
    """A trained model, wherever it lies, and the data that it was trained on."""

    family: str
    what: str
    where: str
    fingerprint: str | None
    directory: Path | None = None
    """In the store, if it lies there."""
    run_id: str | None = None
    is_used: bool = False
    """It is the champion, or deployed."""


def models_of(context: Context, family: Family) -> Iterator[Model]:
    """All models of a family that the store and its tracking server know; raises DependencyDown."""
    deployed = user_config(_config(context), family).get("version")
    for path in sorted((context.store.root / PINNED / family.name).glob(f"*/{SCHEMA}")):
        where, name = str(path.parent.relative_to(context.store.root)), path.parent.name
        yield Model(
            family.name, PINNED_BUNDLE, where, fingerprint_in(path.parent), path.parent, is_used=name == deployed
        )
    for path in sorted((context.store.root / "fetched").glob(f"*/{SCHEMA}")):
        if _schema(path).get("family") == family.name:
            where = str(path.parent.relative_to(context.store.root))
            yield Model(family.name, FETCHED, where, fingerprint_in(path.parent), path.parent)
    if context.tracking_uri is None and not (context.store.root / "mlflow.db").is_file():
        return
    yield from _tracked(context, family, deployed)


def _tracked(context: Context, family: Family, deployed: str | None) -> Iterator[Model]:
    tracking = Tracking(context)
    registry = Registry(tracking)
    runs = {info.run_id: info for info in tracking.list_runs(family.name, limit=MAX_RUNS)}
    champion = registry.get_alias(family.name, CHAMPION)
    for info in runs.values():
        directory = context.store.run_directory(family.name, info.run_id)
        if directory.is_dir() or tracking.has_bundle(info.run_id):
            here = directory if directory.is_dir() else None
            yield Model(family.name, RUN, info.run_id, info.tags.get(TAG_FINGERPRINT), here, info.run_id)
    for version in registry.list_versions(family.name):
        run = runs.get(version.run_id or "")
        fingerprint = run.tags.get(TAG_FINGERPRINT) if run else None
        if fingerprint is None and (source := Path((version.source or "").removeprefix("file://"))).is_dir():
            fingerprint = fingerprint_in(source)
        yield Model(family.name, VERSION, version.version, fingerprint, is_used=version.version in (champion, deployed))


def held_fingerprints(tombstones: Tombstones, digest: str) -> set[str]:
    """Fingerprints of all data that had a user: those found, and what these were rewritten from for others."""
    return _with_sources(tombstones, {fingerprint for fingerprint, _ in tombstones.held_by(digest)})


def knows_erased_users(tombstones: Tombstones, fingerprint: str) -> bool:
    """Whether data with this fingerprint, and so a model trained on them, had a user who was erased since."""
    return fingerprint in _with_sources(tombstones, tombstones.all_held())


def _with_sources(tombstones: Tombstones, held: set[str]) -> set[str]:
    """Fingerprints, and those of the data that these were rewritten from."""
    pairs = tombstones.rewritten()
    while more := {old for old, new in pairs if new in held} - held:
        held |= more
    return held


def searched_names(tombstones: Tombstones, user: str) -> set[str]:
    """Names of data that were searched for a user (salted hash), though they may be gone; `held_by` has the finds.

    Also of those that such data were rewritten from, which differ by erased users only.
    """
    seq = tombstones.seq_of(user)
    found = {place.rpartition("/")[2] for place, until in tombstones.all_swept() if 0 < seq <= until}
    pairs = [(old[:NAME_LENGTH], new[:NAME_LENGTH]) for old, new in tombstones.rewritten()]
    while more := {old for old, new in pairs if new in found} - found:
        found |= more
    return found


def clean_fingerprints(context: Context, families: Collection[Family]) -> set[str]:
    """Fingerprints of the data in the store, which hold no erased user after a sweep."""
    return {data.fingerprint for family in families for data in prepared_data(context.store, family)}


def traces_of(
    context: Context, models: Mapping[str, Collection[Model]], *, held: Collection[str], clean: Collection[str]
) -> list[Trace]:
    """The models, by family, that were trained with a user, or may have been."""
    traces = []
    for family, each in models.items():
        for model in each:
            if model.fingerprint in clean and model.fingerprint not in held:
                continue
            state: State = "held" if model.fingerprint in held else "maybe"
            traces.append(
                Trace(
                    what=model.what,
                    where=model.where if model.what not in (RUN, VERSION) else f"{family} {model.where}",
                    state=state,
                    fingerprint=model.fingerprint,
                    remedy=remedy(context, family, is_used=model.is_used),
                    note=None if state == "held" else "its data are gone, so nobody can tell whether they had the user",
                )
            )
    return traces


def remedy(context: Context, family: str, *, is_used: bool) -> str:
    """The commands after which a model is gone: a champion is replaced first."""
    purge = context.command("erase --purge")
    if not is_used:
        return purge
    return " && ".join([*(context.command(f"{verb} {family}") for verb in ("train", "promote", "deploy")), purge])


def models_by_family(context: Context, families: Collection[Family]) -> tuple[dict[str, list[Model]], str | None]:
    """The models of families whose data have users, and why those of the tracking server are missing, if they are."""
    found: dict[str, list[Model]] = {}
    for family in families:
        found[family.name] = []
        try:
            for model in models_of(context, family):
                found[family.name].append(model)
        except DependencyDown as error:
            return found, str(error)
    return found, None


def fingerprint_in(directory: Path) -> str | None:
    """The fingerprint of the data that a bundle was trained on; None if it cannot be read."""
    found = _schema(directory / SCHEMA).get("fingerprint")
    return str(found) if found else None


def _schema(path: Path) -> dict[str, object]:
    try:
        return read_json(path)
    except (BundleRejected, OSError):
        return {}


def _config(context: Context) -> dict[str, object] | None:
    try:
        return read_config(config_path(context.store))
    except Failure:
        return None
