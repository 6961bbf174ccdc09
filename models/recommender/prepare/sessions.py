"""Sessions: the visits of a user, by their session ids or by the gaps between events, and repeats within them."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def gap_us(text: str) -> int:
    """Microseconds of a duration such as 45s, 30m, 2h or 1d; a plain number is minutes. Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    found = round(float(match[1]) * SECONDS[match[2] or "m"] * 1_000_000) if match else 0
    if not found:
        raise ValueError(f"--session-gap {text} is not a duration; write e.g. 45s, 30m or 2h")
    return found


def number_sessions(user: Int64s, session: Int64s, time_us: Int64s, *, gap: int) -> npt.NDArray[np.int32]:
    """The session of each event, counted from 0 for each user in order of their first events.

    Events are sorted by user and time. Equal `session` values of a user are one session, also where two alternate; an
    event without one (-1) begins a session if it comes more than `gap` microseconds after the user's last such event.
    """
    if len(user) == 0:
        return np.zeros(0, np.int32)
    unnamed = np.flatnonzero(session < 0)
    begins = np.ones(len(unnamed), bool)
    begins[1:] = (np.diff(user[unnamed]) != 0) | (np.diff(time_us[unnamed]) > gap)
    key = session.copy()
    key[unnamed] = session.max() + np.cumsum(begins)
    heads = np.ones(len(user), bool)
    heads[1:] = (np.diff(user) != 0) | (np.diff(key) != 0)
    _, first, of_run = np.unique(user[heads] * (key.max() + 1) + key[heads], return_index=True, return_inverse=True)
    # Number the sessions by their first events, then start again at 0 with each user.
    by_first = np.argsort(first)
    number = np.empty(len(first), np.int64)
    number[by_first] = np.arange(len(first))
    numbers = number[of_run][np.cumsum(heads) - 1]
    first_of_user = np.flatnonzero(np.concatenate([[True], np.diff(user) != 0]))
    lengths = np.diff(np.append(first_of_user, len(user)))
    of_user: npt.NDArray[np.int32] = (numbers - np.repeat(numbers[first_of_user], lengths)).astype(np.int32)
    return of_user


def immediate_repeats(
    user: Int64s, session: npt.NDArray[np.int32], item: Int64s, kind: Int64s
) -> npt.NDArray[np.bool_]:
    """Whether an event has the user, session, item and type of the one before it."""
    repeats = np.ones(len(user), bool)
    repeats[:1] = False
    for key in (user, session.astype(np.int64), item, kind):
        repeats[1:] &= key[1:] == key[:-1]
    return repeats
