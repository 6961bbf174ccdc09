"""A membership test by loss, on synthetic users of whom some are trained on and some were never seen."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.recommender.data import Histories, collate
from models.recommender.held_out import Example
from models.recommender.networks.recommender import Recommender
from models.recommender.schema import Schema

Floats = npt.NDArray[np.float64]
NUM_ITEMS, NUM_EVENTS = 120, 6


def random_users(names: list[str], *, seed: int) -> dict[str, list[str]]:
    """Histories without any pattern: what a model knows of a user's next item it has from that user."""
    draw = random.Random(seed)
    return {name: [f"i{draw.randrange(NUM_ITEMS):03d}" for _ in range(NUM_EVENTS)] for name in names}


def write_log(path: Path, users: dict[str, list[str]]) -> Path:
    """The log as sequences."""
    path.write_text("\n".join(f"{user} {' '.join(items)}" for user, items in users.items()) + "\n", encoding="utf-8")
    return path


def losses(network: Recommender, schema: Schema, users: dict[str, list[str]], *, place: int) -> Floats:
    """Of each user the rank of an item among all, given the events before it: low for what a model knows.

    Place NUM_EVENTS - 3 is trained on where the user is, the last place is held out from training by leave-one-out.
    """
    examples = [
        Example(history=[schema.index[item] for item in items[:place]], count=schema.num_items)
        for items in users.values()
    ]
    batch = collate(examples)
    assert isinstance(batch, Histories)
    targets = [schema.index[items[place]] for items in users.values()]
    predictions = network.predict(batch)
    return np.array([float(list(each.items).index(target)) for each, target in zip(predictions, targets, strict=True)])


def auc(of_members: Floats, of_others: Floats) -> float:
    """The probability that a member has a smaller loss than another user; ties count half (Mann-Whitney U)."""
    less = (of_members[:, None] < of_others[None, :]).mean()
    ties = (of_members[:, None] == of_others[None, :]).mean()
    return float(less + ties / 2)
