"""Texts that are nearly the same: MinHash of character n-grams with banding (Broder, 1997; Indyk and Motwani, 1998)."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

UInts = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
NUM_BANDS, ROWS_A_BAND = 40, 2
"""Two texts are compared if they agree in a band: with a similarity of 0.3 in 98 % of cases, of 0.1 in 33 %."""
GRAM = 5
"""Length of the n-grams that propose pairs: rare enough that unrelated texts share few."""
COMPARED_GRAM = 2
"""Length of those that proposed pairs are compared by: a changed character changes two of them, not five."""
MIN_CHARACTERS = 10
"""Shorter texts, such as "very good!", are alike without being copies; counted without blanks and punctuation."""
MAX_BUCKET = 200
"""A band that more texts agree in is compared with neighbours only, which keeps copies of one text linear."""
SEED = 20_140_421
BLOCK_GRAMS = 400_000


@dataclass(frozen=True)
class Pairs:
    """Pairs of texts [M], first < second, with the Jaccard similarity of their pairs of characters."""

    first: Ints
    second: Ints
    similarity: Floats


def normalised(text: str) -> str:
    """What is compared of a text: NFKC, case-folded, letters and digits only, each number as 0."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join("0" if one.isdigit() else one for one in folded if one.isalnum())
    while "00" in kept:
        kept = kept.replace("00", "0")
    return kept


def grams_of(text: str, size: int = GRAM) -> UInts:
    """The hashes of the different n-grams of a text [G], sorted; a text that is shorter is one n-gram."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.uint64)
    windows = max(len(codes) - size + 1, 1)
    hashed = np.zeros(windows, np.uint64)
    for place in range(min(size, len(codes))):
        hashed = _mixed(hashed ^ codes[place : place + windows])
    return np.unique(hashed)


def near_duplicates(texts: Sequence[str], *, least_similarity: float) -> Pairs:
    """Pairs of texts at least so similar, in order; texts below MIN_CHARACTERS are in none.

    Candidates agree in a band of their MinHash signatures; they are then compared exactly. The result
    depends on nothing but the texts.
    """
    if not 0 < least_similarity <= 1:
        raise ValueError(f"a similarity of {least_similarity:g} is not above 0 and at most 1; 0.5 is usual")
    clean = [normalised(text) for text in texts]
    long = np.flatnonzero([len(text) >= MIN_CHARACTERS for text in clean])
    grams = [grams_of(clean[place]) for place in long]
    first, second = _candidates(signatures(grams)) if len(grams) > 1 else (long[:0], long[:0])
    short = {one: grams_of(clean[long[one]], COMPARED_GRAM) for one in np.union1d(first, second).tolist()}
    pairs = zip(first.tolist(), second.tolist(), strict=True)
    similarity = np.array([_jaccard(short[one], short[other]) for one, other in pairs])
    kept = similarity >= least_similarity if len(similarity) else np.zeros(0, bool)
    return Pairs(long[first[kept]], long[second[kept]], similarity[kept].astype(np.float64))


def signatures(grams: Sequence[UInts]) -> UInts:
    """MinHash signatures [N, bands x rows] of texts with at least one n-gram each."""
    num_hashes = NUM_BANDS * ROWS_A_BAND
    salts = np.random.default_rng(SEED).integers(0, 2**63, num_hashes, dtype=np.uint64)
    found = np.empty((len(grams), num_hashes), np.uint64)
    lengths = np.array([len(one) for one in grams])
    for rows in np.array_split(np.arange(len(grams)), max(1, int(lengths.sum()) // BLOCK_GRAMS)):
        if len(rows):
            joined = np.concatenate([grams[row] for row in rows])
            starts = np.concatenate([[0], np.cumsum(lengths[rows])[:-1]])
            for number, salt in enumerate(salts):
                found[rows, number] = np.minimum.reduceat(_mixed(joined ^ salt), starts)
    return found


def groups_of(pairs: Pairs, num_texts: int) -> Ints:
    """The group of each text [N], the smallest index of those that pairs connect with it."""
    group = np.arange(num_texts)
    while True:
        lowest = group.copy()
        np.minimum.at(lowest, pairs.first, group[pairs.second])
        np.minimum.at(lowest, pairs.second, group[pairs.first])
        lowest = lowest[lowest]
        if (lowest == group).all():
            return group
        group = lowest


def _candidates(signature: UInts) -> tuple[Ints, Ints]:
    """Pairs that agree in at least one band, sorted and without repeats."""
    num_texts = len(signature)
    found = list[Ints]()
    for band in range(NUM_BANDS):
        key = np.zeros(num_texts, np.uint64)
        for column in range(band * ROWS_A_BAND, (band + 1) * ROWS_A_BAND):
            key = _mixed(key ^ signature[:, column])
        order = np.argsort(key, kind="stable")
        ends = np.flatnonzero(np.diff(key[order])) + 1
        for bucket in np.split(order, ends):
            if len(bucket) > 1:
                found.append(_pairs_of(np.sort(bucket), num_texts))
    codes = np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
    return codes // num_texts, codes % num_texts


def _pairs_of(bucket: Ints, num_texts: int) -> Ints:
    """All pairs of a bucket as codes; of a large one only each text with the next and with the first."""
    if len(bucket) <= MAX_BUCKET:
        first, second = np.triu_indices(len(bucket), 1)
        return np.asarray(bucket[first] * num_texts + bucket[second], np.int64)
    chained = bucket[:-1] * num_texts + bucket[1:]
    return np.concatenate([chained, bucket[0] * num_texts + bucket[1:]])


def _jaccard(first: UInts, second: UInts) -> float:
    common = len(np.intersect1d(first, second, assume_unique=True))
    return common / (len(first) + len(second) - common)


def _mixed(values: UInts) -> UInts:
    """The finaliser of SplitMix64 (Steele et al., 2014): a bijection that looks random."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: UInts = values ^ (values >> np.uint64(31))
    return mixed
