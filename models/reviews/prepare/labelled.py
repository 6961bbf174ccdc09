"""Labelled aspects of --aspects: read, checked, merged by sentence, and split so that no sentence is in two splits."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import DataRejected
from models.raw.encodings import decode
from models.raw.ids import refuse_nested
from models.raw.quarantine import Quarantine, check_bad, most_frequent
from models.raw.reading import reading_of
from models.raw.remedies import explain
from models.raw.tables import Chunk, Source, find_tables, read, without_secrets
from models.reviews.aspects.labelled import LABELLED, UNKNOWN, Sentence, as_table, polar_terms
from models.reviews.aspects.network import POLARITIES
from models.reviews.prepare.semeval import KEYS, LabelRow, read_semeval
from models.reviews.prepare.settings import PrepareConfig
from models.reviews.prepare.splits import digest_of, place_of
from models.reviews.schema import SPLITS
from models.reviews.text import LANGUAGES, language_of, normalise

NESTED = "aspect_terms"
"""A column of lists of terms, one row a sentence, in place of the columns of one term a row."""
NAMES = {
    "text": ("sentence", "review"),
    "term": ("aspect_term", "target"),
    "polarity": ("sentiment", "label"),
    "from": ("start",),
    "to": ("end",),
}
"""Our names of a table's columns, and the others that are found."""
CONFLICT = "conflict"
MIN_LANGUAGE_SHARE = 0.05
"""Of the training sentences, below which a language is an accident."""
_REMEDIES = {
    "missing_text": "each term needs the sentence that it is in",
    "bad_offset": "`from` and `to` are whole numbers: the first character, counted from 0, and the one after the last",
    "term_outside_text": "`from` and `to` count characters of the text as it is written, from 0",
    "term_not_at_its_offsets": "`from` and `to` count characters, not bytes, of the text as it is written",
    "unknown_polarity": f"write {', '.join(POLARITIES)} or {CONFLICT}",
}


@dataclass(frozen=True)
class Labels:
    """The labelled sentences of a shop, and what was counted when they were read."""

    sentences: list[Sentence] = field(default_factory=list)
    card: dict[str, Any] = field(default_factory=dict)


def read_labels(config: PrepareConfig, quarantine: Path) -> Labels:
    """The good labels of --aspects; bad ones go to the file `quarantine`. Raises DataRejected for unusable files."""
    if config.aspects is None:
        return Labels()
    source = without_secrets(config.aspects)
    bad, examples, num_rows = Counter[str](), dict[str, str](), 0
    spans: dict[str, dict[tuple[int, int], int]] = {}
    with Quarantine(quarantine) as file:
        for chunk in _chunks(config, config.aspects):
            num_rows += len(chunk.rows) + len(chunk.broken)
            file.add_lines(chunk.broken, reason="unreadable", source=chunk.source)
            faults = [_fault(row) for row in chunk.rows]
            wrong = [(row, fault) for row, fault in zip(chunk.rows, faults, strict=True) if fault]
            if wrong:
                rows = pa.Table.from_pylist([{key: _shown(value) for key, value in row.items()} for row, _ in wrong])
                file.add_rows(rows, reasons=pa.array([fault for _, fault in wrong]), source=chunk.source)
            for row, fault in wrong:
                examples.setdefault(fault, f"{row['term']} from {row['from']} to {row['to']}, {row['polarity']}")
            for row, fault in zip(chunk.rows, faults, strict=True):
                if not fault:
                    _add(spans.setdefault(row["text"], {}), row)
    bad.update(file.counts)
    if not num_rows:
        raise DataRejected(f"{source} is empty: it has no labelled aspects, see --aspects")
    explained = {
        reason: explain(reason, examples.get(reason), remedy=_REMEDIES.get(reason, ""))
        for reason, _ in most_frequent(bad)
    }
    limit = config.max_bad_fraction
    check_bad(source, bad, total=num_rows, max_fraction=limit, explained=explained, what="labelled aspects")
    found = [Sentence(text, tuple((*span, own[span]) for span in sorted(own))) for text, own in sorted(spans.items())]
    return Labels(found, {"raw": source, "rows": num_rows, "bad": dict(sorted(bad.items()))})


def write_labels(labels: Labels, out: Path, rule: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Split the sentences and write them; returns fields of the schema, what the card says, and a digest.

    A sentence with the text of a review is in the review's split, where that goes by the text. Raises DataRejected
    where the training split has no term with a polarity.
    """
    val, test = rule["fractions"]
    places = [place_of(digest_of(normalise(one.text).text), rule["split_seed"]) for one in labels.sentences]
    split = [SPLITS[2] if place < test else SPLITS[1] if place < test + val else SPLITS[0] for place in places]
    of_split = {name: [one for one, own in zip(labels.sentences, split, strict=True) if own == name] for name in SPLITS}
    if not polar_terms(of_split[SPLITS[0]]).labels:
        raise DataRejected(
            f"{labels.card['raw']}: the training sentences have no term with a polarity of {', '.join(POLARITIES)}; "
            "give more labelled sentences"
        )
    table = as_table(labels.sentences)
    pq.write_table(table.append_column("split", pa.array(split, pa.string())), out / LABELLED, compression="zstd")
    counts = {name: sum(len(one.terms) for one in some) for name, some in of_split.items()}
    card = {
        **labels.card,
        "sentences": {name: len(some) for name, some in of_split.items()},
        "terms": counts,
        "polarities": _polarities(labels.sentences),
    }
    fields = {"term_counts": counts, "term_languages": _languages(of_split[SPLITS[0]])}
    told = repr([(one.text, one.terms, own) for one, own in zip(labels.sentences, split, strict=True)])
    return fields, card, hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class _Chunk:
    source: str
    rows: list[LabelRow]
    broken: list[str] = field(default_factory=list)


def _chunks(config: PrepareConfig, raw: str) -> Iterator[_Chunk]:
    if raw.lower().endswith(".xml"):
        yield _Chunk(raw, read_semeval(Path(raw).expanduser()))
        return
    for source in find_tables(raw, reading_of(config)).sources:
        for chunk in read(source):
            broken = [line for lines in chunk.broken.values() for line in lines]
            yield _Chunk(source.path, _rows(chunk, source) if chunk.rows.num_rows else [], broken)


def _rows(chunk: Chunk, source: Source) -> list[LabelRow]:
    lower = {name.lower(): name for name in reversed(chunk.rows.column_names)}
    wanted = ("text", NESTED) if NESTED in lower else tuple(NAMES)
    columns = {ours: next((lower[one] for one in (ours, *NAMES.get(ours, ())) if one in lower), "") for ours in wanted}
    if missing := [ours for ours, theirs in columns.items() if not theirs]:
        raise DataRejected(
            f"{source.path} has no column {missing[0]!r}; its columns are: {', '.join(chunk.rows.column_names)}. "
            f"A table of labelled aspects needs {', '.join(NAMES)}, or text and {NESTED}; "
            "or give XML as SemEval-2014 has it"
        )
    if twice := [theirs for theirs in columns.values() if chunk.rows.column_names.count(theirs) > 1]:
        raise DataRejected(f"{source.path} has two columns {twice[0]!r}; rename or remove one of them")
    plain = {ours: theirs for ours, theirs in columns.items() if ours != NESTED}
    refuse_nested(chunk.rows, plain, flag="--aspects", source=source.path)
    values: dict[str, Any] = {ours: _as_written(chunk.rows[theirs]) for ours, theirs in plain.items()}
    if NESTED in columns:
        values[NESTED] = chunk.rows[columns[NESTED]]
    found = pa.table(values).to_pylist()
    if NESTED not in columns:
        return list(found)
    return [
        {"text": row["text"], **{key: term.get(key) for key in KEYS}} for row in found for term in _terms(row, source)
    ]


def _as_written(column: pa.ChunkedArray) -> pa.Array:
    """A column with its text unchanged, blanks included, so that offsets are right; files of text have bytes."""
    values = column.combine_chunks()
    return decode(values)[0] if pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type) else values


def _terms(row: LabelRow, source: Source) -> Sequence[dict[str, Any]]:
    terms = row[NESTED] or [{}]
    if not isinstance(terms, list) or not all(isinstance(one, dict) for one in terms):
        raise DataRejected(f"{source.path}: {NESTED} {str(terms)[:80]!r} is not a list of {', '.join(KEYS)}")
    return terms


def _fault(row: LabelRow) -> str:
    """What is wrong with a row, empty if nothing is."""
    text, term, polarity = row["text"], row["term"], row["polarity"]
    if not isinstance(text, str) or not text.strip():
        return "missing_text"
    if all(row[key] in (None, "") for key in KEYS):
        return ""
    start, end = _whole(row["from"]), _whole(row["to"])
    if start is None or end is None:
        return "bad_offset"
    if not 0 <= start < end <= len(text):
        return "term_outside_text"
    if term not in (None, "") and text[start:end] != term:
        return "term_not_at_its_offsets"
    known = (*POLARITIES, CONFLICT, "")
    return "" if str(polarity or "").strip().lower() in known else "unknown_polarity"


def _add(spans: dict[tuple[int, int], int], row: LabelRow) -> None:
    """Add the term of a good row to those of its sentence; one with two polarities is left without."""
    start, end = _whole(row["from"]), _whole(row["to"])
    if start is None or end is None:
        return
    said = str(row["polarity"] or "").strip().lower()
    polarity = POLARITIES.index(said) if said in POLARITIES else UNKNOWN
    before = spans.get((start, end), polarity)
    spans[start, end] = polarity if before == polarity else UNKNOWN


def _whole(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() else None


def _shown(value: Any) -> str | None:
    return None if value is None else str(value)


def _polarities(sentences: Sequence[Sentence]) -> dict[str, int]:
    counts = Counter(polarity for one in sentences for _, _, polarity in one.terms)
    return {**{name: counts[number] for number, name in enumerate(POLARITIES)}, "none or conflict": counts[UNKNOWN]}


def _languages(sentences: Sequence[Sentence]) -> list[str]:
    counts = Counter(language_of(normalise(one.text).text) for one in sentences)
    return [name for name in LANGUAGES if counts[name] > MIN_LANGUAGE_SHARE * len(sentences)]
