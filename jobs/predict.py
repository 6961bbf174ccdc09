"""`shopkeeper predict FAMILY`: batch prediction for a table of requests or a folder of files; restartable by parts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.cli.context import EXIT_DATA_REJECTED, Context, Failure, Outcome, UsageFailure, log
from jobs.cli.flags import UNSPLIT, check_at_least
from jobs.cluster import connection
from jobs.prediction import working_directory
from jobs.prediction.answer_table import ERROR, Recipe, TableAnswerer
from jobs.prediction.input_table import STAGED, Columns, Input, find_columns, find_input
from jobs.prediction.output_table import (
    FORMATS,
    Layout,
    Shape,
    output_names,
    shape_of,
    write_directory,
    write_tables,
)
from jobs.prediction.parts import Part, read_part
from jobs.prediction.recipe import live_features, recipe_of
from jobs.prediction.settings import parse_settings
from jobs.tracking.client import Tracking
from jobs.tracking.model_uri import LocatedModel, locate_model
from jobs.tracking.registry import champion_uri
from jobs.training.placement import Nodes
from models import bundle
from models.erasure.tombstones import Tombstones
from models.family import Family
from models.features import FeatureStore, filled
from models.files import put_directory, put_file, real_path, replace_file, write_text
from models.json_files import read_json
from models.raw.reading import AUTO, Format, Header, Reading

PLAN_KEY, COUNTS_KEY = b"shopkeeper.plan", b"shopkeeper.counts"
"""Metadata entries with the plan's key and the counts in a finished Parquet file."""
MERGED, LONG = "_merged", "_long"
"""File and directory in the working directory that become the output."""
MAX_REASONS = 5
QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
"""Values in a message, which are left out where reasons are counted."""


class EveryRowFailed(Failure):
    """No row of the input has an answer; the output is written, with the reason of each row."""

    exit_code = EXIT_DATA_REJECTED


@dataclass(frozen=True)
class Options:
    """The input, the output and the model."""

    input: str
    """A table that `prepare` reads, or a folder of them: CSV, TSV, JSON lines or Parquet, compressed or not, or a URI.
    Its columns are fields of the request. For a family whose request is a file, such as an image, also a folder of
    files, or a table with their paths."""
    output: str
    """File or directory to write: the name ends with .parquet, .csv or .jsonl, or is that of a directory, for
    Parquet files."""
    columns: str = ""
    """Columns with other names than the fields of the request, e.g. user_id=CustomerID."""
    keys: tuple[str, ...] = ()
    """Columns to copy to the output; all of them if unset."""
    layout: Layout = "auto"
    """nested: a row for each request, with lists; long: a row for each element of the answer's list, such as each
    recommended item, with its rank. auto is long for CSV, which has no lists, else nested."""
    format: Format = "auto"
    """File format of the input; auto goes by the file extension."""
    encoding: str = AUTO
    """Encoding of the input, e.g. cp1252, gb18030 or utf-16; auto is UTF-8, or UTF-16 where the first bytes show it."""
    header: Header = "auto"
    """Whether CSV and TSV files have a header row; auto infers it and says so if there is none. Then the columns are
    column1, column2, ..."""
    model: str | None = None
    """runs:/RUN_ID, models:/FAMILY@ALIAS, models:/FAMILY/VERSION or a directory; default is the champion."""
    set: tuple[str, ...] = dataclasses.field(default=(), metadata=UNSPLIT)
    """Fields for every request, such as count=20 or filter={"price":{"max":20}}."""
    batch_size: int = 256
    """Requests per forward pass."""
    workers: int = 1
    """Processes; more than 1 run on the cluster."""

    def __post_init__(self) -> None:
        check_at_least(self, batch_size=1, workers=1)
        # Both raise ValueError, for what is no NAME=VALUE and for an unknown encoding.
        _ = self.fields, self.reading

    @property
    def fields(self) -> dict[str, Any]:
        """The fields for every request."""
        return {name: value for text in self.set for name, value in parse_settings(text)}

    @property
    def reading(self) -> Reading:
        """How to read the input."""
        return Reading(self.format, self.encoding, self.header)


@dataclass(frozen=True)
class RowCounts:
    """Number of rows, and of errors by reason."""

    num_rows: int
    errors: Mapping[str, int]

    @property
    def num_errors(self) -> int:
        """Rows without an answer."""
        return sum(self.errors.values())


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
        answers = self._answerer.answer(read_part(part))
        with replace_file(self._directory / part.file_name) as temporary:
            pq.write_table(answers, temporary)


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Answer every row; raises UsageFailure if the columns do not fit a request, DataRejected for a damaged file.

    Raises EveryRowFailed, after the output is written, if there are rows and none has an answer.
    """
    assert family is not None
    started = time.monotonic()
    given = find_input(family, options.input, reading=options.reading)
    _check_apart(given, options)
    shape = shape_of(Path(options.output), options.layout, family.endpoints[0].Response)
    names = output_names(family.endpoints[0].Response, shape)
    columns = find_columns(family, given, mapping=options.columns, keys=options.keys, output=names)
    tracking = Tracking(context)
    tracking.deliver_spool()
    located = locate_model(context, options.model or champion_uri(family.name), tracking=tracking)
    key = plan_key(context, family, located, options, given=given)
    output = real_path(Path(options.output))
    details: dict[str, Any] = {"model": located.uri, "output": str(Path(options.output).absolute())}
    if _key_of(output) == key:
        log.info("%s is up to date for this model and input", output)
        working_directory.remove_stale(output, key)
        counts = _stored_counts(output)
        if counts is None:
            return Outcome(status="unchanged", run_id=located.run_id, details=details)
        return _outcome(located, counts, details, status="unchanged")
    recipe = make_recipe(context, family, located, options, columns=columns)
    with working_directory.opened(output, key) as directory:
        parts = given.parts(directory)
        missing = [part for part in parts if not (directory / part.file_name).is_file()]
        if len(missing) < len(parts):
            log.info("%d of %d parts are already done", len(parts) - len(missing), len(parts))
        _answer_parts(context, recipe, parts, missing=missing, directory=directory, num_workers=options.workers)
        counts = _count(directory, parts)
        files = [directory / part.file_name for part in parts]
        _publish(directory, files, output, shape=shape, key=key, counts=counts)
    seconds = time.monotonic() - started
    details |= {"parts": len(parts), "parts_skipped": len(parts) - len(missing)}
    return _outcome(located, counts, details, status="ok", rows_per_s=counts.num_rows / seconds)


def _check_apart(given: Input, options: Options) -> None:
    """Raise UsageFailure if the output would replace the input, or be a part of it the next time."""
    if "://" in options.input:
        return
    source, output = Path(options.input).expanduser().resolve(), real_path(Path(options.output)).resolve()
    if source == output or output in source.parents:
        raise UsageFailure(f"--output {options.output} would replace the input {options.input}; name another")
    if source in output.parents and given.raw is None:
        raise UsageFailure(
            f"--output {options.output} is in the folder {options.input}, whose tables are all read; name another"
        )


def _outcome(
    located: LocatedModel, counts: RowCounts, details: dict[str, Any], *, status: str, **metrics: float
) -> Outcome:
    """The outcome with the counts; raises EveryRowFailed if no row has an answer."""
    numbers: dict[str, float] = {"rows": counts.num_rows, "errors": counts.num_errors, **metrics}
    reasons = dict(list(counts.errors.items())[:MAX_REASONS])
    if others := counts.num_errors - sum(reasons.values()):
        reasons["other reasons"] = others
    details = {**details, "error_reasons": reasons}
    if counts.num_rows and counts.num_errors == counts.num_rows:
        listed = "; ".join(f"{number} x {reason}" for reason, number in reasons.items())
        raise EveryRowFailed(
            f"none of the {counts.num_rows} rows has an answer: {listed}; {details['output']} has the reason of each",
            **{**details, "run_id": located.run_id, "metrics": numbers},
        )
    return Outcome(status, located.run_id, numbers, details)


def make_recipe(
    context: Context, family: Family, located: LocatedModel, options: Options, *, columns: Columns
) -> Recipe:
    """What workers need for the flags of `predict`."""
    fixed = _fixed(family, options)
    return recipe_of(context, family, located, columns=columns, fixed=fixed, batch_size=options.batch_size)


def plan_key(context: Context, family: Family, located: LocatedModel, options: Options, *, given: Input) -> str:
    """A hash of everything the answers depend on: model, input files, features and settings."""
    path = live_features(context, family)
    erased = Tombstones(context.store.tombstones).erased()
    facts = {
        "model": bundle.verify(located.directory),
        "version": located.name,
        "data": context.store.current_data(family.name).name if filled(family.features) else None,
        **({"live_features": FeatureStore(path, read_only=True).state()} if path else {}),
        **({"erased": sorted((one.hex(), until_s) for one, until_s in erased.until_s.items())} if erased else {}),
        "features": [each.name for each in family.features],
        "set": options.fields,
        "input": given.digests(),
        "reading": [options.format, options.encoding, options.header],
        "columns": options.columns,
        "keys": options.keys,
        "layout": options.layout,
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
    if not Nodes.of_cluster().slots(1):
        raise UsageFailure("the cluster has no CPU to predict with; use --workers 1 to predict in this process")
    ray.data.DataContext.get_current().enable_progress_bars = False
    numbers = ray.data.from_items([{"number": part.number} for part in missing], override_num_blocks=len(missing))
    # With min_size=1 the pool starts even if the cluster has fewer free CPUs than workers.
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=min(num_workers, len(missing)))
    numbers.map_batches(
        PartAnswerer, batch_size=1, compute=pool, num_cpus=1, fn_constructor_args=(recipe, list(parts), directory)
    ).materialize()


def _publish(
    directory: Path, files: Sequence[Path], output: Path, *, shape: Shape, key: str, counts: RowCounts
) -> None:
    """Publish the parts atomically; a reader sees the old output or the new one."""
    if shape.format == "directory":
        finished = directory
        if shape.lists:
            finished = directory / LONG
            write_directory(files, finished, shape)
        (directory / STAGED).unlink(missing_ok=True)
        write_text(finished / working_directory.PLAN, json.dumps({"plan": key, "counts": dataclasses.asdict(counts)}))
        put_directory(finished, output)
        (output / working_directory.LOCK).unlink(missing_ok=True)
    else:
        merged = directory / MERGED
        metadata = {PLAN_KEY: key.encode(), COUNTS_KEY: json.dumps(dataclasses.asdict(counts)).encode()}
        write_tables((pq.read_table(file) for file in files), merged, shape, metadata=metadata)
        put_file(merged, output)
    if directory.is_dir():
        shutil.rmtree(directory)


def _key_of(output: Path) -> str | None:
    """The key of the plan that produced `output`; raises UsageFailure for a directory that predict did not write.

    A CSV or JSON lines file has none, so it is written again.
    """
    if output.is_file():
        return str(_metadata(output).get(PLAN_KEY, b""), "utf-8")
    if output.is_dir():
        key = working_directory.plan_of(output)
        is_file_name = output.suffix.lower() in FORMATS and output.suffix
        if is_file_name or (not key and any(output.iterdir())):
            raise UsageFailure(f"{output} is a directory that predict did not write; name another --output")
        return key
    return None


def _stored_counts(output: Path) -> RowCounts | None:
    """The counts of a finished output; None if an earlier release wrote it."""
    if output.is_file():
        found = json.loads(_metadata(output).get(COUNTS_KEY, b"null"))
    else:
        found = read_json(output / working_directory.PLAN).get("counts")
    return RowCounts(**found) if found else None


def _metadata(output: Path) -> Mapping[bytes, bytes]:
    try:
        return pq.read_schema(output).metadata or {} if output.suffix == ".parquet" else {}
    except pa.ArrowInvalid:
        return {}


def _fixed(family: Family, options: Options) -> dict[str, Any]:
    """The fields for every request; raises UsageFailure for one that a request does not have."""
    known = family.endpoints[0].Request.model_fields
    for name in options.fields:
        if name not in known:
            raise UsageFailure(f"--set {name}=...: a request has no field {name!r}; it has {', '.join(sorted(known))}")
    return options.fields


def _count(directory: Path, parts: Sequence[Part]) -> RowCounts:
    errors: Counter[str] = Counter()
    num_rows = 0
    for reasons in _reasons(directory, parts):
        num_rows += len(reasons)
        errors.update(QUOTED.sub("'...'", reason) for reason in reasons if reason is not None)
    return RowCounts(num_rows, dict(errors.most_common()))


def _reasons(directory: Path, parts: Sequence[Part]) -> Iterator[list[str | None]]:
    for part in parts:
        yield pq.read_table(directory / part.file_name, columns=[ERROR]).column(ERROR).to_pylist()
