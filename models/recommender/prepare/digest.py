"""The digest of a finished shard, of which the fingerprint of prepared data is made."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow.parquet as pq

from models.arrays import load_array
from models.recommender.prepare.event_types import AMOUNTS, TYPES


def digest_of_shard(shard: Path) -> str:
    """sha256 of the contents of a shard, independent of the Parquet writer."""
    digest = hashlib.sha256("\n".join(pq.read_table(shard / "users.parquet")["user_id"].to_pylist()).encode())
    for name in ("offsets.npy", "items.npy", "timestamps.npy", "splits.npy", "sessions.npy", TYPES, AMOUNTS):
        if (shard / name).exists():  # a log without times, types or prices has no file of them
            digest.update(load_array(shard / name).tobytes())
    return digest.hexdigest()
