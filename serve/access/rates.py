"""Rate limits by token bucket (a bucket of tokens that refills at a constant rate, and a token for each request)."""

from __future__ import annotations

import math
from dataclasses import dataclass

BURST_S = 1.0
"""A bucket holds what its rate gives in this time, and at least one token."""


@dataclass(frozen=True)
class Taken:
    """The outcome of taking a token."""

    is_allowed: bool
    limit: int
    """Tokens that the full bucket holds."""
    window_s: float
    """In which an empty bucket becomes full."""
    remaining: int
    """Whole tokens that are left."""
    wait_s: float
    """Until there is a token again; 0 if there is one."""


class Bucket:
    """The bucket of one client in this replica."""

    def __init__(self, requests_per_s: float, *, now_s: float) -> None:
        """Full at first; `now_s` is of a monotonic clock."""
        self.requests_per_s = requests_per_s
        self._tokens = self._capacity
        self._at_s = now_s

    @property
    def _capacity(self) -> float:
        return max(1.0, self.requests_per_s * BURST_S)

    def set_rate(self, requests_per_s: float) -> None:
        """Another rate from now on, as when the number of replicas changes; what is in the bucket stays, if it fits."""
        if requests_per_s != self.requests_per_s:
            self.requests_per_s = requests_per_s
            self._tokens = min(self._tokens, self._capacity)

    def take(self, now_s: float) -> Taken:
        """Take a token if there is one."""
        rate, capacity = self.requests_per_s, self._capacity
        self._tokens = min(capacity, self._tokens + (now_s - self._at_s) * rate)
        self._at_s = now_s
        is_allowed = self._tokens >= 1.0
        if is_allowed:
            self._tokens -= 1.0
        left = self._tokens
        return Taken(
            is_allowed,
            limit=math.floor(capacity),
            window_s=capacity / rate,
            remaining=math.floor(left),
            wait_s=0.0 if left >= 1.0 else (1.0 - left) / rate,
        )
