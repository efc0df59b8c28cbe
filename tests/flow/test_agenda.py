"""The bookkeeping of a run: driven by hand, no jobs, no event loop."""

from __future__ import annotations

from typing import Any

import pytest

from asyncflow.flow.agenda import Agenda, Entry, Order
from asyncflow.flow.aggregates import aggregator
from asyncflow.flow.groups import FlowGroup
from asyncflow.flow.registry import Operation


class Job:
    def __init__(self, name: str) -> None:
        self.id = name


def group(*names: str, called: str | None = None) -> FlowGroup:
    single = aggregator.groupsof(1)
    operations = {
        name: Operation(name, print, cmd=False, with_job=False, aggregator=single, directives={})
        for name in names
    }
    return FlowGroup(called or names[0], operations, {name: {} for name in names}, single)


def agenda(
    names: str = "ab", jobs: str = "12", *, order: Order = None, num: int | None = None,
    passes: int | None = 1,
) -> Agenda:  # fmt: skip
    made = Agenda(order, num, passes)
    groups = [group(name) for name in names]
    for job in map(Job, jobs):
        for one in groups:
            made.add(one, job.id, (job,), concurrent=False)
    return made


def judge_all(made: Agenda, eligible: Any = lambda entry: True) -> None:
    while entries := made.to_judge(100):
        for entry in entries:
            made.judged(entry, eligible(entry))


def taken(made: Agenda) -> list[str]:
    names = []
    while (entry := made.take(False)) is not None:
        names.append(entry.group.name + entry.aggregate_id)
    return names


def test_entries_are_judged_once_and_then_only_when_their_jobs_change() -> None:
    made = agenda()
    assert len(made.to_judge(100)) == 4
    assert made.to_judge(100) == []


def test_they_start_in_the_order_in_which_they_became_eligible() -> None:
    made = agenda()
    judge_all(made)
    assert taken(made) == ["a1", "b1", "a2", "b2"]


@pytest.mark.parametrize(
    "order, expected",
    [
        ("by-job", ["a1", "b1", "a2", "b2"]),
        ("cyclic", ["a1", "a2", "b1", "b2"]),
        (lambda entry: (entry.name, entry.aggregate_id), ["a1", "a2", "b1", "b2"]),
    ],
)
def test_another_order_may_be_asked_for(order: Order, expected: list[str]) -> None:
    made = agenda(order=order)
    judge_all(made)
    assert taken(made) == expected


def test_random_order_takes_each_once() -> None:
    made = agenda(jobs="123456789", order="random")
    judge_all(made)
    found = taken(made)
    assert len(set(found)) == len(found) == 18


def test_what_was_executed_has_its_jobs_entries_judged_again() -> None:
    made = agenda()
    judge_all(made, lambda entry: entry.name == "a")
    entry = made.take(False)
    assert entry is not None
    made.ended(entry, ["a"])
    assert [str(e) for e in made.to_judge(100)] == ["b(1)"]


def test_an_operation_is_executed_once_unless_more_passes_are_allowed() -> None:
    for passes, expected in ((1, 1), (3, 3)):
        made = agenda("a", "1", passes=passes)
        count = 0
        judge_all(made)
        while (entry := made.take(False)) is not None:
            count += 1
            made.ended(entry, ["a"])
            judge_all(made)
        assert count == expected


def test_an_entry_found_not_eligible_right_before_its_start_does_not_count() -> None:
    made = agenda("a", "1", num=1)
    judge_all(made)
    entry = made.take(False)
    assert entry is not None
    made.ended(entry, [])
    assert made.allowed(entry) == ("a",)
    assert not made.cut_short


def test_no_more_than_num_are_taken() -> None:
    made = agenda(num=3)
    judge_all(made)
    assert len(taken(made)) == 3
    assert made.cut_short
    assert made.idle


def test_a_change_while_conditions_are_asked_has_them_asked_again() -> None:
    made = agenda("ab", "1")
    first: dict[str, Entry] = {entry.name: entry for entry in made.to_judge(100)}
    made.judged(first["a"], True)
    running = made.take(False)
    assert running is not None
    made.ended(running, ["a"])  # while b's conditions are being asked
    made.judged(first["b"], False)
    assert made.to_judge(100) == [first["b"]]


def test_at_the_end_conditions_asked_before_others_ended_are_asked_once_more() -> None:
    made = agenda("a", "12")
    judge_all(made, lambda entry: entry.aggregate_id == "1")
    entry = made.take(False)
    assert entry is not None
    made.ended(entry, ["a"])
    assert made.idle
    assert made.look_once_more()
    assert [e.aggregate_id for e in made.to_judge(100)] == ["2"]
    assert not made.look_once_more()


def test_what_failed_is_not_tried_again() -> None:
    made = agenda("a", "1", passes=None)
    judge_all(made)
    entry = made.take(False)
    assert entry is not None
    made.failed(entry)
    judge_all(made)
    assert made.take(False) is None
