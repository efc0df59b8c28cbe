"""Digests: the same for the same value in every process, another for any other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given

from asyncflow.errors import NotRecordable
from asyncflow.storage.codecs import Codecs
from asyncflow.storage.digests import digest_of, hashed
from tests.programs import outputs_of_hash_seeds
from tests.storage.values import BUILTIN_VALUES, builtin_values, same

CODECS = Codecs()


@dataclass
class Point:
    x: Any


@dataclass
class Pixel:
    x: Any


@given(builtin_values)
def test_a_value_that_was_written_and_read_has_the_digest_it_had(value: Any) -> None:
    assert digest_of(CODECS.decode(CODECS.encode(value))) == digest_of(value)


@given(builtin_values, builtin_values)
def test_two_values_have_one_digest_only_if_they_are_the_same(one: Any, other: Any) -> None:
    if digest_of(one) == digest_of(other):
        assert same(one, other)


def test_no_two_of_the_examples_have_one_digest() -> None:
    digests: dict[bytes, Any] = {}
    for value in BUILTIN_VALUES:
        digest = digest_of(value)
        assert digest not in digests, (value, digests[digest])
        digests[digest] = value


@pytest.mark.parametrize(
    "one, other",
    [
        ([1, 2], (1, 2)),
        ([1, [2]], [[1], 2]),
        (["ab", "c"], ["a", "bc"]),
        ([["a"], "b"], ["a", ["b"]]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({1: "a"}, {"1": "a"}),
        ((1, True), (True, 1)),
        ((b"a",), ("a",)),
        (bytearray(b"a"), b"a"),
        (Point(1), Pixel(1)),
        (Point(1), {"x": 1}),
        (Point((1,)), Point([1])),
        ((0.0,), (-0.0,)),
    ],
)
def test_what_differs_has_another_digest(one: Any, other: Any) -> None:
    assert digest_of(one) != digest_of(other)


def test_sharing_changes_no_digest() -> None:
    row = (1, [2])
    assert digest_of((row, row)) == digest_of(((1, [2]), (1, [2])))


def test_parts_that_are_shared_very_often_are_looked_at_once() -> None:
    value: Any = ("lol",)
    for _ in range(60):
        value = (value, value)
    assert digest_of(value) == digest_of(value)


def test_what_cannot_be_hashed_is_named_with_its_path() -> None:
    circle: list[Any] = [()]
    circle.append(circle)
    for value, path in (
        ({"a": [Point([object()])]}, "result['a'][0].x[0]"),
        (circle, "result[1]"),
    ):
        with pytest.raises(NotRecordable) as refused:
            digest_of(value)
        assert refused.value.path == path


@pytest.mark.parametrize("depth", [101, 100_000])
def test_what_is_too_deep_is_refused(depth: int) -> None:
    value: Any = ()
    for _ in range(depth):
        value = (value,)
    with pytest.raises(NotRecordable, match="nested too deeply"):
        digest_of(value)


def test_parts_are_told_apart() -> None:
    assert hashed(b"ab", b"c") != hashed(b"a", b"bc") != hashed(b"abc")


def test_a_digest_is_the_same_in_every_process() -> None:
    program = (
        "from asyncflow.storage.digests import digest_of\n"
        "print(digest_of({'a': {1, 'x', (2, 'y'), frozenset({'p', 'q'})}}).hex())"
    )
    assert outputs_of_hash_seeds(program) == {
        digest_of({"a": {1, "x", (2, "y"), frozenset({"p", "q"})}}).hex()
    }
