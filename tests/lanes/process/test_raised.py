"""Exceptions that leave a worker: the objects where they can, their text where not."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from asyncflow import RemoteError
from asyncflow.lanes.process.raised import flatten, rebuild


class Peculiar(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class OwnGroup(ExceptionGroup[Exception]):
    def __new__(cls, message: str, errors: Any, extra: int = 0) -> OwnGroup:
        return super().__new__(cls, message, errors)

    def derive(self, errors: Any) -> OwnGroup:  # type: ignore[override]
        return OwnGroup(self.message, errors)


def carried(error: BaseException) -> Any:
    return rebuild(pickle.loads(pickle.dumps(flatten(error, pickle.dumps))), "process-1")


def test_the_chain_of_causes_is_kept() -> None:
    first, second, third = KeyError("a"), OSError("b"), ValueError("c")
    third.__cause__, second.__context__ = second, first
    arrived = carried(third)
    assert [repr(arrived), repr(arrived.__cause__), repr(arrived.__cause__.__context__)] == [
        "ValueError('c')",
        "OSError('b')",
        "KeyError('a')",
    ]
    assert arrived.__suppress_context__


def test_a_circle_of_causes_stays_one() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    arrived = carried(one)
    assert arrived.__cause__.__cause__ is arrived


def test_notes_are_kept_and_the_worker_s_traceback_is_the_last_one() -> None:
    try:
        raise ValueError("wrong")
    except ValueError as error:
        error.add_note("mine")
        arrived = carried(error)
    assert arrived.__notes__[0] == "mine"
    assert arrived.__notes__[1].startswith("raised in worker process-1:\nTraceback")


@pytest.mark.parametrize(
    "error, name, text",
    [
        (Peculiar("a", "b"), "test_raised.Peculiar", "Peculiar: ab"),
        (ValueError("x" * 10_000_000), "ValueError", "ValueError: xxxx"),
        (ValueError(lambda: 0), "ValueError", "ValueError: <function"),
    ],
    ids=["own init", "ten megabytes", "unpicklable"],
)
def test_what_cannot_travel_is_named(error: BaseException, name: str, text: str) -> None:
    arrived = carried(error)
    assert isinstance(arrived, RemoteError)
    assert arrived.type_name.endswith(name)
    assert arrived.text.startswith(text)
    assert len(str(arrived)) < 5000


def test_an_exception_without_a_text_travels_all_the_same() -> None:
    assert type(carried(Unprintable())) is Unprintable


def test_every_member_of_a_group_travels_by_itself() -> None:
    group = ExceptionGroup("two", [Peculiar("a", "b"), ExceptionGroup("in", [OSError("c")])])
    group.exceptions[1].__cause__ = KeyError("why")
    arrived = carried(group)
    assert type(arrived) is ExceptionGroup
    first, second = arrived.exceptions
    assert isinstance(first, RemoteError)
    assert repr(second.exceptions[0]) == "OSError('c')"
    assert repr(second.__cause__) == "KeyError('why')"


def test_a_group_of_an_own_class_keeps_it() -> None:
    assert type(carried(OwnGroup("own", [OSError("a")]))) is OwnGroup


def test_a_base_exception_group_travels() -> None:
    arrived = carried(BaseExceptionGroup("b", [KeyboardInterrupt(), SystemExit(3)]))
    assert [type(error) for error in arrived.exceptions] == [KeyboardInterrupt, SystemExit]


def test_a_chain_without_end_is_cut() -> None:
    error = last = ValueError("0")
    for number in range(1, 1000):
        last.__cause__ = ValueError(str(number))
        last = last.__cause__
    arrived, length = carried(error), 0
    while arrived is not None:
        arrived, length = arrived.__cause__, length + 1
    assert length == 200
