"""A recommendation as the endpoint answers it, with the rows of a list of prices."""

from __future__ import annotations

from pydantic import BaseModel

from models.price_lists.rows import PriceRow
from models.pricing.bands import Band
from models.pricing.claims import Claim
from models.pricing.recommend import Priced, Recommendation, Verdict


class Amount(BaseModel):
    """A mean with the bounds of what 90 % of the models say."""

    low: float
    mean: float
    high: float


class ClaimAnswer(BaseModel):
    """Relative gains of profit: claimed by the models, and re-estimated by others with the bounds of a 90 % interval.

    `inflation` is claimed minus re-estimated, in percentage points.
    """

    claimed: float
    reestimated: float
    low: float
    high: float
    inflation: float
    text: str


class RecommendResponse(BaseModel):
    """The verdict, recommended, in part or none, with its reason, and the price of every offer.

    `left_out` are parts of the offers whose own gain is not certain, `broken` rules that the prices do not keep since
    today's do not. Profits are those of all offers a period, today and at the new prices.
    """

    model_version: str
    verdict: Verdict
    reason: str
    claim: ClaimAnswer | None
    profit_today: Amount
    profit: Amount
    left_out: list[str]
    broken: list[str]
    prices: list[PriceRow]


def response_of(found: Recommendation, model_version: str) -> RecommendResponse:
    """The answer of the endpoint to a recommendation."""
    return RecommendResponse(
        model_version=model_version,
        verdict=found.verdict,
        reason=found.reason,
        claim=None if found.claim is None else claim_answer(found.claim),
        profit_today=amount(found.profit_today),
        profit=amount(found.profit),
        left_out=list(found.left_out),
        broken=list(found.broken),
        prices=price_rows(found),
    )


def claim_answer(claim: Claim) -> ClaimAnswer:
    """A claim for a response."""
    return ClaimAnswer(
        claimed=claim.claimed,
        reestimated=claim.reestimated,
        low=claim.low,
        high=claim.high,
        inflation=claim.inflation,
        text=claim.text(),
    )


def amount(of: Band) -> Amount:
    """A band for a response."""
    return Amount(low=of.low, mean=of.mean, high=of.high)


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
