"""What the pricing family adds to a report: elasticities with flags, and what the check of a claim says."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.prepared import Prepared
from models.pricing.config import Config
from models.pricing.constraints import Calendar
from models.pricing.data import stored_offers
from models.pricing.demand import elasticities
from models.pricing.dml import Z_90
from models.pricing.networks.price_model import SHARES, PriceModel
from models.pricing.optimise import Settings
from models.pricing.recommend import recommend
from models.pricing.requests import DEFAULT_RULES
from models.pricing.rules import Rules, parse_rules
from models.pricing.schema import Schema
from models.pricing.states import OfferState, design_of_offers, offers_of_states
from models.pricing.trust import Flag
from models.pricing.trusted import offer_flags, product_flags
from models.report import Cell, Section, Table

MAX_OFFERS = 200
"""Offers of whole demand groups whose claim is checked."""
MAX_PRODUCTS = 500
SOLVE_S = 5.0
_DAY, _PATH = datetime.date(2000, 1, 1), Path("rules")
STEPS = 40
"""Prices of the check are multiples of a step of this part of the median price."""


def report(network: PriceModel, data: Prepared, split: str, *, schema: Schema, config: Config) -> Sequence[Section]:
    """Elasticities by product, and the claim of prices within 10 % against what other models expect of them."""
    offers = [offer for offer in stored_offers(data) if offer.product in schema.places]
    same = data.schema(Schema).context == schema.context
    if not offers or not same or not network.num_evaluators:
        return ()
    of_products = product_flags(schema, network.elasticities())
    chosen = _some(offers)
    sections = [_elasticities(network, offers, of_products, schema), _claim(network, chosen, of_products, schema)]
    return [*sections, _blend(network)] if network.trees is not None else sections


def _some(offers: Sequence[OfferState]) -> list[OfferState]:
    """Whole demand groups in a store, as many as fit, spread evenly over all."""
    groups: dict[tuple[str, str], list[OfferState]] = {}
    for offer in offers:
        groups.setdefault((offer.group, offer.store), []).append(offer)
    keys = sorted(groups)
    stride = max(1, -(-len(offers) // MAX_OFFERS))
    return [offer for key in keys[::stride] for offer in groups[key]]


def _elasticities(
    network: PriceModel, offers: Sequence[OfferState], of_products: dict[str, list[Flag]], schema: Schema
) -> Section:
    """Of each product: by the model at today's prices, and by double machine learning, with the reasons to doubt."""
    first: dict[str, OfferState] = {}
    for offer in offers:
        first.setdefault(offer.product, offer)
    shown = sorted(first)[:MAX_PRODUCTS]
    groups = {(first[name].group, first[name].store) for name in shown}
    states = [offer for offer in offers if (offer.group, offer.store) in groups]
    prices = np.array([offer.price for offer in states])
    found = elasticities(network.demand().at(design_of_offers(states, schema)), prices)
    estimates = network.elasticities()
    place = {(offer.product, offer.store): number for number, offer in enumerate(states)}
    flags = {name: offer_flags([first[name]], of_products)[0] for name in shown}
    rows: list[list[Cell]] = []
    for name in shown:
        own = found[:, place[name, first[name].store]]
        row: list[Cell] = [name, float(own.mean()), *(float(bound) for bound in np.quantile(own, [0.05, 0.95]))]
        value = np.nan if estimates is None else estimates[0].value[schema.places[name]]
        error = np.nan if estimates is None else estimates[0].error[schema.places[name]]
        row.append(
            f"{value:.2f} ({value - Z_90 * error:.2f} to {value + Z_90 * error:.2f})" if value == value else "none"
        )
        rows.append([*row, "; ".join(flag.text for flag in flags[name]) or "none"])
    counts = Counter(flag.name for own in flags.values() for flag in own)
    head = ["product", "elasticity", "lower", "upper", "double machine learning (90 %)", "reasons not to trust it"]
    return Section(
        "Elasticities",
        "Per cent that demand changes when the own price is one per cent higher, at today's prices in the first store; "
        "the band is that of the members. Double machine learning estimates it from all stores, without the network; "
        "prices of products with a reason in their history stay as they are, and reasons of estimates warn.",
        [
            Table("elasticities", head, rows, folded=len(rows) > 20, title="Elasticities by product"),
            Table("flags", ["reason", "products"], [[name, count] for name, count in counts.most_common()]),
        ],
        {"flagged_share": sum(bool(own) for own in flags.values()) / len(flags)},
    )


def _claim(
    network: PriceModel, offers: Sequence[OfferState], of_products: dict[str, list[Flag]], schema: Schema
) -> Section:
    """What a plan within 10 % claims, and what evaluators of another class on the other half of the periods expect."""
    fitted = network.fitted()
    assert fitted is not None
    reading = (
        "The models of one half of the periods choose prices within 10 % of today's for offers whose history is "
        "trusted, and models of another class, trained on the other half, estimate the gain of profit again; the "
        "mean of both directions. Prices are recommended only if the lower bound is above 0."
    )
    try:
        found = recommend(
            offers_of_states(offers),
            design_of_offers(offers, schema),
            fitted,
            _rules(offers),
            calendar=Calendar(_DAY),
            settings=Settings(time_limit_s=SOLVE_S),
            flags=offer_flags(offers, of_products),
        )
    except ValueError as error:
        return Section("The claim is checked", reading, [f"No claim could be checked: {error}"])
    held = sum(row.is_held for row in found.rows)
    words = f"{len(offers):,} offers, of which {held:,} stay as they are; verdict: {found.verdict}. {found.reason}"
    if found.claim is None:
        return Section("The claim is checked", reading, [words])
    claim = found.claim
    row: list[Cell] = [claim.claimed, claim.reestimated, claim.low, claim.high, claim.inflation / 100, found.verdict]
    head = ["claimed", "re-estimated", "lower", "upper", "inflation", "verdict"]
    numbers = {"claimed_gain": claim.claimed, "reestimated_gain": claim.reestimated, "claim_low": claim.low}
    return Section("The claim is checked", reading, [Table("claim", head, [row]), words], numbers)


def _rules(offers: Sequence[OfferState]) -> Rules:
    """Prices within 10 %, in steps that suit the shop's prices."""
    step = max(0.01, round(float(np.median([offer.price for offer in offers])) / STEPS, 2))
    return parse_rules(DEFAULT_RULES.replace("0.05", f"{step:g}", 1), _PATH)


def _blend(network: PriceModel) -> Section:
    share = SHARES[int(network.share)]
    return Section(
        "Blend",
        "What validation chose.",
        [Table("blend", ["networks", "trees"], [[1 - share, share]])],
        {"trees": share},
    )
