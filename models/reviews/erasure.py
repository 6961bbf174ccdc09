"""Takes the reviews of erased users out of prepared data, from these data alone."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from models.arrays import load_array
from models.erasure.contract import Erasure
from models.erasure.erased import REASON, Erased, digest_of
from models.erasure.quarantine import copy_quarantine
from models.prepared import Prepared
from models.reviews.aspects.labelled import read_sentences
from models.reviews.aspects.reading import FILE
from models.reviews.prepare.labelled import Labels
from models.reviews.prepare.pipeline import RULE, STORED, Aspects, finish, notes_of, prepare
from models.reviews.prepare.rows import FIELDS, is_erased
from models.reviews.prepare.settings import PrepareConfig
from models.reviews.schema import CLASSES, UNLABELLED, Schema


def held(data: Prepared, erased: Erased) -> Collection[bytes]:
    """Digests of the erased users of whom the data still have a review from before the end of the erasure."""
    found: set[bytes] = set()
    for shard in data.shards():
        table = _stored(shard)
        users = table.filter(pa.array(is_erased(table, erased)))["user_id"].to_pylist()
        found |= {digest_of(user, erased.salt) for user in set(users)}
    return found


def rewrite(data: Prepared, out: Path, executor: Executor, erased: Erased) -> Schema:
    """Fill an empty directory with the data without the reviews of erased users; see `models.erasure.contract`.

    Texts are split as before, by their hashes or by time. What was cut off or had no letters is not counted anew.
    """
    before, card = data.schema(Schema), data.card()
    parts = [_rows(shard, before) for shard in data.shards()]
    table = pa.concat_tables([rows for rows, _ in parts])
    classes = np.concatenate([codes for _, codes in parts])
    kept = ~is_erased(table, erased)
    num_erased = int((~kept).sum())
    num_quarantined = copy_quarantine(data.path / "quarantine", out / "quarantine", erased)
    told = f"{num_erased:,} reviews of erased users were taken out of the prepared data"
    notes = [*(note for note in card.get("notes", []) if note not in notes_of(card)), told]
    card = {name: card[name] for name in ("family", "raw", "rows", "bad", "special")}
    card["bad"] = {**card["bad"], REASON: card["bad"].get(REASON, 0) + num_erased}
    card |= {"rewritten_from": before.fingerprint, "quarantined_rows_deleted": num_quarantined}
    return finish(
        table.filter(pa.array(kept)),
        classes[kept],
        out,
        rule={name: getattr(before, name) for name in RULE},
        card=card,
        notes=notes,
        aspects=Aspects((data.path / FILE).read_text(encoding="utf-8"), _labels(data)),
    )


def _labels(data: Prepared) -> Labels:
    """The labelled aspects, which name no user and stay."""
    told = data.card().get("labelled_aspects", {})
    return Labels(read_sentences(data.path), {name: told[name] for name in ("raw", "rows", "bad") if name in told})


def _stored(shard: Path) -> pa.Table:
    """The rows of a shard with the types of rows that were read."""
    table = pq.read_table(shard / "reviews.parquet", columns=list(STORED))
    return table.cast(pa.schema([FIELDS.field(name) for name in STORED]))


def _rows(shard: Path, schema: Schema) -> tuple[pa.Table, npt.NDArray[np.int8]]:
    """The rows of a shard as they were before they were split, and their classes as indexes of CLASSES."""
    table = _stored(shard)
    # Rows that differed in their labels' words only stay as many as they were.
    numbers = table.to_pandas().groupby(list(STORED), dropna=False).cumcount().astype(str).tolist()
    table = table.append_column("label", pa.array(numbers, pa.string())).select(FIELDS.names)
    codes = np.array([CLASSES.index(name) for name in schema.classes] + [UNLABELLED], np.int8)
    return table, codes[load_array(shard / "labels.npy")]


ERASURE: Erasure[PrepareConfig, Schema] = Erasure(prepare=prepare, held=held, rewrite=rewrite, features_quote=True)
