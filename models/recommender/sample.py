"""A synthetic shop whose users follow known item-to-item transitions, so that the best recommendations are known."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from models.sample import Question, Sample

CATEGORIES = ("tea", "coffee", "mugs", "cake", "candles", "cards", "toys", "plants", "lamps", "scarves")
BRANDS = ("Alder", "Birch", "Cedar", "Hazel", "Rowan")
STYLES = ("small", "large", "red", "blue", "green", "striped", "plain", "golden")
NUM_FOLLOWERS = 3
FOLLOWER_WEIGHTS = (0.6, 0.25, 0.15)
"""Probability of each follower of an item, in a step that follows the transitions."""
TRANSITION_SHARE = 0.7
"""Share of steps that do, across visits too; the others draw an item from the user's preferences."""
MEAN_VISIT_LENGTH = 5
FIRST_DAY = datetime(2025, 1, 1, tzinfo=UTC)
NUM_DAYS = 180
MISSING_USERS, BAD_TIMES, DUPLICATES, RETURNS = 0.002, 0.002, 0.005, 0.003
"""Shares of dirty rows; together the bad ones stay below the default --max-bad-fraction of 0.01."""

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shop:
    """Where the synthetic log is, and its ground truth."""

    events: Path
    items: Path
    followers: dict[str, tuple[str, ...]]
    """Item id -> the items that follow it in the transitions, most likely first."""
    regulars: tuple[str, ...]
    """Users with the most events, most first."""


def sample(directory: Path) -> Sample:
    """A small synthetic shop for the demo, with questions to ask its endpoint."""
    shop = write_sample(directory)
    seen = next(iter(shop.followers))
    likely = ", ".join(shop.followers[seen])
    return Sample(
        prepare={"raw": str(shop.events), "items": str(shop.items)},
        train={"network": "transformer", "epochs": 3, "max_length": 50, "dim": 32, "num_blocks": 1},
        questions=(
            Question("a known user", {"user_id": shop.regulars[0], "count": 5}, "based on the user's last events"),
            Question("a new user", {"history": [seen], "count": 5}, f"{seen} is mostly followed by {likely}"),
            Question("an anonymous user", {"count": 5}, "no history: popular items"),
        ),
    )


def write_sample(
    directory: Path, *, num_users: int = 1500, num_items: int = 300, num_events: int = 30_000, seed: int = 0
) -> Shop:
    """Write events.parquet and items.parquet of a synthetic shop into a directory; deterministic in its arguments."""
    if num_items < 2 * NUM_FOLLOWERS or num_users < 1 or num_events < num_users:
        raise ValueError(
            f"a shop of {num_users} users, {num_items} items and {num_events} events is too small; "
            f"it needs at least {2 * NUM_FOLLOWERS} items and an event for each user"
        )
    draw = np.random.default_rng(seed)
    directory.mkdir(parents=True, exist_ok=True)
    category = np.arange(num_items) % min(len(CATEGORIES), num_items // NUM_FOLLOWERS)
    appeal = np.asarray((1.0 + draw.permutation(num_items)) ** -0.8, dtype=np.float64)
    followers = _followers(category, draw)
    users, items, seconds = _visits(
        draw, num_users=num_users, num_events=num_events, category=category, appeal=appeal, followers=followers
    )
    shop = Shop(
        events=directory / "events.parquet",
        items=directory / "items.parquet",
        followers={_item(place): tuple(_item(next_) for next_ in row) for place, row in enumerate(followers)},
        regulars=tuple(_user(place) for place in np.argsort(-np.bincount(users), kind="stable")[:10]),
    )
    prices = np.round(draw.lognormal(2.0, 0.7, num_items), 2)
    pq.write_table(_item_table(category, prices=prices, draw=draw), shop.items)
    pq.write_table(_event_table(users, items, seconds, prices=prices, draw=draw), shop.events)
    return shop


def _followers(category: Numbers, draw: np.random.Generator) -> Numbers:
    """The items that follow each item, [items, NUM_FOLLOWERS]: two of its category, the last from anywhere."""
    rows = []
    for place in range(len(category)):
        near = np.flatnonzero((category == category[place]) & (np.arange(len(category)) != place))
        anywhere = np.delete(np.arange(len(category)), [place, *near])
        rows.append([*draw.choice(near, NUM_FOLLOWERS - 1, replace=False), draw.choice(anywhere)])
    return np.array(rows, dtype=np.int64)


def _visits(
    draw: np.random.Generator,
    *,
    num_users: int,
    num_events: int,
    category: Numbers,
    appeal: npt.NDArray[np.float64],
    followers: Numbers,
) -> tuple[Numbers, Numbers, Numbers]:
    """User, item and epoch second of every event."""
    lengths = 1 + draw.multinomial(num_events - num_users, draw.dirichlet(np.full(num_users, 1.5)))
    in_category = [np.flatnonzero(category == number) for number in range(category.max() + 1)]
    chances = [appeal[places] / appeal[places].sum() for places in in_category]
    items: list[int] = []
    seconds: list[int] = []
    for length in lengths:
        num_visits = 1 + int(length) // MEAN_VISIT_LENGTH
        starts = np.sort(draw.integers(0, NUM_DAYS * 86_400, num_visits))
        visits = np.sort(draw.integers(0, num_visits, length))
        taste = draw.dirichlet(np.full(len(in_category), 0.3))
        liked = np.zeros(len(category))
        for places, chance, share in zip(in_category, chances, taste, strict=True):
            liked[places] = chance * share
        items += _purchases(draw, int(length), liked=liked, followers=followers)
        seconds += [int(starts[visit]) + 60 * step for step, visit in enumerate(visits)]
    users = np.repeat(np.arange(num_users), lengths)
    return users, np.array(items), np.array(seconds) + int(FIRST_DAY.timestamp())


def _purchases(
    draw: np.random.Generator, length: int, *, liked: npt.NDArray[np.float64], followers: Numbers
) -> list[int]:
    """The items of one user, without repeats while other items are left."""
    bought: list[int] = []
    while len(bought) < length:
        if bought and draw.random() < TRANSITION_SHARE:
            wanted = np.zeros(len(liked))
            wanted[followers[bought[-1]]] = FOLLOWER_WEIGHTS
            wanted[bought] = 0.0
            if wanted.sum() > 0:
                bought.append(int(draw.choice(len(liked), p=wanted / wanted.sum())))
                continue
        fresh = liked.copy()
        fresh[bought] = 0.0
        chances = fresh if fresh.sum() > 0 else liked
        bought.append(int(draw.choice(len(liked), p=chances / chances.sum())))
    return bought


def _item_table(category: Numbers, *, prices: npt.NDArray[np.float64], draw: np.random.Generator) -> pa.Table:
    names = [CATEGORIES[number] for number in category]
    brands = draw.choice(BRANDS, len(category))
    styles = draw.choice(STYLES, len(category))
    titles = [f"{brand} {style} {name}" for brand, style, name in zip(brands, styles, names, strict=True)]
    return pa.table(
        {
            "item_id": [_item(place) for place in range(len(category))],
            "title": titles,
            "category": names,
            "brand": brands.tolist(),
            "price": prices,
        }
    )


def _event_table(
    users: Numbers, items: Numbers, seconds: Numbers, *, prices: npt.NDArray[np.float64], draw: np.random.Generator
) -> pa.Table:
    """The events in random order, a few of them dirty, as in a real log."""
    count = len(users)
    user_ids = np.array([_user(user) for user in users], dtype=object)
    user_ids[_some(count, MISSING_USERS, draw)] = None
    times = np.array([datetime.fromtimestamp(int(second), UTC).isoformat() for second in seconds], dtype=object)
    times[_some(count, BAD_TIMES, draw)] = "yesterday"
    quantities = np.ones(count, dtype=np.int64)
    quantities[_some(count, RETURNS, draw)] = -1
    columns = {
        "event_id": [f"e{place:07d}" for place in range(count)],
        "user_id": user_ids.tolist(),
        "item_id": [_item(item) for item in items],
        "timestamp": times.tolist(),
        "event_type": ["purchase"] * count,
        "quantity": quantities,
        "price": prices[items],
        "currency": ["EUR"] * count,
    }
    repeated = _some(count, DUPLICATES, draw)
    return pa.table(columns).take(draw.permutation(np.concatenate([np.arange(count), repeated])))


def _some(count: int, share: float, draw: np.random.Generator) -> Numbers:
    return draw.choice(count, int(share * count), replace=False)


def _user(place: int) -> str:
    return f"shopper-{place:05d}"


def _item(place: int) -> str:
    return f"item-{place:05d}"
