"""The rows of a list of prices, as Parquet and CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from models.raw.ids import as_text
from models.raw.panel_rows import find_names, identifier, read_numbers
from models.raw.reading import Reading
from models.raw.rejections import Rejections
from models.raw.tables import find_tables, read


class PriceRow(BaseModel):
    """The price of one product in one store, today's and the new one, and what is expected of them a period.

    Bounds are those of 90 % of the models. `effect` is the re-estimated change of profit of all offers of the `part`,
    the demand groups that rules couple. In a list of exploration `chance` is the probability with which the new price
    was drawn, and `chance_of_today` that of no change.
    """

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True)

    product: str
    store: str = ""
    """Empty where the sales have no stores."""
    old: float = Field(gt=0, allow_inf_nan=False)
    new: float = Field(gt=0, allow_inf_nan=False)
    reason: str = ""
    cost: float | None = None
    is_held: bool = False
    """The price stays whatever demand models say; the reason tells why."""
    units_today: float | None = None
    units: float | None = None
    units_low: float | None = None
    units_high: float | None = None
    revenue_today: float | None = None
    revenue: float | None = None
    profit_today: float | None = None
    profit: float | None = None
    profit_low: float | None = None
    profit_high: float | None = None
    elasticity: float | None = None
    elasticity_low: float | None = None
    elasticity_high: float | None = None
    part: int | None = None
    effect: float | None = None
    effect_low: float | None = None
    effect_high: float | None = None
    chance: float | None = None
    chance_of_today: float | None = None

    @property
    def key(self) -> tuple[str, str]:
        """The product and the store."""
        return self.product, self.store

    @property
    def is_changed(self) -> bool:
        """Whether the list changes this price."""
        return self.new != self.old

    @property
    def name(self) -> str:
        """The offer in words."""
        return f"product {self.product}" + (f" in store {self.store}" if self.store else "")


TYPES = {"product": pa.string(), "store": pa.string(), "reason": pa.string(), "is_held": pa.bool_(), "part": pa.int64()}
SCHEMA = pa.schema([(name, TYPES.get(name, pa.float64())) for name in PriceRow.model_fields])


def write_rows(rows: Sequence[PriceRow], directory: Path) -> None:
    """Write `rows.parquet` and `rows.csv` into a directory."""
    table = pa.Table.from_pylist([row.model_dump() for row in rows], schema=SCHEMA)
    pq.write_table(table, directory / "rows.parquet")
    csv.write_csv(table, directory / "rows.csv")


def read_sales(path: Path) -> dict[tuple[str, str], float]:
    """Units by product and store, summed, of a table that `prepare` reads; raises ValueError that names what is wrong.

    Columns are found by the names that sales may have, such as product, store and units.
    """
    units: dict[tuple[str, str], float] = {}
    for source in find_tables(str(path), Reading()).sources:
        for chunk in read(source):
            if broken := next(((reason, lines[0]) for reason, lines in chunk.broken.items()), None):
                raise ValueError(f"{path}: a row cannot be read ({broken[0]}): {broken[1][:200]}")
            _add_sales(chunk.rows, path, units)
    return units


def _add_sales(rows: pa.Table, path: Path, units: dict[tuple[str, str], float]) -> None:
    ours = {f"{name}_id": name for name in ("product", "store") if name in rows.column_names}
    columns = find_names(rows.column_names, ours, ("product_id", "store_id", "units"))
    missing = [name for name in ("product_id", "units") if name not in columns]
    if missing:
        told = f"it has no column {missing[0].removesuffix('_id')}; the columns are {', '.join(rows.column_names)}"
        raise ValueError(f"{path} cannot be read as sales: {told}")
    get = {name: rows[theirs].combine_chunks() for name, theirs in columns.items()}
    rejections = Rejections(rows.num_rows)
    product = identifier(get["product_id"], "product_id", rejections)
    store = as_text(get["store_id"])[0] if "store_id" in get else pa.nulls(rows.num_rows)
    sold = read_numbers(get["units"], "units", rejections)
    rejections.add(~(sold >= 0), "bad_units", values=get["units"])
    if rejections.names:
        row = int(np.flatnonzero(rejections.codes)[0])
        given = as_text(get["units"])[0][row].as_py()
        raise ValueError(
            f"{path} cannot be read as sales: row {row + 1} needs a product and units of 0 or more, got {given!r} "
            f"({rejections.names[rejections.codes[row] - 1]})"
        )
    for key, value in zip(zip(product.to_pylist(), store.to_pylist(), strict=True), sold.tolist(), strict=True):
        place = (key[0], key[1] or "")
        units[place] = units.get(place, 0.0) + value


def read_rows(path: Path) -> list[PriceRow]:
    """The rows of a Parquet file that `write_rows` has written; raises ValueError that names it."""
    try:
        return [PriceRow.model_validate(row) for row in pq.read_table(path).to_pylist()]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{path} cannot be read as rows of prices: {error}; restore it from a backup") from error
