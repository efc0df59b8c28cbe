"""How jobs are put together."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow.flow import aggregator, get_aggregate_id


class Job:
    """As much of a job as aggregators look at."""

    def __init__(self, **statepoint: Any) -> None:
        self.cached_statepoint = statepoint
        self.id = repr(statepoint)

    def __repr__(self) -> str:
        return self.id


def jobs(*values: Any) -> list[Job]:
    return [Job(i=value) for value in values]


def values(aggregates: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [tuple(job.cached_statepoint["i"] for job in one) for one in aggregates]


def test_by_default_all_jobs_are_one_aggregate() -> None:
    assert values(aggregator().aggregates(jobs(3, 1, 2))) == [(3, 1, 2)]


def test_without_jobs_there_is_no_aggregate() -> None:
    assert aggregator().aggregates([]) == []


@given(count=st.integers(0, 30), num=st.integers(1, 8))
def test_groupsof_cuts_into_slices_and_the_last_has_the_rest(count: int, num: int) -> None:
    found = values(aggregator.groupsof(num).aggregates(jobs(*range(count))))
    assert [value for one in found for value in one] == list(range(count))
    assert all(len(one) == num for one in found[:-1])
    assert not found or 1 <= len(found[-1]) <= num


@pytest.mark.parametrize("num, error", [(0, ValueError), (1.5, TypeError), (True, TypeError)])
def test_groupsof_wants_a_whole_number(num: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="groupsof"):
        aggregator.groupsof(num)


def test_groupby_puts_together_what_agrees() -> None:
    some = [Job(i=i, parity=i % 2) for i in range(5)]
    assert values(aggregator.groupby("parity").aggregates(some)) == [(0, 2, 4), (1, 3)]


def test_groupby_takes_a_default_for_jobs_without_the_key() -> None:
    some = [Job(i=0, kind="b"), Job(i=1)]
    assert values(aggregator.groupby("kind", default="a").aggregates(some)) == [(1,), (0,)]


def test_groupby_takes_several_keys_and_functions() -> None:
    some = [Job(i=i, a=i // 2, b=0) for i in range(4)]
    assert values(aggregator.groupby(["a", "b"]).aggregates(some)) == [(0, 1), (2, 3)]
    by_size = aggregator.groupby(lambda job: job.cached_statepoint["i"] > 0)
    assert values(by_size.aggregates(some)) == [(0,), (1, 2, 3)]


def test_groupby_wants_as_many_defaults_as_keys() -> None:
    with pytest.raises(ValueError, match="2 keys and 1 defaults"):
        aggregator.groupby(["a", "b"], default=[1])
    with pytest.raises(TypeError, match="as many defaults"):
        aggregator.groupby(["a", "b"], default="x")


def test_jobs_are_selected_and_sorted_before() -> None:
    odd = aggregator(
        sort_by="i", sort_ascending=False, select=lambda job: job.cached_statepoint["i"] % 2
    )
    assert values(odd.aggregates(jobs(1, 2, 5, 3))) == [(5, 3, 1)]


@pytest.mark.parametrize("name", ["aggregator_function", "sort_by", "select"])
def test_what_is_no_function_is_refused_by_name(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        aggregator(**{name: 3})  # type: ignore[arg-type]


def test_only_plain_singles_count_as_single() -> None:
    assert aggregator.groupsof(1).is_single
    assert not aggregator.groupsof(2).is_single
    assert not aggregator.groupsof(1, sort_by="i").is_single


def test_the_id_of_one_job_is_its_own_and_that_of_several_is_a_digest() -> None:
    one, two = jobs(1, 2)
    assert get_aggregate_id((one,)) == one.id
    assert get_aggregate_id((one, two)).startswith("agg-")
    assert get_aggregate_id((one, two)) != get_aggregate_id((two, one))
