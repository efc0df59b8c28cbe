"""How many operations go to a worker at once."""

from __future__ import annotations

import pytest

from asyncflow.flow.steps import BatchPace


def sizes(pace: BatchPace, seconds_each: float, batches: int = 8) -> list[int]:
    """What is sent, batch by batch, if each operation takes so long."""
    found = []
    for _ in range(batches):
        found.append(pace.size("crew"))
        pace.took("crew", found[-1], found[-1] * seconds_each)
    return found


def test_the_first_operation_goes_alone_and_more_follow_while_they_take_no_time() -> None:
    for is_alone in (True, False):
        assert sizes(BatchPace(is_alone), 1e-5) == [1, 4, 16, 64, 256, 256, 256, 256]


@pytest.mark.parametrize(("is_alone", "most"), [(True, 20), (False, 5)])
def test_a_batch_is_short_and_shorter_beside_other_workers(is_alone: bool, most: int) -> None:
    assert sizes(BatchPace(is_alone), 0.001)[-1] == most


def test_operations_that_take_long_go_alone() -> None:
    assert sizes(BatchPace(is_alone=True), 0.1) == [1] * 8


def test_what_becomes_slow_goes_alone_again() -> None:
    pace = BatchPace(is_alone=True)
    assert sizes(pace, 1e-5)[-1] == 256
    pace.took("crew", 256, 256.0)
    assert pace.size("crew") == 1


def test_a_crew_that_killed_its_worker_goes_one_by_one() -> None:
    pace = BatchPace(is_alone=True)
    pace.one_by_one("crew")
    assert sizes(pace, 1e-6) == [1] * 8
