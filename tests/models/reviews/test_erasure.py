"""Erased users leave prepared reviews, which are then those of raw data that never had them."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from models.erasure.erased import FOREVER, Erased, digest_of
from models.prepared import Prepared
from models.reviews import FAMILY
from models.reviews.erasure import held, rewrite
from tests.models.reviews.kit import prepared, written

SALT = hashlib.sha256(b"salt").digest()
USER = "anna.schmidt"


def columns(*, without: str = "") -> dict[str, list[Any]]:
    """Reviews of ten users; one of them wrote a text twice, and one that another user wrote, too."""
    rows = [(f"{'good' if n % 2 else 'bad'} thing {n}", str(n % 2), f"u{n % 10}") for n in range(200)]
    rows += [("good thing 1", "1", USER), ("only mine", "0", USER), ("only mine", "1", USER), ("good\x00", "1", USER)]
    rows = [row for row in rows if row[2] != without]
    return {
        name: list(values) for name, values in zip(("text", "label", "user_id"), zip(*rows, strict=True), strict=True)
    }


def erased(until_s: float = FOREVER) -> Erased:
    return Erased(SALT, {digest_of(USER, SALT): until_s})


@pytest.mark.parametrize("settings", [{}, {"hold_out": "user_id=u3"}], ids=["by text", "held out"])
def test_rewritten_data_are_those_of_raw_data_without_the_user(tmp_path: Path, settings: dict[str, Any]) -> None:
    more = {"max_bad_fraction": 0.5, **settings}
    data = prepared(tmp_path / "data", raw=str(written(tmp_path / "with.parquet", columns())), **more)
    clean = prepared(tmp_path / "clean", raw=str(written(tmp_path / "no.parquet", columns(without=USER))), **more)
    (tmp_path / "out").mkdir()

    assert held(data, erased()) == {digest_of(USER, SALT)}
    with ThreadPoolExecutor(1) as executor:
        schema = rewrite(data, tmp_path / "out", executor, erased())

    made = Prepared(tmp_path / "out")
    assert schema.fingerprint == clean.fingerprint == made.fingerprint != data.fingerprint
    assert held(made, erased()) == set()
    assert made.card()["bad"]["erased_user"] == 3
    for path in made.path.rglob("*.parquet"):
        assert USER not in str(pq.read_table(path).to_pylist())


def test_prepare_leaves_out_erased_users(tmp_path: Path) -> None:
    clean = prepared(tmp_path / "clean", raw=str(written(tmp_path / "no.parquet", columns(without=USER))))
    (tmp_path / "out").mkdir()
    assert FAMILY.erasure is not None
    config = FAMILY.PrepareConfig(raw=str(written(tmp_path / "with.parquet", columns())), max_bad_fraction=0.5)

    with ThreadPoolExecutor(1) as executor:
        schema = FAMILY.erasure.prepare(config, tmp_path / "out", executor, erased())

    assert schema.fingerprint == clean.fingerprint
