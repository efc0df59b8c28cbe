"""Every error pickles, keeps its fields and can be caught as what it is."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from asyncflow import errors
from asyncflow.errors import (
    AsyncflowError,
    CapacityError,
    ConfigError,
    DependencyError,
    GraphError,
    JournalDamaged,
    NestedDepthError,
    NotReadable,
    NotRecordable,
    RemoteError,
    ResourceLost,
    RunConflict,
    RunLocked,
    RunTimeout,
    StepCancelled,
    StepFailed,
    StepSkipped,
    StepTimeout,
    StorageError,
    WorkerDied,
)

EXAMPLES: list[AsyncflowError] = [
    AsyncflowError("something"),
    GraphError(["first fault", "second fault"]),
    CapacityError("asks for 2 GPUs, there is none"),
    ConfigError(["pipeline.yaml:1:1: $.pipeline: lacks the key 'name'"]),
    NestedDepthError("nests 33 levels deep"),
    NotReadable("a recorded value is damaged"),
    NotRecordable("io.TextIOWrapper", "return what it holds", "result['x']"),
    RunTimeout("took too long", run_id="r1", timeout_seconds=2.5),
    RunConflict("has other inputs", run_id="r1", steps=["parse"]),
    StorageError("cannot be opened", path="/kept"),
    RunLocked("is held", path="/kept", run_id="r1", pid=7, host="here", since="2026-03-01"),
    JournalDamaged("is damaged", path="/kept", offset=40, record=2, step="parse"),
    StepFailed("failed", step="parse", attempt=2),
    StepTimeout("took too long", step="parse", attempt=3, timeout_seconds=1.5),
    ResourceLost("gone", step="train", attempt=2, devices=("GPU-a",)),
    WorkerDied("crashed", step="parse", signal=11, peak_memory_bytes=5, last_output=("a",)),
    RemoteError("OwnError: text", type_name="own.OwnError", text="OwnError: text"),
    StepSkipped("was skipped", step="parse"),
    StepCancelled("was cancelled", step="parse", attempt=1),
    DependencyError("did not run", step="parse", ancestor="fetch"),
]

each_error = pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)


def test_every_public_error_is_tried_here() -> None:
    assert {type(error).__name__ for error in EXAMPLES} == set(errors.__all__)


@each_error
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_pickles_with_its_fields(error: AsyncflowError, protocol: int) -> None:
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))


@each_error
def test_an_error_can_be_copied(error: AsyncflowError) -> None:
    again = copy.copy(error)
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_notes_travel_with_an_error() -> None:
    error = StepFailed("failed", step="parse")
    error.add_note("seen on a Monday")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["seen on a Monday"]


class OurFailure(StepFailed):
    """What a user may derive."""

    def __init__(self, url: str) -> None:
        super().__init__(f"no answer from {url}", step="fetch")
        self.url = url


def test_a_user_s_own_error_pickles_although_it_takes_other_arguments() -> None:
    again = pickle.loads(pickle.dumps(OurFailure("http://a/")))
    assert (str(again), again.url, again.step) == (
        "no answer from http://a/",
        "http://a/",
        "fetch",
    )


@each_error
def test_every_error_is_one_of_ours(error: AsyncflowError) -> None:
    with pytest.raises(AsyncflowError):
        raise error


@pytest.mark.parametrize(
    "error, builtin",
    [
        (GraphError("wrong"), ValueError),
        (RunTimeout("late"), TimeoutError),
        (StepTimeout("late"), TimeoutError),
        (StepTimeout("late"), StepFailed),
        (StepSkipped("skipped"), StepFailed),
        (StepCancelled("cancelled"), StepFailed),
        (DependencyError("below"), StepFailed),
    ],
)
def test_an_error_can_be_caught_as_what_it_also_is(
    error: AsyncflowError, builtin: type[Exception]
) -> None:
    assert isinstance(error, builtin)


def test_a_graph_error_lists_its_problems_and_shows_one_on_each_line() -> None:
    error = GraphError(problem for problem in ("first", "second"))
    assert error.problems == ("first", "second")
    assert str(error) == "first\nsecond"
    assert GraphError("only").problems == ("only",)


def test_errors_keep_what_they_were_told() -> None:
    late: Any = StepTimeout("late", step="parse", attempt=3, timeout_seconds=1.5)
    assert (late.step, late.attempt, late.timeout_seconds) == ("parse", 3, 1.5)
    assert str(late) == "late"
    below = DependencyError("below", step="parse", ancestor="fetch")
    assert (below.step, below.ancestor, below.attempt) == ("parse", "fetch", 0)
    run = RunTimeout("late", run_id="r1", timeout_seconds=2.5)
    assert (run.run_id, run.timeout_seconds) == ("r1", 2.5)
