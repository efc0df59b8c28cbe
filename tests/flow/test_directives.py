"""Directives: their checks, their defaults, and how a group adds them up."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow.flow.directives import add_up, check_directives, evaluate, requirements_of
from asyncflow.flow.errors import DirectivesError


@pytest.mark.parametrize(
    "name, value",
    [
        ("np", 0),
        ("np", 1.5),
        ("np", "2"),
        ("np", True),
        ("ngpu", -1),
        ("nranks", "many"),
        ("omp_num_threads", -2),
        ("memory", "lots"),
        ("memory", -1),
        ("memory", float("nan")),
        ("walltime", "1h"),
        ("walltime", 0),
        ("walltime", float("inf")),
        ("processor_fraction", 1.5),
        ("executable", ""),
    ],
)
def test_a_wrong_directive_is_refused_with_whose_it_is(name: str, value: Any) -> None:
    with pytest.raises(DirectivesError, match=f"operation 'op': directive '{name}' takes"):
        check_directives({name: value}, "operation 'op'")


def test_directives_take_a_mapping() -> None:
    with pytest.raises(DirectivesError, match="takes a mapping"):
        check_directives(["np"], "operation 'op'")


@pytest.mark.parametrize("text, gigabytes", [("512m", 0.5), ("4g", 4.0), ("4", 4.0), ("1t", 1024)])
def test_memory_is_gigabytes_or_text_with_a_unit(text: str, gigabytes: float) -> None:
    assert check_directives({"memory": text}, "op")["memory"] == gigabytes


def test_walltime_is_hours_or_a_timedelta() -> None:
    assert check_directives({"walltime": timedelta(minutes=30)}, "op")["walltime"] == 0.5


def test_functions_of_the_jobs_are_called_and_checked() -> None:
    directives = check_directives({"np": lambda *jobs: len(jobs)}, "op")
    assert evaluate(directives, ("a", "b", "c"), "op")["np"] == 3
    with pytest.raises(DirectivesError, match="'np' takes"):
        evaluate({"np": lambda _: "x"}, ("a",), "op")
    with pytest.raises(DirectivesError, match="function of directive 'np' raised KeyError"):
        evaluate({"np": lambda _: dict[str, int]()["missing"]}, ("a",), "op")


@pytest.mark.parametrize(
    "directives, np",
    [
        ({}, 1),
        ({"nranks": 4}, 4),
        ({"omp_num_threads": 3}, 3),
        ({"nranks": 2, "omp_num_threads": 3}, 6),
        ({"np": 2, "nranks": 4}, 2),
    ],
)
def test_np_is_worked_out_from_ranks_and_threads_unless_it_was_said(
    directives: dict[str, int], np: int
) -> None:
    assert evaluate(directives, (), "op")["np"] == np


amounts = st.fixed_dictionaries(
    {},
    optional={
        "np": st.integers(1, 64),
        "ngpu": st.integers(0, 8),
        "memory": st.floats(0.1, 100),
        "walltime": st.floats(0.1, 100),
    },
)


@given(st.lists(amounts, min_size=1, max_size=6))
def test_a_group_takes_the_most_and_adds_walltimes(said: list[dict[str, Any]]) -> None:
    evaluated = {f"op{i}": evaluate(one, (), "op") for i, one in enumerate(said)}
    total = add_up(evaluated, "group 'g'")
    assert total["np"] == max(one.get("np", 1) for one in said)
    assert total["ngpu"] == max(one.get("ngpu", 0) for one in said)
    memories = [one["memory"] for one in said if "memory" in one]
    assert total["memory"] == (max(memories) if memories else None)
    times = [one["walltime"] for one in said if "walltime" in one]
    assert total["walltime"] == (pytest.approx(sum(times)) if times else None)


def test_directives_of_ones_own_survive_in_a_group() -> None:
    total = add_up(
        {"a": evaluate({"queue": "fast"}, (), "a"), "b": evaluate({"tag": 1}, (), "b")}, "group 'g'"
    )
    assert total["queue"] == "fast"
    assert total["tag"] == 1


def test_two_values_for_one_directive_of_ones_own_are_an_error() -> None:
    of_both = {"a": evaluate({"queue": "x"}, (), "a"), "b": evaluate({"queue": "y"}, (), "b")}
    with pytest.raises(DirectivesError, match=r"group 'g'.*'queue' is 'x' for 'a' and 'y' for 'b'"):
        add_up(of_both, "group 'g'")


def test_what_directives_ask_of_the_machine() -> None:
    values = evaluate({"np": 2, "ngpu": 1, "memory": "2g"}, (), "op")
    asked = requirements_of(values, counts_cpus=True)
    assert asked.cpu_millis == 2000
    assert asked.memory_bytes == 2 * 1024**3
    assert asked.gpu is not None
    assert asked.gpu.count == 1
    assert requirements_of(values, counts_cpus=False).cpu_millis == 0
