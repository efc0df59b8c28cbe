"""``--input name=value`` becomes what the pipeline wants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow import Pipeline, Secret, step
from asyncflow.cli.endings import CommandError
from asyncflow.cli.inputs import parse_inputs


@step
async def take(value: Any) -> None:
    """Takes whatever it is given."""


@step
async def take_typed(url: str, size: int, folder: Path | None, tags: list[str]) -> None:
    """Tells by annotations what it takes."""


def parsed(text: str, wanted: Any) -> Any:
    pipeline = Pipeline("inputs", steps=[take], inputs={"value": wanted})
    return parse_inputs(pipeline, [f"value={text}"])["value"]


@pytest.mark.parametrize(
    "text, wanted, value",
    [
        ("1.10", str, "1.10"),
        ("null", str, "null"),
        ("12", int, 12),
        ("-3", int, -3),
        ("12", float, 12.0),
        ("1e3", float, 1000.0),
        ("true", bool, True),
        ("No", bool, False),
        ("0", bool, False),
        ("data/a.csv", Path, Path("data/a.csv")),
        ("5", int | None, 5),
        ("[1, 2]", list, [1, 2]),
        ('{"a": null}', dict, {"a": None}),
        ("12", object, 12),
        ("hello", object, "hello"),
        ('"12"', object, "12"),
        ("NaN", object, "NaN"),
        ("[1, Infinity]", object, "[1, Infinity]"),
        ("a=b=c", object, "a=b=c"),
        ("", object, ""),
        ("[" * 100_000, object, "[" * 100_000),
    ],
)
def test_a_value_is_read_as_its_type_wants(text: str, wanted: Any, value: Any) -> None:
    found = parsed(text, wanted)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "wanted, inside", [(Secret, "12"), (Secret[str] | None, "12"), (Secret[int], 12)]
)
def test_a_secret_is_made_of_what_the_pipeline_wants_as_one(wanted: Any, inside: Any) -> None:
    found = parsed("12", wanted)
    assert found == Secret(inside)
    assert type(found.reveal()) is type(inside)


def test_a_secret_that_is_no_number_is_not_shown() -> None:
    with pytest.raises(CommandError, match=r"^--input value=…: the secret is no int$"):
        parsed("hunter2", Secret[int])


@given(st.text())
def test_text_stays_as_it_is_written(text: str) -> None:
    assert parsed(text, str) == text


@pytest.mark.parametrize(
    "text, wanted, sentence",
    [
        ("twelve", int, "--input value=twelve: 'twelve' is no int"),
        ("1.5", int, "--input value=1.5: '1.5' is no int"),
        ("much", float, "--input value=much: 'much' is no float"),
        ("maybe", bool, "--input value=maybe: 'maybe' is no bool; write true or false"),
    ],
)
def test_a_value_of_another_type_is_refused(text: str, wanted: Any, sentence: str) -> None:
    with pytest.raises(CommandError) as refused:
        parsed(text, wanted)
    assert str(refused.value) == sentence


def test_without_a_declaration_the_step_s_annotation_counts() -> None:
    pipeline = Pipeline("inputs", steps=[take_typed])
    given = ["url=1.10", "size=3", "folder=7", 'tags=["a"]', "other=[1]"]
    assert parse_inputs(pipeline, given) == {
        "url": "1.10",
        "size": 3,
        "folder": Path("7"),
        "tags": ["a"],
        "other": [1],
    }


def test_an_annotation_that_cannot_be_read_says_nothing() -> None:
    async def odd(value: NotThere) -> None:  # type: ignore[name-defined]  # noqa: F821
        """Its annotation names what does not exist."""

    pipeline = Pipeline("inputs", steps=[step(odd)])
    assert parse_inputs(pipeline, ["value=3"]) == {"value": 3}


@pytest.mark.parametrize(
    "given, sentence",
    [
        (["value"], "--input 'value' is not name=value"),
        (["=3"], "--input '=3' is not name=value"),
        (["value=1", "value=2"], "--input value=… is given twice; give it once"),
    ],
)
def test_an_argument_that_says_too_little_or_too_much_is_refused(
    given: list[str], sentence: str
) -> None:
    with pytest.raises(CommandError) as refused:
        parse_inputs(Pipeline("inputs", steps=[take]), given)
    assert str(refused.value) == sentence
