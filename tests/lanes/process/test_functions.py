"""Functions have numbers: each is sent to a worker once, and one run sees one state of it."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from typing import Any

from asyncflow import step
from asyncflow.lanes.process.functions import FunctionTable


class Scope:
    """Stands for a run."""


@step
def stepped(number: int) -> int:
    return number + 1


def test_a_function_has_the_same_number_in_every_run() -> None:
    table = FunctionTable()
    numbers = {table.find(len, scope).number for scope in (Scope(), Scope(), None)}
    assert len(numbers) == 1


def test_what_a_function_captures_is_what_it_was_when_the_run_first_sent_it() -> None:
    table, run, captured = FunctionTable(), Scope(), [1]

    def total() -> int:
        return sum(captured)

    first = table.find(total, run)
    captured.append(2)
    assert table.find(total, run) == first
    later = table.find(total, Scope())
    assert later.number != first.number
    assert (pickle.loads(first.body)(), pickle.loads(later.body)()) == (1, 3)
    assert table.find(total, run) == first


def test_the_function_behind_a_step_goes_by_reference() -> None:
    function = FunctionTable().find(stepped.func, Scope())
    assert len(function.body) < 200
    assert pickle.loads(function.body) is stepped.func


def test_a_callable_without_a_hash_is_sent_as_it_is() -> None:
    class Adder:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self) -> int:
            return 3

    adder: Any = Adder()
    assert pickle.loads(FunctionTable().find(adder, Scope()).body)() == 3


def test_the_traceback_of_a_function_sent_by_value_shows_its_lines() -> None:
    def outer() -> Callable[[], None]:
        def inner() -> None:
            raise ValueError("too deep")

        return inner

    sent = pickle.loads(FunctionTable().find(outer, Scope()).body)
    try:
        sent()()
    except ValueError as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
    assert (last.filename, last.line) == (__file__, 'raise ValueError("too deep")')
