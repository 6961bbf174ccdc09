"""The pricing family's endpoints: recommended prices, what is expected at given ones, and an offer's demand curve."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydantic import BaseModel

from models.family import Endpoint, Feature, Features
from models.pricing.asked import STATES, offers_asked, prices_asked, state_rows
from models.pricing.constraints import Calendar
from models.pricing.data import Example, SalesBatch
from models.pricing.expected import Expected, explain, whatif
from models.pricing.fitted import Fitted
from models.pricing.ladder import ladders
from models.pricing.networks.price_model import PriceModel
from models.pricing.optimise import NoPlanFound, RulesConflict, Settings
from models.pricing.recommend import recommend
from models.pricing.requests import (
    ExplainRequest,
    Offer,
    OffersRequest,
    RecommendRequest,
    Sold,
    WhatIfRequest,
    is_asked,
    rules_of,
)
from models.pricing.responses import Amount, ClaimAnswer, RecommendResponse, amount, claim_answer, response_of
from models.pricing.schema import Schema
from models.pricing.states import OfferState, design_of_offers, offers_of_states
from models.pricing.tables import Rows
from models.pricing.trust import Flag
from models.pricing.trusted import offer_flags, product_flags

SOLVE_S = 20.0
"""Time limit of each solve; a recommendation needs three."""
ANSWER_S = 120.0
NOT_ASKED = ("not asked for", "it is a rival of what was asked for")
NOTHING = Amount(low=0.0, mean=0.0, high=0.0)


@dataclass(frozen=True)
class Prediction:
    """One offer with the models that know its demand; they are the same object for all offers of an answer."""

    offer: OfferState
    fitted: Fitted | None
    flags: tuple[Flag, ...]


class ExpectedAnswer(BaseModel):
    """What is expected of an offer a period, with the bounds of what 90 % of the models say."""

    units: Amount
    revenue: Amount
    profit: Amount


class WhatIfRow(BaseModel):
    """One offer, a period, at today's price and at the given one."""

    product: str
    store: str
    old: float
    new: float
    today: ExpectedAnswer
    planned: ExpectedAnswer


class WhatIfResponse(BaseModel):
    """What is expected at the given prices; the claim compares it with models of another class on other weeks."""

    model_version: str
    profit_today: Amount
    profit_change: Amount
    claim: ClaimAnswer | None
    offers: list[WhatIfRow]


class CurvePoint(BaseModel):
    """What is expected a period at one price."""

    price: float
    expected: ExpectedAnswer


class RivalAnswer(BaseModel):
    """How a rival's units change, relatively, when the price of the offer is 10 % higher."""

    product: str
    store: str
    change: Amount


class FlagAnswer(BaseModel):
    """A reason not to trust the curve."""

    name: str
    text: str


class ExplainResponse(BaseModel):
    """An offer's demand over prices, others as they are today, with its elasticity and reasons not to trust it."""

    model_version: str
    product: str
    store: str
    price: float
    usual_price: float
    elasticity: Amount
    curve: list[CurvePoint]
    rivals: list[RivalAnswer]
    flags: list[FlagAnswer]


def golden_request(schema: Schema) -> RecommendRequest:
    """A request with offers of its own, which every model of the schema can answer."""
    products = sorted(schema.products, key=lambda product: (len(product.flags), product.id))[:3]
    level = [max(1.0, float(np.exp(product.level))) for product in products]
    return RecommendRequest(
        offers=[
            Offer(
                product_id=product.id,
                store_id=schema.stores[0] or None,
                price=float(np.exp(product.usual)),
                cost=0.6 * float(np.exp(product.usual)),
                history=[Sold(units=units * (1 + 0.1 * lag), price=float(np.exp(product.usual))) for lag in range(4)],
            )
            for product, units in zip(products, level, strict=True)
        ],
        rules={"ladder": {"step": 0.05, "most_points": 5}, "largest_change": {"share": 0.1}},
    )


def encode(request: RecommendRequest, schema: Schema, features: Features) -> list[Example]:
    """The offers of whole demand groups; raises ValueError for unknown products and for mistakes in the rules."""
    offers = offers_asked(request, schema, features)
    rules_of(request, offers_of_states(offers))
    held = [
        offer if is_asked(request, offer.product, offer.store) else replace(offer, flags=(*offer.flags, NOT_ASKED))
        for offer in offers
    ]
    return _examples(held, schema)


def encode_whatif(request: WhatIfRequest, schema: Schema, features: Features) -> list[Example]:
    """The offers of whole demand groups; raises ValueError for prices of offers that the request does not have."""
    offers = offers_asked(request, schema, features)
    prices_asked(offers, request.prices)
    return _examples(offers, schema)


def encode_explain(request: ExplainRequest, schema: Schema, features: Features) -> list[Example]:
    """The demand group of one offer; raises ValueError unless the request names exactly one."""
    offers = offers_asked(request, schema, features)
    rules_of(request)
    asked = [offer for offer in offers if is_explained(request, offer)]
    if not asked:
        raise ValueError(f"product_id {request.product_id!r} is not among the offers of this request")
    if len(asked) > 1:
        stores = ", ".join(offer.store for offer in asked[:3])
        raise ValueError(
            f"product_id {request.product_id!r} is sold in {len(asked)} stores, such as {stores}: name one"
        )
    return _examples([offer for offer in offers if offer.store == asked[0].store], schema)


def is_explained(request: ExplainRequest, offer: OfferState) -> bool:
    """Whether an offer is the one to explain."""
    return offer.product == request.product_id and request.store_id in (None, offer.store)


def predict(network: PriceModel, batch: SalesBatch) -> list[Prediction]:
    """Each offer with the models that know its demand."""
    fitted = network.fitted()
    of_products = product_flags(network.schema, network.elasticities())
    flags = offer_flags(batch.offers, of_products)
    return [Prediction(offer, fitted, tuple(own)) for offer, own in zip(batch.offers, flags, strict=True)]


def answer(
    request: RecommendRequest, predictions: Sequence[Prediction], schema: Schema, model_version: str
) -> RecommendResponse:
    """The recommended prices of the offers that were asked for; rules that conflict are a verdict of none."""
    states = [one.offer for one in predictions]
    offers, fitted = offers_of_states(states), predictions[0].fitted
    if fitted is None:
        return _none(
            "the model has no evaluators, so that no claim can be checked: train with --evaluators 10", model_version
        )
    try:
        found = recommend(
            offers,
            design_of_offers(states, schema),
            fitted,
            rules_of(request, offers),
            calendar=_calendar(schema),
            settings=Settings(time_limit_s=SOLVE_S),
            flags=[one.flags for one in predictions],
        )
    except (RulesConflict, NoPlanFound) as error:
        return _none(f"no recommendation: {error}", model_version)
    response = response_of(found, model_version)
    asked = [row for row in response.prices if is_asked(request, row.product, row.store)]
    return response.model_copy(update={"prices": asked})


def answer_whatif(
    request: WhatIfRequest, predictions: Sequence[Prediction], schema: Schema, model_version: str
) -> WhatIfResponse:
    """What is expected at the given prices, of whole demand groups."""
    states = [one.offer for one in predictions]
    offers = offers_of_states(states)
    prices = offers.price.copy()
    for place, price in prices_asked(states, request.prices).items():
        prices[place] = price
    found = whatif(offers, design_of_offers(states, schema), _fitted(predictions), prices)
    pairs = zip(states, offers.price.tolist(), prices.tolist(), found.today, found.planned, strict=True)
    return WhatIfResponse(
        model_version=model_version,
        profit_today=amount(found.profit_today),
        profit_change=amount(found.profit_change),
        claim=None if found.claim is None else claim_answer(found.claim),
        offers=[
            WhatIfRow(
                product=state.product,
                store=state.store,
                old=old,
                new=new,
                today=_expected(today),
                planned=_expected(planned),
            )
            for state, old, new, today, planned in pairs
        ],
    )


def answer_explain(
    request: ExplainRequest, predictions: Sequence[Prediction], schema: Schema, model_version: str
) -> ExplainResponse:
    """The curve of one offer over its ladder."""
    states = [one.offer for one in predictions]
    index = next(place for place, state in enumerate(states) if is_explained(request, state))
    offers = offers_of_states(states)
    points = ladders(offers, rules_of(request))[index]
    flags = predictions[index].flags
    found = explain(offers, design_of_offers(states, schema), _fitted(predictions), index, prices=points, flags=flags)
    curve = zip(found.prices, found.curve, strict=True)
    return ExplainResponse(
        model_version=model_version,
        product=found.product,
        store=found.store,
        price=found.price,
        usual_price=found.usual_price,
        elasticity=amount(found.elasticity),
        curve=[CurvePoint(price=price, expected=_expected(one)) for price, one in curve],
        rivals=[RivalAnswer(product=one.product, store=one.store, change=amount(one.change)) for one in found.rivals],
        flags=[FlagAnswer(name=flag.name, text=flag.text) for flag in found.flags],
    )


def asked_states(request: OffersRequest) -> list[str]:
    """The keys of the stored states that a request needs."""
    return request.state_keys()


FEATURES = (Feature(name=STATES, keys=asked_states, rows=state_rows),)
ENDPOINTS = (
    Endpoint(
        path="/v1/prices/recommend",
        summary="Recommend prices under rules, if another class of model expects a gain, too",
        Request=RecommendRequest,
        Response=RecommendResponse,
        encode=encode,
        predict=predict,
        answer=answer,
        answer_timeout_s=ANSWER_S,
    ),
    Endpoint(
        path="/v1/prices/whatif",
        summary="Units, revenue and profit at given prices",
        Request=WhatIfRequest,
        Response=WhatIfResponse,
        encode=encode_whatif,
        predict=predict,
        answer=answer_whatif,
        answer_timeout_s=ANSWER_S,
    ),
    Endpoint(
        path="/v1/prices/explain",
        summary="The demand curve of one offer, its elasticity, rivals and flags",
        Request=ExplainRequest,
        Response=ExplainResponse,
        encode=encode_explain,
        predict=predict,
        answer=answer_explain,
        answer_timeout_s=ANSWER_S,
    ),
)


def _examples(offers: Sequence[OfferState], schema: Schema) -> list[Example]:
    table = Rows.of_design(design_of_offers(offers, schema))
    return [Example(table, place, offer=offer) for place, offer in enumerate(offers)]


def _calendar(schema: Schema) -> Calendar:
    """Prices hold from the period after the sales; numbered periods are weeks from today."""
    if schema.period == "number":
        return Calendar(datetime.date.today(), schema.days_a_period)
    return Calendar(datetime.date.fromisoformat(schema.date(schema.num_periods)), schema.days_a_period)


def _fitted(predictions: Sequence[Prediction]) -> Fitted:
    fitted = predictions[0].fitted
    if fitted is None:
        raise ValueError("the model has no evaluators; train with --evaluators 10")
    return fitted


def _none(reason: str, model_version: str) -> RecommendResponse:
    return RecommendResponse(
        model_version=model_version,
        verdict="none",
        reason=reason,
        claim=None,
        profit_today=NOTHING,
        profit=NOTHING,
        left_out=[],
        broken=[],
        prices=[],
    )


def _expected(found: Expected) -> ExpectedAnswer:
    units, revenue, profit = (amount(band) for band in (found.units, found.revenue, found.profit))
    return ExpectedAnswer(units=units, revenue=revenue, profit=profit)
