"""The rows of a recommendation, as a list of prices has them and the endpoint answers."""

from __future__ import annotations

from models.price_lists.rows import PriceRow
from models.pricing.recommend import Priced, Recommendation


def price_rows(found: Recommendation) -> list[PriceRow]:
    """The rows of a recommendation, in the order of its offers."""
    return [_row(one) for one in found.rows]


def _row(one: Priced) -> PriceRow:
    effect = one.effect
    return PriceRow(
        product=one.product,
        store=one.store,
        old=one.old,
        new=one.new,
        reason=one.reason,
        cost=one.cost,
        is_held=one.is_held,
        units_today=one.today.units.mean,
        units=one.planned.units.mean,
        units_low=one.planned.units.low,
        units_high=one.planned.units.high,
        revenue_today=one.today.revenue.mean,
        revenue=one.planned.revenue.mean,
        profit_today=one.today.profit.mean,
        profit=one.planned.profit.mean,
        profit_low=one.planned.profit.low,
        profit_high=one.planned.profit.high,
        elasticity=one.elasticity.mean,
        elasticity_low=one.elasticity.low,
        elasticity_high=one.elasticity.high,
        part=one.part,
        effect=None if effect is None else effect.mean,
        effect_low=None if effect is None else effect.low,
        effect_high=None if effect is None else effect.high,
    )
