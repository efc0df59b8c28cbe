"""Which moves between states are legal, and that every end is an end."""

from __future__ import annotations

import itertools

import pytest

from asyncflow.states import FAILURES, FINAL, MOVES, NODE_STATES, NodeState, check_move

NUMBERS = {state: number for number, state in enumerate(NODE_STATES)}


def may(before: NodeState, after: NodeState) -> bool:
    try:
        check_move("node", NUMBERS[before], NUMBERS[after])
    except RuntimeError:
        return False
    return True


def test_a_final_state_is_never_left() -> None:
    for before, after in itertools.product(NodeState, NodeState):
        if NUMBERS[before] in FINAL:
            assert not may(before, after), f"{before} to {after}"


def test_every_state_is_final_or_can_be_left() -> None:
    assert {number for number in range(len(NODE_STATES)) if number not in MOVES} == FINAL


def test_every_final_state_can_be_reached() -> None:
    assert set().union(*MOVES.values()) >= FINAL


def test_nothing_goes_back_to_waiting() -> None:
    assert not any(may(before, NodeState.WAITING) for before in NodeState)


@pytest.mark.parametrize(
    "story",
    [
        ("waiting", "running", "succeeded"),
        ("waiting", "running", "retrying", "running", "failed"),
        ("waiting", "running", "retrying", "cancelled"),
        ("waiting", "running", "timed_out"),
        ("waiting", "running", "abandoned"),
        ("waiting", "skipped"),
        ("waiting", "upstream_failed"),
        ("waiting", "cancelled"),
        ("waiting", "failed"),
    ],
)
def test_the_usual_stories_are_legal(story: tuple[str, ...]) -> None:
    for before, after in itertools.pairwise(story):
        assert may(NodeState(before), NodeState(after))


@pytest.mark.parametrize(
    "before, after",
    [
        ("waiting", "succeeded"),
        ("waiting", "retrying"),
        ("running", "skipped"),
        ("running", "upstream_failed"),
        ("retrying", "succeeded"),
        ("succeeded", "failed"),
    ],
)
def test_an_illegal_move_tells_its_story(before: str, after: str) -> None:
    with pytest.raises(RuntimeError, match=f"node 'node' cannot go from {before} to {after}"):
        check_move("node", NUMBERS[NodeState(before)], NUMBERS[NodeState(after)])


def test_a_skip_is_no_failure() -> None:
    failures = {NODE_STATES[number] for number in FAILURES}
    assert failures == {state for state in NodeState if NUMBERS[state] in FINAL} - {
        NodeState.SUCCEEDED,
        NodeState.SKIPPED,
    }


def test_states_read_as_their_names() -> None:
    assert [str(state) for state in NODE_STATES[:3]] == ["waiting", "running", "retrying"]
    assert f"{NodeState.TIMED_OUT}" == "timed_out"
