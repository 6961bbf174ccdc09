"""Titles and explanations of the recommender's metrics."""

from __future__ import annotations

from models.metrics import Metric
from models.recommender.networks.ranking import (
    CUTOFFS,
    REVENUE_CUTOFF,
    SET_NDCG_CUTOFFS,
    SET_RECALL_CUTOFFS,
)

MEANINGS = {
    "ndcg": "How high the relevant item is ranked, from 0 to 1: 1 at the top, less the further down, 0 beyond the "
    "cutoff (normalised discounted cumulative gain).",
    "hit_rate": "Share of users whose next item is in the list.",
    "mrr": "Mean of one divided by the rank of the relevant item (mean reciprocal rank); 0 beyond the cutoff.",
    "recall": "Share of the user's held-out items that are in the list.",
    "revenue": "Share of the revenue (price times quantity) of the users' next items that is from items in the list.",
}
TITLES = {"ndcg": "NDCG", "hit_rate": "Hit rate", "mrr": "MRR", "recall": "Recall", "revenue": "Revenue"}
FILTERED = (
    " Items that the user has seen, by the rule of prepare --seen, are not recommended, so an example whose item was "
    "seen does not count."
)
UNFILTERED = " Items that the user has already seen may be recommended."
AXIS = "length of the list"


def _at(name: str, cutoff: int) -> list[Metric]:
    """A metric at a cutoff, with seen items filtered and not."""
    title, meaning = f"{TITLES[name]}@{cutoff}", MEANINGS[name]
    plain = Metric(f"{name}_at_{cutoff}", "max", title, meaning + FILTERED, curve=(TITLES[name], AXIS, cutoff))
    return [plain, Metric(f"{name}_at_{cutoff}_unfiltered", "max", f"{title}, unfiltered", meaning + UNFILTERED)]


_CUTOFFS = {
    "ndcg": sorted({*CUTOFFS, *SET_NDCG_CUTOFFS}),
    "hit_rate": CUTOFFS,
    "mrr": CUTOFFS,
    "recall": SET_RECALL_CUTOFFS,
    "revenue": (REVENUE_CUTOFF,),
}

METRICS = (
    *(metric for name, cutoffs in _CUTOFFS.items() for cutoff in cutoffs for metric in _at(name, cutoff)),
    Metric("coverage_at_10", "max", "Coverage@10", "Share of the catalogue that is in at least one user's top ten."),
    Metric(
        "gini_at_10",
        "min",
        "Gini@10",
        "How unevenly the top tens are spread over the items: 0 is evenly, 1 is a single item.",
    ),
    Metric(
        "tail_share_at_10",
        "max",
        "Tail share@10",
        "Share of rare items in the top tens: the least popular items, which make up a tenth of all events.",
    ),
)

NDCG_AT_10 = next(metric for metric in METRICS if metric.name == "ndcg_at_10")
