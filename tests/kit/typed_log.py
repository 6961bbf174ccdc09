"""A synthetic log with event types whose right answer is known: purchases follow from what was put in the cart."""

from __future__ import annotations

import random

NUM_ITEMS = 60
SUCCESSOR_SHARE = 0.8
"""Share of views that go on to the next item of the chain; the others are of any item."""
NUM_DAYS = 40


def partner(item: int) -> int:
    """What is bought by a user who put an item in the cart."""
    return (7 * item + 3) % NUM_ITEMS


def name(item: int) -> str:
    """Id of an item."""
    return f"i{item:02d}"


def typed_log(*, num_users: int = 600, num_visits: int = 5, seed: int = 0) -> list[dict[str, str | float]]:
    """Visits of users: views along a chain of items, one of which is put in the cart, and last a purchase.

    The purchase is the partner of the item in the cart, views lie between the two, and a third of the visits end
    without one. A model that ignores types can only tell which item is viewed next. The price of an item is its number.
    """
    draw = random.Random(seed)
    rows: list[dict[str, str | float]] = []
    for user in range(num_users):
        for day in sorted(draw.sample(range(NUM_DAYS), num_visits)):
            item, cart = draw.randrange(NUM_ITEMS), draw.randrange(1, 4)
            seconds = 1_700_006_400 + day * 86_400
            events = []
            for step in range(cart + draw.randrange(1, 4)):
                chained = draw.random() < SUCCESSOR_SHARE
                item = (item + 1) % NUM_ITEMS if chained else draw.randrange(NUM_ITEMS)
                events.append(("addtocart" if step == cart else "view", item))
            if draw.random() < 2 / 3:
                bought = next((item for kind, item in events if kind == "addtocart"), None)
                if bought is not None:
                    events.append(("purchase", partner(bought)))
            for kind, item in events:
                seconds += 60
                event: dict[str, str | float] = {"user_id": f"u{user}", "item_id": name(item), "timestamp": seconds}
                rows.append({**event, "event_type": kind, "price": 1.0 + item})
    draw.shuffle(rows)
    return rows
