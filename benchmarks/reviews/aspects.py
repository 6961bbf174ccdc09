"""Polarity of given aspect terms and extraction of terms on SemEval-2014 task 4, in 5 folds grouped by sentence.

Polarity has three classes; terms whose polarity is "conflict" are left out. The rival is a logistic regression of
TF-IDF of words and pairs of words in a window of 40 characters around the term. All systems see the same folds;
differences to the rival are paired by term, with 95 % intervals from 2,000 bootstrap samples of sentences. Published
systems (TNet and the like) use the official test set and pretrained vectors; nothing here is pretrained. The n-grams'
penalty and the share of naive Bayes were chosen on folds of the laptops, whose numbers are therefore a little
optimistic. Extraction is scored by exact spans.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from benchmarks.kit import measure
from benchmarks.kit.measure import Answer
from benchmarks.kit.page import Spread, Table, write_page
from models.reviews.aspects.english import ENGLISH
from models.reviews.aspects.network import POLARITIES, PolaritySettings, fit_polarity, predict_polarity
from models.reviews.aspects.tags import find_terms, fit_tagger
from models.reviews.aspects.terms import term_inputs

DOMAINS = ("restaurants", "laptops")
FOLDS = 5
WINDOW = 40
NUM_SAMPLES = 2000
FOLD = "median [lowest, highest] of the folds"
RIVAL = "TF-IDF window"


def main() -> None:
    """Cross-validate every system with every seed and write the page."""
    parser = measure.flags(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of folds and networks")
    parser.add_argument("--members", type=int, default=2, help="convolutions of each network")
    arguments = measure.read(parser)
    torch.set_num_threads(arguments.threads)
    found: dict[str, list[Answer]] = {}
    for domain in DOMAINS:
        rows = pq.read_table(Path(arguments.data) / f"{domain}_train.parquet").to_pylist()
        rows = rows[::10] if arguments.quick else rows
        for seed in arguments.seeds:
            for system, answer in polarity(rows, seed, arguments.members).items():
                found.setdefault(f"{domain}|{system}", []).append(answer)
                print(domain, system, answer, flush=True)
            found.setdefault(f"{domain}|terms by tags", []).append(extraction(rows, seed))
    write_page("reviews-aspects", __doc__, arguments, tabulate(found), {"measured": found})


def polarity(rows: list[Answer], seed: int, members: int) -> dict[str, Answer]:
    """Accuracy and macro-F1 of each system over all folds."""
    terms = [
        (row["text"], one["from"], one["to"], POLARITIES.index(one["polarity"]))
        for row in rows
        for one in row["aspect_terms"]
        if one["polarity"] in POLARITIES
    ]
    texts, starts, ends, labels = (list(column) for column in zip(*terms, strict=True))
    truth = np.array(labels, np.int64)
    groups = groups_of(texts)
    fold = folds(groups, seed)
    inputs = term_inputs(texts, starts, ends, ENGLISH)
    windows = [text[max(0, start - WINDOW) : end + WINDOW] for text, start, end, _ in terms]
    systems: dict[str, NDArray[np.float64]] = {}
    seconds: dict[str, float] = {}
    for name in (RIVAL, "n-grams and opinions", "network"):
        started = time.process_time()
        systems[name] = np.zeros((len(truth), 3))
        for number in range(FOLDS):
            train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            if name == RIVAL:
                systems[name][test] = rival(windows, truth, train, test)
            else:
                settings = PolaritySettings(members=members if name == "network" else 0, seed=seed)
                network = fit_polarity(inputs.rows(train), truth[train], settings)
                systems[name][test] = predict_polarity(network, inputs.rows(test))
        seconds[name] = time.process_time() - started
    guesses = {name: chances.argmax(1) for name, chances in systems.items()} | {"majority": np.full(len(truth), 2)}
    return {
        name: {
            "accuracy": float((guess == truth).mean()),
            "macro_f1": macro_f1(truth, guess),
            "n": len(truth),
            "folds": [float((guess == truth)[fold == number].mean()) for number in range(FOLDS)],
            "core_seconds": seconds.get(name, 0.0),
            "difference": paired(guess == truth, guesses[RIVAL] == truth, groups),
        }
        for name, guess in guesses.items()
    }


def rival(
    windows: list[str], truth: NDArray[np.int64], train: NDArray[np.int64], test: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Probabilities of the TF-IDF regression."""
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    known = vectors.fit_transform([windows[row] for row in train])
    model = LogisticRegression(C=4, max_iter=500).fit(known, truth[train])
    return np.asarray(model.predict_proba(vectors.transform([windows[row] for row in test])))


def extraction(rows: list[Answer], seed: int) -> Answer:
    """F1 of exact spans of terms over all folds."""
    texts = [row["text"] for row in rows]
    spans = [[(one["from"], one["to"]) for one in row["aspect_terms"]] for row in rows]
    fold = folds(groups_of(texts), seed)
    started, counts = time.process_time(), np.zeros((FOLDS, 3))
    for number in range(FOLDS):
        train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        network = fit_tagger([texts[row] for row in train], [spans[row] for row in train], ENGLISH)
        for row, found in zip(test, find_terms(network, [texts[row] for row in test], ENGLISH), strict=True):
            counts[number] += len(set(found) & set(spans[row])), len(found), len(spans[row])
    hits, said, there = counts.sum(0)
    return {
        "f1": float(2 * hits / (said + there)),
        "precision": float(hits / max(said, 1)),
        "recall": float(hits / there),
        "n": int(there),
        "sentences": len(texts),
        "folds": [float(2 * own / (found + real)) for own, found, real in counts],
        "core_seconds": time.process_time() - started,
    }


def groups_of(texts: list[str]) -> NDArray[np.int64]:
    """The sentence of each row; repeated sentences are one."""
    return np.unique([text.strip().lower() for text in texts], return_inverse=True)[1].astype(np.int64)


def folds(groups: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The fold of each row."""
    return np.random.default_rng(seed).permutation(int(groups.max()) + 1)[groups] % FOLDS


def macro_f1(truth: NDArray[np.int64], guess: NDArray[np.int64]) -> float:
    """The mean of the F1 of the classes."""
    scores = []
    for one in range(3):
        hits = int(((truth == one) & (guess == one)).sum())
        scores.append(2 * hits / max(int((truth == one).sum() + (guess == one).sum()), 1))
    return float(np.mean(scores))


def paired(first: NDArray[np.bool_], second: NDArray[np.bool_], groups: NDArray[np.int64]) -> list[float]:
    """The difference of two accuracies with a 95 % interval, from bootstrap samples of sentences."""
    gains = np.bincount(groups, first.astype(float) - second, int(groups.max()) + 1)
    sizes = np.bincount(groups, minlength=len(gains))
    draws = np.random.default_rng(0).multinomial(len(gains), np.full(len(gains), 1 / len(gains)), NUM_SAMPLES)
    means = draws @ gains / (draws @ sizes)
    return [float(gains.sum() / sizes.sum()), *(float(one) for one in np.quantile(means, [0.025, 0.975]))]


def tabulate(found: dict[str, list[Answer]]) -> list[Table]:
    """Polarity with the difference to the rival, and extraction."""
    rows, extracted = [], []
    for key, answers in found.items():
        domain, system = key.split("|")
        if "f1" in answers[0]:
            cells = [Spread.of(one[name] for one in answers).text(".3f") for name in ("f1", "precision", "recall")]
            num = f"{answers[0]['n']:,} in {answers[0]['sentences']:,} sentences"
            extracted.append(
                [domain, num, *cells, of_folds(answers), Spread.of(one["core_seconds"] for one in answers).text(".0f")]
            )
            continue
        cells = [Spread.of(one[name] for one in answers).text(".3f") for name in ("accuracy", "macro_f1")]
        mean, low, high = (float(np.mean([one["difference"][place] for one in answers])) for place in range(3))
        seconds = Spread.of(one["core_seconds"] for one in answers).text(".0f")
        num = f"{answers[0]['n']:,}"
        rows.append([domain, system, num, *cells, of_folds(answers), f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]", seconds])
    header = [
        "domain",
        "system",
        "terms",
        "accuracy",
        "macro-F1",
        f"accuracy, {FOLD}",
        "accuracy against TF-IDF",
        "core-seconds",
    ]
    found_header = ["domain", "terms", "F1", "precision", "recall", f"F1, {FOLD}", "core-seconds"]
    terms = Table("Terms by tags, exact spans", found_header, extracted)
    return [Table("Polarity of given terms", header, rows), terms]


def of_folds(answers: list[Answer]) -> str:
    """The median, lowest and highest of the folds of all seeds."""
    return Spread.of(one for answer in answers for one in answer["folds"]).text(".3f")


if __name__ == "__main__":
    main()
