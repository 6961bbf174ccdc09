"""Reasons not to trust a product's elasticity: what its prices have shown, and what the estimates say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.pricing.dml import Z_90, Elasticities
from models.pricing.panel import Floats, Panel

MIN_PRICES = 5
MIN_CHANGES = 8
MIN_PERIODS = 26
SAME_PRICE = 0.005
USUAL_SHARE_MOST = 0.97
PROMOTION_SHARE_MOST = 0.9
WIDE_BAND = 2.0
MIN_EXPLAINED = 0.01
SOLD_OUT_MOST = 0.3
HALVES_Z = 2.0


@dataclass(frozen=True)
class Support:
    """What a product's history can say about its price; `promotion_share` is that of the price's variance."""

    num_periods: int
    num_prices: int
    num_changes: int
    usual_share: float
    promotion_share: float
    sold_out_share: float


WARNINGS = frozenset({"wide band", "explains little", "halves disagree"})
"""Flags of estimates that warn and do not hold a price: one product in twenty has halves that disagree by chance, and
what is uncertain makes the interval of the claim wide, which decides."""


@dataclass(frozen=True)
class Flag:
    """A reason not to trust an elasticity: a name for machines and a sentence for people."""

    name: str
    text: str


def support_of(panel: Panel) -> list[Support]:
    """The support of every product, over all stores; without rows all is zero."""
    return [_support(panel, np.flatnonzero(panel.row_product == product)) for product in range(len(panel.products))]


def estimate_flags(
    *,
    value: float,
    error: float,
    explained: float = np.nan,
    halves: tuple[tuple[float, float], tuple[float, float]] | None = None,
) -> list[Flag]:
    """The reasons not to trust an elasticity that lie in its estimates.

    `explained` is the share of the units' remaining variance that the price explains, `halves` are value and error on
    two halves of the weeks. NaN means that something could not be estimated.
    """
    if not np.isfinite(value):
        return [Flag("not estimated", "the price never moved by itself, so that no elasticity can be estimated")]
    found = []
    if value > 0:
        found.append(Flag("rises with price", f"demand seems to rise with the price: elasticity {value:+.2f}"))
    if 2 * Z_90 * error > WIDE_BAND:
        found.append(
            Flag("wide band", f"the 90 % band is {2 * Z_90 * error:.1f} wide, {value:.2f} ± {Z_90 * error:.2f}")
        )
    if np.isfinite(explained) and explained < MIN_EXPLAINED:
        found.append(
            Flag("explains little", f"the price explains {explained:.1%} of what is left of the units' variance")
        )
    if halves is not None:
        (one, one_error), (other, other_error) = halves
        if abs(one - other) > HALVES_Z * np.hypot(one_error, other_error):
            found.append(Flag("halves disagree", f"two halves of the weeks say {one:.2f} and {other:.2f}"))
    return found


def flags_of_estimates(
    found: Elasticities, halves: tuple[Elasticities, Elasticities] | None = None
) -> list[list[Flag]]:
    """What the estimates of each product's elasticity say, with those of two halves of the weeks if they are given."""
    return [
        estimate_flags(
            value=float(found.value[product]),
            error=float(found.error[product]),
            explained=float(found.explained[product]),
            halves=None if halves is None else _pair(halves, product),
        )
        for product in range(len(found.value))
    ]


def _pair(
    halves: tuple[Elasticities, Elasticities], product: int
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Value and error of both halves; None where one has no estimate."""
    one, other = ((float(half.value[product]), float(half.error[product])) for half in halves)
    return (one, other) if np.isfinite([one, other]).all() else None


def _support(panel: Panel, rows: np.ndarray) -> Support:
    if not len(rows):
        return Support(0, 0, 0, 1.0, 0.0, 0.0)
    rows = rows[np.lexsort([panel.row_period[rows], panel.row_store[rows]])]
    log_price = np.log(panel.row_price[rows])
    steps = np.round(log_price / SAME_PRICE).astype(np.int64)
    _, counts = np.unique(steps, return_counts=True)
    same_store = np.diff(panel.row_store[rows]) == 0
    return Support(
        num_periods=len(np.unique(panel.row_period[rows])),
        num_prices=len(counts),
        num_changes=int(((np.abs(np.diff(log_price)) > SAME_PRICE) & same_store).sum()),
        usual_share=float(counts.max() / len(rows)),
        promotion_share=_promotion_share(log_price, panel.row_promotion[rows]),
        sold_out_share=float(panel.sold_out[rows].mean()),
    )


def _promotion_share(log_price: Floats, promotion: Floats) -> float:
    """The share of the price's variance that promotions explain, which are on or off."""
    total = float(np.square(log_price - log_price.mean()).sum())
    is_switch = np.array([set(np.unique(flag)) <= {0.0, 1.0} for flag in promotion.T], bool)
    if total < 1e-9 or not is_switch.any():
        return 0.0
    columns = np.column_stack([promotion[:, is_switch], np.ones(len(log_price))])
    rest = log_price - columns @ np.linalg.lstsq(columns, log_price, rcond=None)[0]
    return float(1 - np.square(rest).sum() / total)


def history_flags(support: Support) -> list[Flag]:
    """The reasons not to trust an elasticity that lie in the product's history alone."""
    found = []
    if support.num_prices <= 1:
        found.append(Flag("one price", "it was never sold at two prices; its elasticity is that of other products"))
    elif support.num_prices < MIN_PRICES:
        found.append(Flag("few prices", f"it was sold at {support.num_prices} prices; {MIN_PRICES} or more are needed"))
    if support.num_prices > 1 and support.num_changes < MIN_CHANGES:
        found.append(Flag("few changes", f"its price changed {support.num_changes} times; {MIN_CHANGES} are needed"))
    if support.num_prices > 1 and support.usual_share > USUAL_SHARE_MOST:
        found.append(Flag("rarely off price", f"it was at its usual price in {support.usual_share:.0%} of the periods"))
    if support.num_periods < MIN_PERIODS:
        found.append(Flag("short", f"it has {support.num_periods} periods; {MIN_PERIODS} are needed"))
    if support.promotion_share > PROMOTION_SHARE_MOST:
        share = f"{support.promotion_share:.0%} of its price's moves are promotions"
        found.append(Flag("promotion only", f"{share}: the effects of price and promotion cannot be separated"))
    if support.sold_out_share > SOLD_OUT_MOST:
        found.append(Flag("often sold out", f"it was sold out in {support.sold_out_share:.0%} of the periods"))
    return found
