"""`shopkeeper predict FAMILY`: batch prediction for a table of requests or a folder of files; restartable by parts."""

from __future__ import annotations

import atexit
import hashlib
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.cli.context import Context, Outcome, UsageFailure, is_writable, log
from jobs.cli.flags import check_at_least
from jobs.cluster import connection
from jobs.prediction import working_directory
from jobs.prediction.answer_table import ERROR, Recipe, TableAnswerer, answer_schema
from jobs.tracking.client import Tracking
from jobs.tracking.model_uri import LocatedModel, locate_model
from jobs.tracking.registry import champion_uri
from models import bundle
from models.errors import DataRejected
from models.family import Family, RawBody
from models.features import FeatureStore, filled, live, write_store
from models.files import put_directory, put_file, real_path, replace_file, sha256

ROWS_PER_PART = 10_000
FILES_PER_PART = 200
"""Smaller, since files are larger than rows and a part is held in memory."""
FILE = "file"
"""Output column for a folder of files: the path relative to the folder."""
PLAN_KEY = b"shopkeeper.plan"
"""Metadata entry with the plan's key in a finished output file."""
PARQUET = ".parquet"
MERGED = "_merged.parquet"
"""File in the working directory that becomes the output file."""
MAX_REASONS = 5


@dataclass(frozen=True)
class Options:
    """The input, the output and the model."""

    input: str
    """Parquet file or directory; its columns are fields of the request, and others are copied to the output. For a
    family whose request is a file, such as an image, also a folder of files."""
    output: str
    """Parquet file (name ends with .parquet) or directory to write."""
    model: str | None = None
    """runs:/RUN_ID, models:/FAMILY@ALIAS, models:/FAMILY/VERSION or a directory; default is the champion."""
    set: tuple[str, ...] = ()
    """Fields for every request, such as count=20."""
    batch_size: int = 256
    """Requests per forward pass."""
    workers: int = 1
    """Processes; more than 1 run on the cluster."""

    def __post_init__(self) -> None:
        check_at_least(self, batch_size=1, workers=1)
        for entry in self.set:
            if "=" not in entry:
                raise ValueError(f"--set {entry!r} is not NAME=VALUE, such as count=20")


@dataclass(frozen=True)
class Part:
    """A unit of work: rows of the input whose answers go to one file."""

    number: int
    path: Path
    row_group: int
    start: int
    num_rows: int
    files: tuple[str, ...] = ()
    """For a folder of files: their paths relative to `path`."""
    raw: RawBody | None = None
    """How each of these files becomes a request."""

    @property
    def file_name(self) -> str:
        """Name of the output file; sorts in the order of the input."""
        return f"part-{self.number:05d}.parquet"


@dataclass(frozen=True)
class RowCounts:
    """Number of rows, and of errors by reason."""

    num_rows: int
    errors: Counter[str]


class PartAnswerer:
    """Answers parts and writes each atomically; one per process."""

    def __init__(self, recipe: Recipe, parts: Sequence[Part], directory: Path) -> None:
        self._answerer = TableAnswerer(recipe)
        self._parts = parts
        self._directory = directory

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Answer the parts with these numbers; called by Ray Data."""
        for number in batch["number"]:
            self.write(self._parts[int(number)])
        return batch

    def write(self, part: Part) -> None:
        """Answer one part."""
        answers = self._answerer.answer(_read(part))
        with replace_file(self._directory / part.file_name) as temporary:
            pq.write_table(answers, temporary)


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Answer every row; raises UsageFailure if the columns do not fit a request, DataRejected for a damaged file."""
    assert family is not None
    started = time.monotonic()
    source = Path(options.input)
    files = _input_files(family, source)
    raw = family.endpoints[0].raw
    if raw is not None and source.is_dir() and files[0].suffix != PARQUET:
        parts = plan_files(source.absolute(), files, raw)
    else:
        _check_columns(family, files)
        parts = plan_parts(files)
    tracking = Tracking(context)
    tracking.deliver_spool()
    located = locate_model(context, options.model or champion_uri(family.name), tracking=tracking)
    key = plan_key(context, family, located, options)
    output = real_path(Path(options.output))
    details = {"model": located.uri, "output": str(Path(options.output).absolute()), "parts": len(parts)}
    if _key_of(output) == key:
        log.info("%s is up to date for this model and input", output)
        working_directory.remove_stale(output, key)
        return Outcome(status="unchanged", run_id=located.run_id, details=details)
    with working_directory.opened(output, key) as directory:
        missing = [part for part in parts if not (directory / part.file_name).is_file()]
        if len(missing) < len(parts):
            log.info("%d of %d parts are already done", len(parts) - len(missing), len(parts))
        recipe = make_recipe(context, family, located, options)
        _answer_parts(context, recipe, parts, missing=missing, directory=directory, num_workers=options.workers)
        done = _count(directory, parts)
        _publish(directory, parts, output, key)
    seconds = time.monotonic() - started
    return Outcome(
        run_id=located.run_id,
        metrics={"rows": done.num_rows, "errors": done.errors.total(), "rows_per_s": done.num_rows / seconds},
        details={
            **details,
            "parts_skipped": len(parts) - len(missing),
            "error_reasons": dict(done.errors.most_common(MAX_REASONS)),
        },
    )


def plan_parts(files: Sequence[Path]) -> list[Part]:
    """The parts of the input: its row groups, with large ones split."""
    parts: list[Part] = []
    for path in files:
        metadata = pq.read_metadata(path)
        for group in range(metadata.num_row_groups):
            size = metadata.row_group(group).num_rows
            for start in range(0, size, ROWS_PER_PART):
                parts.append(Part(len(parts), path, group, start, min(ROWS_PER_PART, size - start)))
    # An empty table gives an empty output.
    return parts or [Part(0, files[0], -1, 0, 0)]


def plan_files(folder: Path, files: Sequence[Path], raw: RawBody) -> list[Part]:
    """The parts of a folder in which each file is a request."""
    names = [str(file.absolute().relative_to(folder)) for file in files]
    groups = [tuple(names[start : start + FILES_PER_PART]) for start in range(0, len(names), FILES_PER_PART)]
    return [Part(number, folder, -1, 0, len(group), group, raw) for number, group in enumerate(groups)]


def make_recipe(context: Context, family: Family, located: LocatedModel, options: Options) -> Recipe:
    """What workers need; builds the feature store of the prepared data once per fingerprint."""
    features = _filled_features(context, family) if filled(family.features) else None
    return Recipe(
        family=family.name,
        model=located.directory,
        model_version=located.name,
        features=features,
        live_features=_live_features(context, family),
        fixed=dict(_setting(family, entry) for entry in options.set),
        batch_size=options.batch_size,
    )


def _live_features(context: Context, family: Family) -> Path | None:
    """The store of features that endpoints write, if a deployment has created one."""
    path = context.store.live_feature_store(family.name)
    return path if live(family.features) and path.is_file() else None


def _filled_features(context: Context, family: Family) -> Path:
    """The feature store of the current data, built once per fingerprint."""
    data = context.store.current_data(family.name)
    directory = context.store.root / family.name
    features = directory / f"features-{data.name}.sqlite"
    if not features.is_file() and not is_writable(directory):
        directory = Path(tempfile.mkdtemp(prefix="shop-"))
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        features = directory / features.name
    if not features.is_file():
        log.info("filling %s from the prepared data", features.name)
        write_store(features, family.features, data)
    return features


def plan_key(context: Context, family: Family, located: LocatedModel, options: Options) -> str:
    """A hash of everything the answers depend on: model, input files, features and settings."""
    path = _live_features(context, family)
    facts = {
        "model": bundle.verify(located.directory),
        "version": located.name,
        "data": context.store.current_data(family.name).name if filled(family.features) else None,
        **({"live_features": FeatureStore(path, read_only=True).state()} if path else {}),
        "set": sorted(options.set),
        "input": [sha256(path) for path in _input_files(family, Path(options.input))],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _answer_parts(
    context: Context,
    recipe: Recipe,
    parts: Sequence[Part],
    *,
    missing: Sequence[Part],
    directory: Path,
    num_workers: int,
) -> None:
    if not missing:
        return
    if num_workers == 1 or len(missing) == 1:
        answerer = PartAnswerer(recipe, parts, directory)
        for done, part in enumerate(missing, 1):
            answerer.write(part)
            log.info("answered part %d of %d", done, len(missing))
        return
    import ray.data

    connection.connect(context)
    if connection.resources().get("CPU", 0) < 1:
        raise UsageFailure("the cluster has no CPU to predict with; use --workers 1 to predict in this process")
    ray.data.DataContext.get_current().enable_progress_bars = False
    numbers = ray.data.from_items([{"number": part.number} for part in missing], override_num_blocks=len(missing))
    # With min_size=1 the pool starts even if the cluster has fewer free CPUs than workers.
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=min(num_workers, len(missing)))
    numbers.map_batches(
        PartAnswerer, batch_size=1, compute=pool, num_cpus=1, fn_constructor_args=(recipe, list(parts), directory)
    ).materialize()


def _publish(directory: Path, parts: Sequence[Part], output: Path, key: str) -> None:
    """Publish the parts atomically; a reader sees the old output or the new one."""
    if output.suffix == ".parquet":
        schema = pq.read_schema(directory / parts[0].file_name)
        schema = schema.with_metadata({**(schema.metadata or {}), PLAN_KEY: key.encode()})
        with pq.ParquetWriter(directory / MERGED, schema) as writer:
            for part in parts:
                writer.write_table(pq.read_table(directory / part.file_name).replace_schema_metadata(schema.metadata))
        put_file(directory / MERGED, output)
        shutil.rmtree(directory)
    else:
        put_directory(directory, output)
        (output / working_directory.LOCK).unlink(missing_ok=True)


def _key_of(output: Path) -> str | None:
    """The key of the plan that produced `output`; raises UsageFailure for a directory that predict did not write."""
    if output.is_file():
        try:
            return str((pq.read_schema(output).metadata or {}).get(PLAN_KEY, b""), "utf-8")
        except pa.ArrowInvalid:
            return None
    if output.is_dir() and any(output.iterdir()):
        key = working_directory.plan_of(output)
        if output.suffix == PARQUET or not key:
            raise UsageFailure(f"{output} is a directory that predict did not write; name another --output")
        return key
    return None


def _input_files(family: Family, path: Path) -> list[Path]:
    files = sorted(path.glob(f"*{PARQUET}")) if path.is_dir() else [path]
    if not files and family.endpoints[0].raw is not None:
        found = (file for file in path.rglob("*") if file.is_file() and file.suffix != PARQUET)
        files = sorted(file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts))
    if not files or not files[0].is_file():
        raise UsageFailure(f"there is no Parquet file at --input {path}; name a file or a directory of *.parquet")
    return [file.absolute() for file in files]


def _check_columns(family: Family, files: Sequence[Path]) -> None:
    first: pa.Schema | None = None
    for path in files:
        try:
            schema = pq.read_schema(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataRejected(
                f"{path} is not a readable Parquet file, and predict reads no other tables: {error}; "
                "convert it, or write it again"
            ) from None
        first = first or schema
        if not schema.equals(first):
            raise DataRejected(f"{path} and {files[0]} differ in columns or types; make them equal")
    assert first is not None
    endpoint = family.endpoints[0]
    known = set(endpoint.Request.model_fields)
    if not known & set(first.names):
        raise UsageFailure(
            f"no column of {files[0]} ({', '.join(first.names)}) is a field of a request: {', '.join(sorted(known))}"
        )
    clashing = sorted(set(first.names) & set(answer_schema(endpoint.Response).names))
    if clashing:
        raise UsageFailure(f"the column {clashing[0]!r} of {files[0]} has the name of an output column; rename it")
    if carried := [name for name in first.names if name not in known]:
        log.info("columns copied to the output: %s", ", ".join(carried))


def _setting(family: Family, entry: str) -> tuple[str, Any]:
    name, _, text = entry.partition("=")
    known = family.endpoints[0].Request.model_fields
    if name not in known:
        raise UsageFailure(f"--set {entry}: a request has no field {name!r}; it has {', '.join(sorted(known))}")
    try:
        return name, json.loads(text)
    except ValueError:
        return name, text


def _read(part: Part) -> pa.Table:
    if part.raw is not None:
        contents = [_read_file(part.path / name, part.raw) for name in part.files]
        return pa.table({FILE: list(part.files), part.raw.field: pa.array(contents, pa.binary())})
    file = pq.ParquetFile(part.path)
    if part.row_group < 0:
        return file.schema_arrow.empty_table()
    try:
        return file.read_row_group(part.row_group).slice(part.start, part.num_rows)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataRejected(f"{part.path} is damaged in row group {part.row_group}: {error}; write it again") from None


def _read_file(path: Path, raw: RawBody) -> bytes:
    """The content of a file; of one over the size limit, just enough to be rejected."""
    with path.open("rb") as file:
        return file.read(raw.max_bytes + 1)


def _count(directory: Path, parts: Sequence[Part]) -> RowCounts:
    errors: Counter[str] = Counter()
    num_rows = 0
    for reasons in _reasons(directory, parts):
        num_rows += len(reasons)
        errors.update(reason for reason in reasons if reason is not None)
    return RowCounts(num_rows, errors)


def _reasons(directory: Path, parts: Sequence[Part]) -> Iterator[list[str | None]]:
    for part in parts:
        yield pq.read_table(directory / part.file_name, columns=[ERROR]).column(ERROR).to_pylist()
