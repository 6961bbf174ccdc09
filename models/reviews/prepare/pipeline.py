"""From raw reviews to prepared data: checked, labelled, split by text, sharded, fingerprinted."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from models.erasure.erased import NOBODY, REASON, Erased
from models.errors import DataRejected
from models.prepared import CARD, SCHEMA
from models.raw.notes import said_if_rejected
from models.raw.quarantine import Quarantine, check_bad, most_frequent
from models.raw.reading import reading_of
from models.raw.remedies import explain
from models.raw.tables import Source, find_tables, without_secrets
from models.reviews.aspects.reading import FILE, read_lexicon
from models.reviews.prepare.labelled import Labels, read_labels, write_labels
from models.reviews.prepare.labels import classes_of
from models.reviews.prepare.rows import Rows, of_mask, read_rows
from models.reviews.prepare.settings import PrepareConfig, check_flags, held_out
from models.reviews.prepare.splits import UNUSED, assign, check_classes, digest_of, mark_unlabelled
from models.reviews.schema import CLASSES, NUM_SHARDS, SPLITS, UNLABELLED, WITHOUT_CLASS, Schema
from models.reviews.text import LANGUAGES, codes_of, language_of, normalise

LAYOUT = 2
"""Part of the fingerprint; incremented when the files or a rule of this package change."""
CONTRADICTION = "label_contradicts_rating"
RULE = ("split", "split_seed", "hold_out", "fractions", "max_chars")
"""Fields of the schema that say how texts are split."""
STORED = ("text", "product_id", "user_id", "time_us", "rating", "category", "aspects")


@dataclass(frozen=True)
class Aspects:
    """What a shop says of aspects itself."""

    words: str
    """The text of its file of words, empty without."""
    labels: Labels


_REMEDIES = {
    "mojibake": "the text was read in a wrong encoding before it was written: export it as UTF-8",
    "nul_character": "remove the characters NUL",
    "bad_rating": "ratings are numbers from 1 on, see --rating-max",
    CONTRADICTION: "a positive label with a rating below the middle, or the reverse",
}


def prepare(config: PrepareConfig, out: Path, executor: Executor, erased: Erased = NOBODY) -> Schema:
    """Fill the empty directory `out` from raw reviews; raises DataRejected for bad data, ValueError for bad flags.

    Everything depends on the set of good rows alone. Without the reviews of erased users.
    """
    check_flags(config)
    lexicon = "" if config.lexicon is None else read_lexicon(Path(config.lexicon).expanduser())
    quarantine = out / "quarantine"
    quarantine.mkdir(parents=True)
    tables = find_tables(config.raw, reading_of(config, format=config.format))
    paths = [quarantine / f"{number:05d}.parquet" for number in range(len(tables.sources))]
    labels = read_labels(config, quarantine / "aspects.parquet")
    read = partial(_read, config, time.time(), erased)
    rows = _merged(list(executor.map(read, tables.sources, paths)))
    source = without_secrets(config.raw)
    notes = [*tables.notes(config.raw), *dict.fromkeys(rows.notes)]
    with said_if_rejected(notes):
        table, classes = _labelled(rows, config, quarantine / "labels.parquet", source)
        card = _counted(rows, config, source)
        rule = {
            "split": config.split,
            "split_seed": config.split_seed,
            "hold_out": held_out(config),
            "fractions": [config.val_fraction, config.test_fraction],
            "max_chars": config.max_chars,
        }
        return finish(table, classes, out, rule=rule, card=card, notes=notes, aspects=Aspects(lexicon, labels))


def finish(
    table: pa.Table,
    classes: npt.NDArray[np.int8],
    out: Path,
    *,
    rule: dict[str, Any],
    card: dict[str, Any],
    notes: list[str],
    aspects: Aspects,
) -> Schema:
    """Split good rows with their classes, and write shards, schema, card, the shop's words and labels for aspects."""
    frame = table.to_pandas()
    frame["class"] = classes
    num_rows = len(frame)
    frame = frame.drop_duplicates(ignore_index=True)
    frame["plain"] = [normalise(text).text for text in frame["text"]]
    frame["digest"] = [digest_of(text) for text in frame["plain"]]
    frame["language"] = [LANGUAGES.index(language_of(text)) for text in frame["plain"]]
    frame = assign(frame, rule)
    used = {split: frame["class"][frame["split"] == split] for split in SPLITS}
    counts = {split: np.bincount(found, minlength=len(CLASSES)) for split, found in used.items()}
    check_classes(CLASSES, counts, card["raw"])
    names = [name for name, count in zip(CLASSES, counts["train"], strict=True) if count]
    frame.loc[frame["class"].map(lambda code: code >= 0 and CLASSES[code] not in names), "split"] = UNUSED
    codes = np.array([names.index(name) if name in names else UNLABELLED for name in CLASSES] + [UNLABELLED], np.int8)
    frame["class"] = codes[frame["class"].to_numpy()]
    mark_unlabelled(frame, rule)
    digests = [_write_shard(out, frame[frame["shard"] == number], number) for number in range(NUM_SHARDS)]
    schema, told = _with_aspects(_schema(frame, names, rule), aspects, digests, out, rule)
    card |= _card(frame, schema, num_duplicates=num_rows - len(frame)) | told
    card["notes"] = [*notes, *notes_of(card)]
    (out / SCHEMA).write_text(schema.model_dump_json(), encoding="utf-8")
    (out / CARD).write_text(json.dumps(card, indent=1, ensure_ascii=False), encoding="utf-8")
    return schema


def _with_aspects(
    schema: Schema, aspects: Aspects, digests: list[str], out: Path, rule: dict[str, Any]
) -> tuple[Schema, dict[str, Any]]:
    """Write the shop's words and labels; returns the schema with its fingerprint, and what the card says of labels."""
    (out / FILE).write_text(aspects.words, encoding="utf-8")
    told, digest = dict[str, Any](), ""
    if aspects.labels.sentences:
        fields, said, digest = write_labels(aspects.labels, out, rule)
        schema, told = schema.model_copy(update=fields), {"labelled_aspects": said}
    content = [LAYOUT, schema.model_dump(mode="json"), digests, aspects.words, digest]
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return schema.model_copy(update={"fingerprint": fingerprint}), told


def notes_of(card: dict[str, Any]) -> list[str]:
    """What people are told of the reviews."""
    notes = [f"{count:,} reviews are {what}" for what, count in card["special"].items()]
    if card["repeated_texts"]:
        notes.append(f"{card['repeated_texts']:,} labelled reviews repeat the text of another, which counts once")
    if card["texts_with_several_classes"]:
        notes.append(
            f"{card['texts_with_several_classes']:,} texts have several classes: trained on by their shares, "
            "not tested on"
        )
    if card["unlabelled"]:
        notes.append(f"{card['unlabelled']:,} reviews have no class, and are not trained on")
    if labelled := card.get("labelled_aspects"):
        terms, num_bad = sum(labelled["terms"].values()), sum(labelled["bad"].values())
        notes.append(
            f"{terms:,} labelled aspects in {sum(labelled['sentences'].values()):,} sentences; {num_bad:,} are in "
            "quarantine"
        )
    if card.get("pretraining_texts"):
        notes.append(
            f"{card['pretraining_texts']:,} texts without a class can be pretrained on: train --pretrain-epochs"
        )
    notes.append("languages: " + ", ".join(f"{count:,} {name}" for name, count in card["languages"].items()))
    return notes


def _read(config: PrepareConfig, now_s: float, erased: Erased, source: Source, quarantine: Path) -> Rows:
    return read_rows(config, source, quarantine, now_s=now_s, erased=erased)


def _merged(parts: Sequence[Rows]) -> Rows:
    whole = Rows(table=pa.concat_tables([Rows().table, *(part.table for part in parts)]))
    for part in parts:
        whole.num_rows += part.num_rows
        whole.num_erased += part.num_erased
        whole.bad += part.bad
        whole.counts += part.counts
        whole.examples = {**part.examples, **whole.examples}
        whole.samples = {**part.samples, **whole.samples}
        whole.columns |= part.columns
        whole.notes += part.notes
    return whole


def _labelled(
    rows: Rows, config: PrepareConfig, quarantine: Path, source: str
) -> tuple[pa.Table, npt.NDArray[np.int8]]:
    """The rows whose label and rating agree, and their classes; the others go to quarantine."""
    classes, contradicts = classes_of(rows.table, config, source)
    if contradicts.any():
        bad = of_mask(rows.table, contradicts)
        with Quarantine(quarantine) as file:
            file.add_rows(bad, reasons=pa.array([CONTRADICTION] * bad.num_rows, pa.string()), source=source)
        rows.bad[CONTRADICTION] = bad.num_rows
        rows.examples[CONTRADICTION] = f"{bad['label'][0].as_py()} with {bad['rating'][0].as_py():g}"
    return of_mask(rows.table, ~contradicts), classes[~contradicts]


def _counted(rows: Rows, config: PrepareConfig, source: str) -> dict[str, Any]:
    """What the card says of the rows; raises DataRejected if there are none, or too many are bad."""
    if rows.num_rows == 0:
        raise DataRejected(f"{source} is empty: it has no reviews")
    check_bad(
        source,
        rows.bad,
        total=rows.num_rows,
        max_fraction=config.max_bad_fraction,
        explained={
            reason: explain(
                reason, rows.examples.get(reason), rows.samples.get(reason, ()), remedy=_REMEDIES.get(reason, "")
            )
            for reason, _ in most_frequent(rows.bad)
        },
        num_skipped=rows.num_erased,
    )
    bad = dict(sorted(rows.bad.items())) | ({REASON: rows.num_erased} if rows.num_erased else {})
    return {"family": "reviews", "raw": source, "rows": rows.num_rows, "bad": bad, "special": dict(+rows.counts)}


def _write_shard(out: Path, frame: pd.DataFrame, number: int) -> str:
    """Write one shard; returns the digest of its contents."""
    directory = out / "shards" / f"{number:05d}"
    directory.mkdir(parents=True)
    codes = [codes_of(text) for text in frame["plain"]]
    arrays: dict[str, npt.NDArray[Any]] = {
        "codes": np.concatenate([np.zeros(0, np.int32), *codes]),
        "offsets": np.concatenate([[0], np.cumsum([len(each) for each in codes])]).astype(np.int64),
        "labels": frame["class"].to_numpy(np.int8),
        "weights": frame["weight"].to_numpy(np.float32),
        "languages": frame["language"].to_numpy(np.int8),
        "folds": frame["fold"].to_numpy(np.int8),
    }
    for name, array in arrays.items():
        np.save(directory / f"{name}.npy", array)
    table = pa.Table.from_pandas(frame[[*STORED, "split"]], preserve_index=False)
    pq.write_table(table.replace_schema_metadata(None), directory / "reviews.parquet", compression="zstd")
    content = frame[[*STORED, "split", "class", "weight", "fold"]]
    found = hashlib.sha256(content.to_csv(index=False, lineterminator="\n").encode("utf-8", "surrogatepass"))
    return found.hexdigest()


def _schema(frame: pd.DataFrame, names: list[str], rule: dict[str, Any]) -> Schema:
    trained = frame[frame["split"] == "train"]
    of_class = [trained["class"] == number for number in range(len(names))]
    rated = all(bool(trained.loc[rows, "rating"].notna().any()) for rows in of_class)
    return Schema(
        family="reviews",
        fingerprint="",
        num_shards=NUM_SHARDS,
        num_examples={split: int((frame["split"] == split).sum()) for split in SPLITS},
        classes=names,
        class_counts=[int(rows.sum()) for rows in of_class],
        class_ratings=[float(trained.loc[rows, "rating"].mean()) for rows in of_class] if rated else None,
        categories=sorted(map(str, frame["category"].dropna().unique())),
        has_users=bool(frame["user_id"].notna().any()),
        num_unlabelled=int((frame["split"] == WITHOUT_CLASS).sum()),
        **rule,
    )


def _card(frame: pd.DataFrame, schema: Schema, *, num_duplicates: int) -> dict[str, Any]:
    is_labelled = frame["class"] != UNLABELLED
    weight = frame["weight"].to_numpy()
    language = Counter(LANGUAGES[number] for number in frame["language"])
    return {
        "fingerprint": schema.fingerprint,
        "kept": len(frame),
        "duplicates": num_duplicates,
        "repeated_texts": int((is_labelled & (weight == 0)).sum()),
        "texts_with_several_classes": int(frame["digest"][(weight > 0) & (weight < 1)].nunique()),
        "unlabelled": int((~is_labelled).sum()),
        "pretraining_texts": schema.num_unlabelled,
        "splits": {split: {"texts": count} for split, count in schema.num_examples.items()},
        "classes": {"sentiment": dict(zip(schema.classes, schema.class_counts, strict=True))},
        "languages": {name: language[name] for name in LANGUAGES if language[name]},
        "products": int(frame["product_id"].nunique()),
        "users": int(frame["user_id"].nunique()),
    }
