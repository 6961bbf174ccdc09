"""What sales can support: the class of demand of each series, and how much its prices vary."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

SMOOTH, ERRATIC, INTERMITTENT, LUMPY, NEW = CLASSES = ("smooth", "erratic", "intermittent", "lumpy", "new")
"""Classes of demand, in the order of reports; new is one with fewer than two sales."""
ADI_LIMIT, CV2_LIMIT = 1.32, 0.49


def demand_classes(units: Floats, is_known: Bools) -> npt.NDArray[np.int64]:
    """The class of each series [S], an index of CLASSES, from units [S, T] and where they are known.

    By the mean interval between periods with demand and the squared coefficient of variation of the demand in these
    (Syntetos, Boylan and Croston, JORS 2005).
    """
    sold = is_known & (units > 0)
    num_sold, num_known = sold.sum(1), is_known.sum(1)
    positive = np.where(sold, units, 0).astype(np.float64)
    count = np.maximum(num_sold, 1)
    mean = positive.sum(1) / count
    variance = np.maximum((positive**2).sum(1) / count - mean**2, 0)
    interval = num_known / count
    variation = variance / np.maximum(mean, 1e-12) ** 2
    is_rare, is_uneven = interval >= ADI_LIMIT, variation >= CV2_LIMIT
    found = np.where(is_rare, np.where(is_uneven, 3, 2), np.where(is_uneven, 1, 0))
    return np.where(num_sold < 2, 4, found)


def price_support(prices: Floats, units: Floats) -> dict[str, npt.NDArray[np.float64]]:
    """What prices [S, T] can say of demand: distinct_prices [S], and off_price_share [S].

    The latter is the share of the periods with sales at another price than the usual one, which is the most frequent.
    """
    distinct, off = np.zeros(len(prices)), np.full(len(prices), np.nan)
    for row, (price, sold) in enumerate(zip(prices, units, strict=True)):
        known = price[np.isfinite(price) & (sold > 0)]
        if len(known):
            _, counts = np.unique(np.round(known, 2), return_counts=True)
            distinct[row], off[row] = len(counts), 1 - counts.max() / len(known)
    return {"distinct_prices": distinct, "off_price_share": off}
