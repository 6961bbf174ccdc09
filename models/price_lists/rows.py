"""The rows of a list of prices, as Parquet and CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field


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
    """Units by product and store, summed, of a CSV or Parquet file; raises ValueError that names what is wrong."""
    texts = {"product": pa.string(), "store": pa.string(), "units": pa.float64()}
    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path)
        else:
            table = csv.read_csv(str(path), convert_options=csv.ConvertOptions(column_types=texts))
        missing = [name for name in ("product", "units") if name not in table.column_names]
        if missing:
            raise ValueError(f"it has no column {missing[0]}; the columns are {', '.join(table.column_names)}")
        if "store" not in table.column_names:
            table = table.append_column("store", pa.array([""] * table.num_rows, pa.string()))
        rows = table.select(list(texts)).cast(pa.schema(list(texts.items()))).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{path} cannot be read as sales: {error}") from error
    units: dict[tuple[str, str], float] = {}
    for place, row in enumerate(rows, 1):
        if row["product"] is None or row["units"] is None or not 0 <= row["units"] < float("inf"):
            raise ValueError(f"{path}: row {place} needs a product and units of 0 or more, got {row}")
        key = (row["product"], row["store"] or "")
        units[key] = units.get(key, 0.0) + row["units"]
    return units


def read_rows(path: Path) -> list[PriceRow]:
    """The rows of a Parquet file that `write_rows` has written; raises ValueError that names it."""
    try:
        return [PriceRow.model_validate(row) for row in pq.read_table(path).to_pylist()]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{path} cannot be read as rows of prices: {error}; restore it from a backup") from error
