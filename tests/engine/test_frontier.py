"""A unit is ready when the last node that it waits for has finished, and only once."""

from __future__ import annotations

from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from asyncflow.engine.frontier import SLICE, Frontier


def a_diamond() -> Frontier:
    return Frontier(unlocks=[[1, 2], [3], [3], []], wait=[0, 1, 1, 2])


def test_units_without_parents_are_ready_at_once_and_in_order() -> None:
    assert list(Frontier(unlocks=[[], [], []], wait=[0, 0, 0]).ready) == [0, 1, 2]


def test_a_unit_is_ready_when_the_last_of_its_parents_has_finished() -> None:
    frontier = a_diamond()
    assert list(frontier.ready) == [0]
    frontier.ready.clear()
    frontier.finished(0)
    assert list(frontier.ready) == [1, 2]
    frontier.ready.clear()
    frontier.finished(2)
    assert not frontier.ready
    assert frontier.waits_for(3) == 1
    frontier.finished(1)
    assert list(frontier.ready) == [3]


def test_two_edges_between_a_node_and_a_unit_count_twice() -> None:
    frontier = Frontier(unlocks=[[1, 1], [1], []], wait=[0, 3])
    frontier.finished(0)
    assert frontier.waits_for(1) == 1
    frontier.finished(1)
    assert list(frontier.ready) == [0, 1]


def test_runs_of_one_graph_do_not_disturb_each_other() -> None:
    unlocks, wait = [[1], []], [0, 1]
    one, other = Frontier(unlocks, wait), Frontier(unlocks, wait)
    one.finished(0)
    assert list(one.ready) == [0, 1]
    assert list(other.ready) == [0]
    assert (unlocks, wait) == ([[1], []], [0, 1])


def test_a_graph_grows_while_it_runs() -> None:
    frontier = Frontier(unlocks=[[]], wait=[0])
    frontier.add(1, parents=[0])
    frontier.add(2)
    frontier.add(3, parents=[1, 2])
    assert list(frontier.ready) == [0, 2]
    frontier.finished(0)
    frontier.finished(2)
    assert list(frontier.ready) == [0, 2, 1]
    frontier.finished(1)
    assert list(frontier.ready) == [0, 2, 1, 3]


@pytest.mark.parametrize("number", [0, 2])
def test_units_are_added_in_the_order_of_their_numbers(number: int) -> None:
    frontier = Frontier(unlocks=[[]], wait=[0])
    with pytest.raises(ValueError, match=f"unit {number} is out of turn; the next number is 1"):
        frontier.add(number)
    frontier.validate()


@pytest.mark.parametrize("width", [SLICE + 1, 2 * SLICE, 3 * SLICE + 7])
def test_a_great_many_dependents_are_worked_off_in_slices(width: int) -> None:
    frontier = Frontier(unlocks=[list(range(1, width + 1))], wait=[0] + width * [1])
    frontier.ready.clear()
    assert frontier.finished(0)
    assert not frontier.ready
    slices = []
    more = True
    while more:
        before = len(frontier.ready)
        more = frontier.work_off()
        slices.append(len(frontier.ready) - before)
    assert max(slices) == SLICE
    assert list(frontier.ready) == list(range(1, width + 1))


def test_two_nodes_with_many_dependents_are_worked_off_one_after_the_other() -> None:
    width = SLICE + 1
    below = list(range(2, width + 2))
    frontier = Frontier(unlocks=[below, below], wait=[0, 0] + width * [2])
    frontier.ready.clear()
    assert frontier.finished(0)
    assert frontier.finished(1)
    while frontier.work_off():
        frontier.validate()
    assert list(frontier.ready) == below


def test_nothing_becomes_ready_after_a_clear() -> None:
    width = SLICE + 1
    frontier = Frontier(unlocks=[list(range(1, width + 1))], wait=[0] + width * [1])
    assert frontier.finished(0)
    frontier.clear()
    assert not frontier.work_off()
    assert not frontier.ready


def test_a_unit_that_is_released_too_often_is_noticed() -> None:
    frontier = Frontier(unlocks=[[1], []], wait=[0, 1])
    frontier.finished(0)
    frontier.validate()
    frontier.finished(0)
    with pytest.raises(AssertionError, match="released too often"):
        frontier.validate()


@given(st.data())
def test_whatever_the_graph_every_unit_becomes_ready_after_its_parents(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 12))
    above = [
        data.draw(st.lists(st.integers(0, n - 1), max_size=4)) if n else [] for n in range(size)
    ]
    unlocks = [
        [n for n in range(size) for parent in above[n] if parent == own] for own in range(size)
    ]
    frontier = Frontier(unlocks, [len(parents) for parents in above])
    done: set[int] = set()
    assert isinstance(frontier.ready, deque)
    while frontier.ready:
        place = data.draw(st.integers(0, len(frontier.ready) - 1))
        unit = frontier.ready[place]
        del frontier.ready[place]
        assert set(above[unit]) <= done
        done.add(unit)
        frontier.finished(unit)
        frontier.validate()
    assert done == set(range(size))


class GrowingGraph(RuleBasedStateMachine):
    """Any order of growing, starting and finishing, beside a model that counts naively.

    Every unit is one node of the same number.
    """

    def __init__(self) -> None:
        super().__init__()
        self.frontier = Frontier()
        self.waits: dict[int, Counter[int]] = {}
        self.ready: list[int] = []
        self.running: list[int] = []
        self.finished: set[int] = set()

    @rule(data=st.data())
    def add(self, data: st.DataObject) -> None:
        unit = len(self.waits)
        open_nodes = [node for node in self.waits if node not in self.finished]
        parents = data.draw(st.lists(st.sampled_from(open_nodes), max_size=3)) if open_nodes else []
        self.frontier.add(unit, parents)
        self.waits[unit] = Counter(parents)
        if not parents:
            self.ready.append(unit)

    @precondition(lambda self: self.ready)
    @rule()
    def start(self) -> None:
        unit = self.frontier.ready.popleft()
        assert unit == self.ready.pop(0)
        self.running.append(unit)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        node = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        assert not self.frontier.finished(node)
        self.finished.add(node)
        for unit, waiting in self.waits.items():
            if waiting.pop(node, 0) and not waiting:
                self.ready.append(unit)

    @invariant()
    def both_agree(self) -> None:
        self.frontier.validate()
        assert sorted(self.frontier.ready) == sorted(self.ready)
        # Units that one node releases stand in the order in which they were added.
        self.ready = list(self.frontier.ready)
        for unit, waiting in self.waits.items():
            assert self.frontier.waits_for(unit) == waiting.total()


test_a_graph_that_grows_agrees_with_a_naive_count = GrowingGraph.TestCase
