"""The steps of `prepare` that run in parallel on parts or shards; the files do not depend on the number of workers."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from models.image.codec import PictureRejected, Pixels, decode, fit, read_header
from models.image.prepare.item_labels import TITLE
from models.image.prepare.sources import Entry, Part
from models.image.schema import MISSING, SPLITS
from models.image.text.titles import MAX_PHRASES
from models.raw.quarantine import Quarantine

ROWS_PER_FLUSH = 10_000
BLOCK = 256
"""Images of a shard in memory at once."""

PHRASES = "_phrases"
"""Column of the intermediate tables, if the shop has titles: the phrases of TITLE in the vocabulary."""

Int64s = npt.NDArray[np.int64]


@dataclass
class Measured:
    """Statistics of the image headers of a part."""

    longer_sides: Counter[int] = field(default_factory=Counter)
    """Longer side in pixels -> number of images; valid headers only."""
    is_grey: bool = True


@dataclass(frozen=True)
class Scan:
    """One part of the input, to be decoded."""

    number: int
    part: Part
    heads: tuple[str, ...]
    size: int
    channels: int
    out: Path


@dataclass
class Scanned:
    """Counts of a scan."""

    num_entries: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    """Reason -> the first value or file rejected for it."""
    missing_words: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Label head and word -> number of valid images whose label is missing because of that word, such as `None`."""

    def explained(self) -> dict[str, str]:
        """Each reason of bad images with its example."""
        return {reason: f"{reason}, e.g. {example}" for reason, example in self.examples.items()}


@dataclass(frozen=True)
class Written:
    """Statistics of a written shard; the sums by channel are over its labelled training images."""

    digest: str
    sums: Int64s
    squares: Int64s
    num_train_pixels: int


def measure(part: Part) -> Measured:
    """Read the header of every image of a part."""
    seen = Measured()
    for entry in part.entries():
        if entry.image is None:
            continue
        if isinstance(entry.image, bytes):
            try:
                header = read_header(entry.image)
            except PictureRejected:
                continue
            side, is_grey = max(header.width, header.height), header.is_grey
        else:
            side, is_grey = max(entry.image.shape[:2]), entry.image.ndim == 2
        seen.longer_sides[side] += 1
        seen.is_grey &= is_grey
    return seen


def scan(task: Scan) -> Scanned:
    """Decode a part: valid images go to a file of pixels and a table of metadata, bad ones to quarantine."""
    seen = Scanned()
    work, name = task.out / "work", f"{task.number:05d}"
    schema = pa.schema(
        [(column, pa.string()) for column in ("digest", "item_id", "split", "source", TITLE, *task.heads)]
        + [("place", pa.int64())]
    )
    with (
        Quarantine(task.out / "quarantine" / f"{name}.parquet") as quarantine,
        (work / f"{name}.bin").open("wb") as pixels,
        pq.ParquetWriter(work / f"{name}.parquet", schema) as known,
    ):
        rows: list[dict[str, object]] = []
        place = 0
        for entry in task.part.entries():
            seen.num_entries += 1
            try:
                content = _decoded(entry, task).tobytes()
            except PictureRejected as rejected:
                _reject(entry, rejected, seen, quarantine)
                continue
            pixels.write(content)
            seen.missing_words.update(entry.missing_words.items())
            about = {"item_id": entry.item_id, "split": entry.split, "source": entry.source, "place": place}
            rows.append({"digest": hashlib.sha256(content).hexdigest(), TITLE: entry.title, **about, **entry.labels})
            place += 1
            if len(rows) == ROWS_PER_FLUSH:
                known.write_table(pa.Table.from_pylist(rows, schema))
                rows.clear()
        known.write_table(pa.Table.from_pylist(rows, schema))
    return seen


def merged(parts: Iterable[Scanned]) -> Scanned:
    """The counts of all parts, with the first example of each reason."""
    whole = Scanned()
    for part in parts:
        whole.num_entries += part.num_entries
        whole.bad += part.bad
        whole.examples = {**part.examples, **whole.examples}
        whole.missing_words += part.missing_words
    return whole


def quarantine_duplicates(out: Path, repeated: pd.DataFrame) -> None:
    """Write the dropped duplicates to quarantine."""
    with Quarantine(out / "quarantine" / "duplicates.parquet") as quarantine:
        for source, rows in repeated.groupby("source", sort=True):
            table = pa.Table.from_pandas(rows[["digest", "item_id"]], preserve_index=False)
            quarantine.add_rows(table, reasons=pa.array(["duplicate"] * len(rows)), source=str(source))


def write_shard(out: Path, shard: int, *, form: tuple[int, int, int], num_heads: int) -> Written:
    """Write a shard according to the plan, with pixels from all scans."""
    work, directory = out / "work", out / "shards" / f"{shard:05d}"
    plan = pd.read_parquet(work / "plan" / f"{shard:05d}.parquet")
    directory.mkdir(parents=True, exist_ok=True)  # the task may be a retry after a lost worker
    labels = plan.iloc[:, -num_heads:].to_numpy(np.int16)
    is_labelled = (labels != MISSING).any(axis=1)
    np.save(directory / "labels.npy", labels)
    for split in SPLITS:
        np.save(directory / f"{split}.npy", np.flatnonzero((plan["split"] == split) & is_labelled))
    titled = TITLE in plan
    if titled:
        phrases = np.array(plan[PHRASES].tolist(), np.int16).reshape(-1, MAX_PHRASES + 1)
        np.save(directory / "titles.npy", phrases)
    names = {"digest": "picture_id", "item_id": "item_id", "source": "source", "split": "split"}
    names |= {TITLE: "title"} if titled else {}
    ids = pa.Table.from_pandas(plan[list(names)], preserve_index=False).rename_columns(list(names.values()))
    pq.write_table(ids, directory / "ids.parquet", compression="zstd")
    trained = np.flatnonzero((plan["split"] == "train") & is_labelled)
    sums, squares = _write_images(directory / "pictures.npy", plan, work, form=form, trained=set(trained.tolist()))
    return Written(_digest(plan), sums, squares, len(trained) * form[1] * form[2])


def _decoded(entry: Entry, task: Scan) -> Pixels:
    if entry.problem is not None:
        raise PictureRejected(entry.problem, entry.detail or entry.problem.replace("_", " "))
    assert entry.image is not None
    if isinstance(entry.image, bytes):
        return decode(entry.image, size=task.size, channels=task.channels)
    return fit(entry.image, size=task.size, channels=task.channels)


def _reject(entry: Entry, rejected: PictureRejected, seen: Scanned, quarantine: Quarantine) -> None:
    seen.bad[rejected.reason] += 1
    seen.examples.setdefault(rejected.reason, _example(entry, str(rejected)))
    about = {"row": entry.row, "value": entry.value, "item_id": entry.item_id, "detail": str(rejected), **entry.labels}
    quarantine.add_rows(pa.Table.from_pylist([about]), reasons=pa.array([rejected.reason]), source=entry.source)


def _example(entry: Entry, detail: str) -> str:
    """The offending value, where it is, and what is wrong."""
    if entry.row is None:
        return f"{entry.value or entry.source} ({detail})"
    row = f"row {entry.row + 1:,}"
    name = PurePosixPath(entry.source).name
    return f"{entry.value} ({row} of {name}: {detail})" if entry.value else f"{row} of {name} ({detail})"


def _write_images(
    path: Path, plan: pd.DataFrame, work: Path, *, form: tuple[int, int, int], trained: set[int]
) -> tuple[Int64s, Int64s]:
    """Write the pixels in the order of the plan; returns sums and sums of squares by channel over training images."""
    scans = {
        number: np.memmap(work / f"{number:05d}.bin", np.uint8, "r").reshape(-1, *form)
        for number in plan["scan"].unique()
    }
    sums, squares = np.zeros(form[0], np.int64), np.zeros(form[0], np.int64)
    origins = list(zip(plan["scan"].tolist(), plan["place"].tolist(), strict=True))
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(plan), *form)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(plan), BLOCK):
            block = np.stack([scans[number][place] for number, place in origins[start : start + BLOCK]])
            file.write(block.tobytes())
            rows = [row for row in range(len(block)) if start + row in trained]
            wide = block[rows].astype(np.int64)
            sums += wide.sum(axis=(0, 2, 3))
            squares += (wide * wide).sum(axis=(0, 2, 3))
    return sums, squares


def _digest(plan: pd.DataFrame) -> str:
    """sha256 of the contents of a shard, independent of its source files."""
    rows = plan.drop(columns=["source", "scan", "place", PHRASES], errors="ignore").astype(object)
    lines = [json.dumps(row) for row in rows.where(rows.notna(), None).to_numpy().tolist()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
