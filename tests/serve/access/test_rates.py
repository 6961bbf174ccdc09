"""Rate limits by key: how much is let through, what a client is told, and how replicas share a rate."""

from __future__ import annotations

import pytest

from serve.access.rates import Bucket
from tests.kit.guarded_toy import GuardedToy


def test_a_bucket_lets_a_burst_through_and_then_the_rate() -> None:
    bucket = Bucket(10.0, now_s=0.0)

    at_once = [bucket.take(0.0).is_allowed for _ in range(12)]
    later = [bucket.take(0.35).is_allowed for _ in range(5)]

    assert at_once == [True] * 10 + [False] * 2
    assert later == [True] * 3 + [False] * 2


def test_an_idle_bucket_does_not_overflow() -> None:
    bucket = Bucket(2.0, now_s=0.0)

    assert [bucket.take(3600.0).is_allowed for _ in range(3)] == [True, True, False]


def test_a_slow_rate_lets_one_through_at_a_time_and_says_when_the_next_one_may_come() -> None:
    bucket = Bucket(1 / 60, now_s=0.0)

    assert bucket.take(0.0).is_allowed
    refused = bucket.take(15.0)

    assert not refused.is_allowed
    assert refused.wait_s == pytest.approx(45.0)
    assert bucket.take(15.0 + refused.wait_s).is_allowed


def test_a_key_over_its_rate_gets_a_429_that_says_when_to_come_back(endpoint: GuardedToy) -> None:
    header = endpoint.add("read", requests_per_s=2.0)

    allowed, last, refused = (endpoint.ask(header) for _ in range(3))
    endpoint.clock.now_s += 0.5
    again = endpoint.ask(header)

    assert [each.status_code for each in (allowed, last, refused, again)] == [200, 200, 429, 200]
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["retry-after"] == "1"
    assert (allowed.headers["ratelimit-policy"], allowed.headers["ratelimit"]) == ('"key";q=2;w=1', '"key";r=1;t=0')
    assert refused.headers["ratelimit"] == '"key";r=0;t=1'


def test_a_key_without_a_rate_and_requests_without_keys_have_no_limit(endpoint: GuardedToy) -> None:
    assert "ratelimit" not in endpoint.ask().headers

    header = endpoint.add("read")

    answers = [endpoint.ask(header) for _ in range(100)]
    assert {each.status_code for each in answers} == {200}
    assert "ratelimit" not in answers[0].headers


def test_both_keys_of_a_name_share_one_rate_and_other_names_have_their_own(endpoint: GuardedToy) -> None:
    old, new = (endpoint.add("read", requests_per_s=2.0) for _ in range(2))
    other = endpoint.add("read", name="other", requests_per_s=2.0)

    assert [endpoint.ask(key).status_code for key in (old, new, old, new)] == [200, 200, 429, 429]
    assert endpoint.ask(other).status_code == 200


def test_a_rate_is_divided_by_the_number_of_replicas(endpoint: GuardedToy) -> None:
    header = endpoint.add("read", requests_per_s=4.0)
    endpoint.service.guard.num_replicas = lambda: 2

    assert [endpoint.ask(header).status_code for _ in range(3)] == [200, 200, 429]


def test_refused_requests_do_not_use_up_the_rate(endpoint: GuardedToy) -> None:
    header = endpoint.add("read", requests_per_s=1.0)

    assert [endpoint.client.get("/metrics", headers=header).status_code for _ in range(5)] == [403] * 5
    assert endpoint.ask(header).status_code == 200
