"""Of a sequential run one unit is out at a time, whatever becomes of it."""

from __future__ import annotations

from collections import deque

import pytest

from asyncflow.engine.frontier import Frontier
from asyncflow.engine.one_at_a_time import OneAtATime


def test_the_next_unit_comes_when_the_last_one_is_back() -> None:
    frontier = Frontier(unlocks=[[2], [], []], wait=[0, 0, 1])
    frontier.let_one_through()
    assert frontier.ready.popleft() == 0
    frontier.finished(0)
    assert not frontier.ready
    frontier.came_back(0)
    assert [frontier.ready.popleft(), bool(frontier.ready)] == [1, False]
    frontier.came_back(0)  # it is the other one that is out
    assert not frontier.ready
    frontier.came_back(1)
    assert list(frontier.ready) == [2]


def test_nested_units_do_not_wait_for_the_one_that_asked_for_them() -> None:
    frontier = Frontier(unlocks=[[], []], wait=[0, 0])
    frontier.let_one_through()
    assert frontier.ready.popleft() == 0
    frontier.put_nested_first(lambda unit: unit >= 2)
    frontier.add(2)
    frontier.add(3)
    assert [frontier.ready.popleft(), frontier.ready.popleft()] == [2, 3]
    assert not frontier.ready
    frontier.came_back(2)
    assert not frontier.ready
    frontier.came_back(0)
    assert frontier.ready.popleft() == 1


def test_it_is_a_queue_otherwise() -> None:
    queue = OneAtATime(deque([1, 2, 3]))
    queue.append(4)
    queue.extend([5])
    queue.remove(2)
    assert (queue[0], len(queue), list(queue)) == (1, 4, [1, 3, 4, 5])
    with pytest.raises(ValueError, match="not in"):
        queue.remove(2)
    queue.clear()
    assert not queue
