"""The prices that hold in the shop now, with the ledger of the lists that made them: replaced together, as one unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from models.files import replace_directory
from models.price_lists.rows import PriceRow

PARQUET, CSV, LEDGER = "prices.parquet", "prices.csv", "ledger.json"
SAME_PRICE = 1e-9
Prices = Mapping[tuple[str, str], float]
"""Price by product and store."""


class Entry(BaseModel):
    """What happened to a list of prices when prices changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    list_id: str
    state: Literal["applied", "taken back", "superseded"]
    by: str
    at: str
    """RFC 3339."""
    reason: str = ""


class Ledger(BaseModel):
    """Everything that changed the prices, oldest first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class CurrentPrices:
    """The prices by product and store, and the ledger."""

    prices: Prices
    ledger: tuple[Entry, ...]

    def differing(self, rows: Iterable[PriceRow], *, from_new: bool) -> list[PriceRow]:
        """The rows whose offer has another price now than their old or new one; offers without a price fit all."""
        return [
            row
            for row in rows
            if row.key in self.prices and not _same(self.prices[row.key], row.new if from_new else row.old)
        ]


def read_current(directory: Path) -> CurrentPrices:
    """The prices of a directory, none if it does not exist; raises ValueError that names a damaged file.

    Prices and ledger are of one moment though another process may replace the directory meanwhile.
    """
    for is_last in (False, False, True):
        try:
            if not directory.is_dir():
                return CurrentPrices({}, ())
            content = (directory / LEDGER).read_bytes()
            rows = pq.read_table(directory / PARQUET).to_pylist()
            prices = {(row["product"], row["store"]): float(row["price"]) for row in rows}
            ledger = Ledger.model_validate_json(content).entries
            if is_last or content == (directory / LEDGER).read_bytes():
                return CurrentPrices(prices, ledger)
        except (FileNotFoundError, ValidationError, pa.ArrowException, KeyError, TypeError) as error:
            if is_last:
                raise ValueError(
                    f"{directory} does not have today's prices ({_in_short(error)}); restore it, or move it away to "
                    "begin with the prices of the prepared data: lists that were applied then count as approved"
                ) from error
    raise AssertionError("the last attempt returns or raises")


def write_current(directory: Path, prices: Prices, ledger: Sequence[Entry]) -> None:
    """Replace prices and ledger at once: whoever reads, or is killed, sees the old directory or the new one."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    keys = sorted(prices)
    table = pa.table(
        {
            "product": pa.array([product for product, _ in keys], pa.string()),
            "store": pa.array([store for _, store in keys], pa.string()),
            "price": pa.array([prices[key] for key in keys], pa.float64()),
        }
    )
    with replace_directory(directory) as temporary:
        pq.write_table(table, temporary / PARQUET)
        csv.write_csv(table, temporary / CSV)
        content = Ledger(entries=tuple(ledger)).model_dump_json(indent=1)
        (temporary / LEDGER).write_text(content + "\n", encoding="utf-8")


def _same(one: float, other: float) -> bool:
    return abs(one - other) <= SAME_PRICE * max(1.0, abs(other))


def _in_short(error: Exception) -> str:
    return str(error).partition("\n")[0]
