"""An environment says what it is, compares by value, and refuses what cannot be one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asyncflow import Environment


def test_equal_environments_share_a_worker_and_others_do_not() -> None:
    one = Environment(launch=["nice", "-n", "5"], env={"A": "1", "B": "2"})  # type: ignore[arg-type]
    same = Environment(launch=("nice", "-n", "5"), env={"B": "2", "A": "1"})
    assert one == same
    assert len({one, same, Environment(launch=("nice",)), Environment()}) == 3


def test_paths_are_taken_as_text() -> None:
    environment = Environment(python=Path("/opt/venv/bin/python"), cwd=Path("/data"))  # type: ignore[arg-type]
    assert (environment.python, environment.cwd) == ("/opt/venv/bin/python", "/data")


@pytest.mark.parametrize(
    "fields, text",
    [
        ({}, "a worker of its own"),
        ({"launch": ("docker", "run", "-i", "my image")}, "docker run -i 'my image'"),
        ({"python": "/opt/py", "cwd": "/data"}, "python /opt/py, in /data"),
        ({"launch": ("nice",), "env": {"A": "1"}}, "nice, A=1"),
    ],
)
def test_it_shows_what_is_particular_to_it(fields: dict[str, Any], text: str) -> None:
    assert str(Environment(**fields)) == text


@pytest.mark.parametrize(
    "fields, error, message",
    [
        ({"launch": "nice -n 5"}, TypeError, r"write launch=\('nice', '-n', '5'\)"),
        ({"launch": 5}, TypeError, "words of a command"),
        ({"launch": ("nice", 5)}, TypeError, "takes words, got 5"),
        ({"launch": ("",)}, ValueError, "empty word"),
        ({"launch": ("a\0b",)}, ValueError, "NUL"),
        ({"python": 3.11}, TypeError, "python takes a path"),
        ({"python": ""}, ValueError, "python takes a path"),
        ({"cwd": b"/data"}, TypeError, "cwd takes a path"),
        ({"env": ["A=1"]}, TypeError, "env takes a mapping"),
        ({"env": {"A": 1}}, TypeError, "env takes texts, got 'A': 1"),
        ({"env": {"A=B": "1"}}, ValueError, "no variable can be 'A=B'"),
        ({"env": {"": "1"}}, ValueError, "no variable can be ''"),
    ],
)
def test_what_no_worker_could_start_with_is_refused(
    fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Environment(**fields)


def test_a_mapping_stands_for_one() -> None:
    assert Environment.of({"launch": ["nice"]}) == Environment(launch=("nice",))
    assert Environment.of(None) is None
    with pytest.raises(TypeError, match="unknown key 'lunch'; the keys are launch"):
        Environment.of({"lunch": ["nice"]})
    with pytest.raises(TypeError, match="takes Environment"):
        Environment.of("nice")  # type: ignore[arg-type]
