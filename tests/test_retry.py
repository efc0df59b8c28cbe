"""Which failures are tried again, and how long to wait before."""

from __future__ import annotations

import math
import pickle
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow.errors import GraphError
from asyncflow.retry import NEVER, Retry, RetryAfter

waits = st.floats(0, 1e300)
FAULT = ValueError("no")


def test_a_number_is_a_policy_with_that_many_retries() -> None:
    assert Retry.of(3) == Retry(retries=3)


def test_a_policy_stays_as_it_is() -> None:
    policy = Retry(2, wait_initial=1)
    assert Retry.of(policy) is policy


def test_a_policy_pickles() -> None:
    policy = Retry(2, on=(ValueError, KeyError))
    assert pickle.loads(pickle.dumps(policy)) == policy


# -- whether -------------------------------------------------------------------------


@pytest.mark.parametrize("attempt, again", [(1, True), (2, True), (3, False), (4, False)])
def test_the_retries_come_after_the_first_attempt(attempt: int, again: bool) -> None:
    assert Retry(2).wants(FAULT, attempt) is again


def test_without_retries_nothing_is_tried_again() -> None:
    assert not NEVER.wants(FAULT, 1)
    assert not NEVER.wants(RetryAfter(1), 1)


@pytest.mark.parametrize(
    "on, error, again",
    [
        (Exception, FAULT, True),
        (Exception, KeyboardInterrupt(), False),
        (ValueError, UnicodeError(), True),
        (KeyError, FAULT, False),
        ((KeyError, ValueError), FAULT, True),
        ((), FAULT, False),
        (lambda error: "no" in str(error), FAULT, True),
        (lambda error: [], FAULT, False),
    ],
)
def test_on_says_which_errors_are_tried_again(on: Any, error: BaseException, again: bool) -> None:
    assert Retry(1, on=on).wants(error, 1) is again


def test_a_step_that_asks_for_another_try_gets_it_whatever_on_says() -> None:
    assert Retry(1, on=KeyError).wants(RetryAfter(5), 1)


# -- how long ------------------------------------------------------------------------


def test_waits_double_until_they_reach_the_longest() -> None:
    policy = Retry(9, wait_initial=0.5, wait_max=3, wait_jitter=0)
    waits = [policy.delay_seconds(FAULT, attempt, Random(0)) for attempt in range(1, 6)]
    assert waits == [0.5, 1, 2, 3, 3]


@pytest.mark.parametrize("attempt", [65, 1_025, 10_000, 10**9])
def test_the_wait_is_clamped_however_many_attempts_there_were(attempt: int) -> None:
    policy = Retry(10**9, wait_initial=1e-9, wait_max=30)
    assert policy.delay_seconds(FAULT, attempt, Random(0)) == 30


@given(waits, waits, waits, st.integers(1, 10_000), st.integers())
def test_a_wait_stays_within_its_bounds(
    initial: float, longest: float, jitter: float, attempt: int, seed: int
) -> None:
    policy = Retry(1, wait_initial=initial, wait_max=longest, wait_jitter=jitter)
    wait = policy.delay_seconds(FAULT, attempt, Random(seed))
    least = initial * 2.0 ** min(attempt - 1, 64)
    assert min(longest, least) <= wait <= min(longest, least + jitter)


def test_jitter_spreads_the_waits() -> None:
    policy, random = Retry(1, wait_initial=1, wait_jitter=1), Random(7)
    waits = [policy.delay_seconds(FAULT, 1, random) for _ in range(200)]
    assert min(waits) < 1.1
    assert max(waits) > 1.9


@pytest.mark.parametrize("seconds", [0, 1, 2.5, 1000])
def test_a_step_that_says_when_is_tried_again_just_then(seconds: float) -> None:
    policy = Retry(1, wait_initial=7, wait_max=30)
    assert policy.delay_seconds(RetryAfter(seconds), 1, Random(0)) == seconds


# -- what is refused -----------------------------------------------------------------


@pytest.mark.parametrize("retries", [-1, 1.5, "3", True, None, math.inf])
def test_a_number_of_retries_that_is_none_is_refused(retries: Any) -> None:
    with pytest.raises(GraphError) as caught:
        Retry.of(retries)
    assert str(caught.value) == f"retry takes a whole number of 0 or more, got {retries!r}"


@pytest.mark.parametrize("name", ["wait_initial", "wait_max", "wait_jitter"])
@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf, "1", True, None, 10**400])
def test_a_wait_that_is_none_is_refused(name: str, seconds: Any) -> None:
    with pytest.raises(GraphError) as caught:
        Retry(1, **{name: seconds})
    assert str(caught.value).startswith(f"Retry({name}=…) takes finite seconds of 0 or more, got ")


@pytest.mark.parametrize("on", [None, "ValueError", [ValueError], int, (ValueError, int), (1,)])
def test_on_that_is_neither_types_nor_a_predicate_is_refused(on: Any) -> None:
    with pytest.raises(GraphError) as caught:
        Retry(1, on=on)
    assert str(caught.value) == f"Retry(on=…) takes exception types or a predicate, got {on!r}"


@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf, "1", True])
def test_a_time_to_try_again_that_is_none_is_refused(seconds: Any) -> None:
    with pytest.raises(ValueError, match="RetryAfter takes finite seconds of 0 or more"):
        RetryAfter(seconds)


def test_a_wish_to_be_tried_again_says_so_and_pickles() -> None:
    assert str(RetryAfter(2.5)) == "try again in 2.5 s"
    again = pickle.loads(pickle.dumps(RetryAfter(3, "rate limit")))
    assert (again.seconds, str(again)) == (3.0, "rate limit")
