"""A fingerprint changes with the code and with what it holds, and with nothing else."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncflow import Pipeline, Secret, step
from asyncflow.storage.fingerprint import Fingerprints, code_fingerprint
from tests.programs import outputs_of_hash_seeds
from tests.storage.told_apart import everything


@pytest.fixture
def fingerprint_of(tmp_path: Path) -> Callable[[str], str]:
    """The fingerprint of ``f`` in a module of that text."""
    count = 0

    def find(text: str) -> str:
        nonlocal count
        count += 1
        file = tmp_path / f"module_{count}.py"
        file.write_text(text, encoding="utf-8")
        names: dict[str, Any] = {"__name__": "module"}
        exec(compile(text, str(file), "exec"), names)
        return code_fingerprint(names["f"])

    return find


PLAIN = "def f(a, b=1):\n    return a + b\n"


@pytest.mark.parametrize(
    "text",
    [
        "# a comment\n\n\ndef f(a, b=1):  # b\n\n    # c\n    return a + b\n# d\n",
        "def f(\n    a,\n    b=1\n):\n        return a + b",
        "if True:\n    def f(a, b=1):\n      return a + b\n",
        "@str\ndef g(): ...\ndef f(a, b=1):\n    return a + b\n",
    ],
    ids=["comments", "layout", "deeper", "neighbours"],
)
def test_layout_and_comments_change_nothing(
    fingerprint_of: Callable[[str], str], text: str
) -> None:
    assert fingerprint_of(text) == fingerprint_of(PLAIN)


@pytest.mark.parametrize(
    "text",
    [
        "def f(a, b=1):\n    return a - b\n",
        "def f(a, b=2):\n    return a + b\n",
        "def f(a, b=True):\n    return a + b\n",
        "def f(a, b=1, *, c=0):\n    return a + b\n",
        "async def f(a, b=1):\n    return a + b\n",
        "def f(a, b=1):\n    return a + b + 0\n",
        "def g(a, b=1):\n    return a + b\nf = g\n",
        "B = 2\ndef f(a, b=B):\n    return a + b\n",
    ],
)
def test_any_other_change_shows(fingerprint_of: Callable[[str], str], text: str) -> None:
    assert fingerprint_of(text) != fingerprint_of(PLAIN)


def test_a_default_counts_by_its_value(fingerprint_of: Callable[[str], str]) -> None:
    text = "B = {}\ndef f(a, b=B):\n    return a\n"
    one, same, other = (fingerprint_of(text.format(value)) for value in ("(1, 2)", "(1,2)", "(1,)"))
    assert one == same != other


def made(number: Any) -> Callable[[], Any]:
    def inner() -> Any:
        return number

    return inner


def test_a_closure_counts_by_its_values() -> None:
    assert code_fingerprint(made(1)) == code_fingerprint(made(1))
    assert code_fingerprint(made(1)) != code_fingerprint(made(2))
    assert code_fingerprint(made({"a": [1]})) != code_fingerprint(made({"a": [2]}))
    assert code_fingerprint(made(made(1))) != code_fingerprint(made(made(2)))


def test_what_a_closure_holds_without_being_plain_counts_by_its_type() -> None:
    assert code_fingerprint(made(object())) == code_fingerprint(made(object()))
    assert code_fingerprint(made(object())) != code_fingerprint(made(sys))


def test_what_a_function_changes_itself_is_state_and_does_not_count() -> None:
    def calling(calls: list[int], seen: dict[str, Any], limit: list[int]) -> Any:
        count = 0

        def inner() -> Any:
            nonlocal count
            count += 1
            calls.append(count)
            seen["a"]["b"] = limit[0]
            seen["a"].setdefault("c", []).append(1)
            return count

        return inner

    first = calling([], {"a": {}}, [5])
    before = code_fingerprint(first)
    assert code_fingerprint(calling([1], {"a": {"b": 3}}, [5])) == before
    first()
    assert code_fingerprint(first) == before
    assert code_fingerprint(calling([], {"a": {}}, [6])) != before

    def with_defaults(calls: Any, rate: Any) -> Any:
        def inner(calls: Any = calls, *, rate: Any = rate) -> Any:
            rate *= 2
            calls.append(rate)

        return inner

    assert code_fingerprint(with_defaults([], 1)) == code_fingerprint(with_defaults([1], 1))
    assert code_fingerprint(with_defaults([], 1)) != code_fingerprint(with_defaults([], 2))
    assert code_fingerprint(lambda: [0].append(1)) == code_fingerprint(lambda: [0].append(1))


def test_a_state_is_seen_without_source_too() -> None:
    names: dict[str, Any] = {}
    exec("def make(calls):\n  def f(): calls.append(1)\n  return f", names)
    assert code_fingerprint(names["make"]([])) == code_fingerprint(names["make"]([1]))


class Counter:
    def __init__(self, step: int) -> None:
        self.step = step
        self.total = 0
        self.seen: list[int] = []

    def __call__(self) -> int:
        self.total += self.step
        self.seen.append(self.total)
        return self.total


def test_what_an_object_changes_of_itself_does_not_count() -> None:
    counter = Counter(2)
    before = code_fingerprint(counter)
    counter()
    assert code_fingerprint(counter) == before == code_fingerprint(Counter(2))
    assert code_fingerprint(Counter(3)) != before


def test_secrets_never_count() -> None:
    assert code_fingerprint(made(Secret("a"))) == code_fingerprint(made(Secret("b")))


def test_partials_count_with_their_arguments() -> None:
    one, two = functools.partial(made, 1), functools.partial(made, number=1)
    prints = {code_fingerprint(func) for func in (made, one, two, functools.partial(made, 2))}
    assert len(prints) == 4
    assert code_fingerprint(functools.partial(made, 1)) in prints


def wrapped(func: Any, times: int) -> Any:
    @functools.wraps(func)
    def around(*args: Any) -> Any:
        return [func(*args) for _ in range(times)]

    return around


def test_wrapped_functions_count_with_what_wraps_them() -> None:
    assert code_fingerprint(wrapped(made, 1)) != code_fingerprint(made)
    assert code_fingerprint(wrapped(made, 1)) != code_fingerprint(wrapped(made, 2))
    assert code_fingerprint(wrapped(made, 1)) != code_fingerprint(wrapped(wrapped, 1))
    assert code_fingerprint(wrapped(made, 1)) == code_fingerprint(wrapped(made, 1))


class Model:
    def __init__(self, rate: float) -> None:
        self.rate = rate

    def train(self) -> float:
        return self.rate

    def __call__(self) -> float:
        return -self.rate


def test_methods_and_callable_objects_count_with_what_they_hold() -> None:
    assert code_fingerprint(Model(1).train) == code_fingerprint(Model(1).train)
    assert code_fingerprint(Model(1).train) != code_fingerprint(Model(2).train)
    assert code_fingerprint(Model(1)) != code_fingerprint(Model(2))
    assert code_fingerprint(Model(1)) != code_fingerprint(Model(1).train)


def test_a_step_counts_as_its_function_whatever_its_options() -> None:
    assert code_fingerprint(step(made, retry=3)) == code_fingerprint(made)


def test_lambdas_of_one_line_are_told_apart() -> None:
    plus, minus, same = lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a + b
    assert code_fingerprint(plus) != code_fingerprint(minus)
    assert code_fingerprint(plus) == code_fingerprint(same)
    assert code_fingerprint(lambda b, a: a + b) != code_fingerprint(plus)
    assert code_fingerprint(lambda: "ü𝄞") != code_fingerprint(lambda: "ü𝄟")


def test_functions_that_hold_each_other_have_fingerprints() -> None:
    def ping() -> Any:
        return pong

    def pong() -> Any:
        return ping

    assert code_fingerprint(ping) != code_fingerprint(pong)


def test_without_source_the_compiled_code_stands_in() -> None:
    def from_text(text: str) -> Any:
        names: dict[str, Any] = {}
        exec(text, names)
        return code_fingerprint(names["f"])

    assert from_text("def f(a): return a + 1") == from_text("# no source\ndef f(a): return a + 1")
    assert from_text("def f(a): return a + 1") != from_text("def f(a): return a - 1")
    assert from_text("def f(a): return a + 1") != from_text("def f(a): return a + 2")


def test_what_is_written_in_c_counts_by_its_name() -> None:
    assert code_fingerprint(len) != code_fingerprint(max)
    assert code_fingerprint(len) == code_fingerprint(len)


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    program = (
        "from tests.storage.test_fingerprint import made, Model\n"
        "from asyncflow.storage.fingerprint import code_fingerprint as f\n"
        "print(f(made({'a', 'b', 'c'})), f(Model(1).train))"
    )
    here = f"{code_fingerprint(made({'a', 'b', 'c'}))} {code_fingerprint(Model(1).train)}"
    assert outputs_of_hash_seeds(program) == {here}


def test_a_fingerprint_is_the_same_in_every_version_of_python() -> None:
    # Worked out on 3.11. If it has to change, results of earlier runs count as made by other code.
    assert code_fingerprint(everything) == "aed3548ce505618c7cffa7bc29dfeda1b40e0ea2"


def test_the_fields_of_classes_that_are_returned_count(
    fingerprint_of: Callable[[str], str],
) -> None:
    def returning(fields: str, annotation: str = "list[P]") -> str:
        return fingerprint_of(
            f"from typing import NamedTuple\nclass P(NamedTuple):\n    {fields}\n"
            f"def f() -> {annotation}: ...\n"
        )

    assert returning("x: int") == returning("x: float")
    assert returning("x: int") != returning("x: int; y: int = 0")
    assert returning("x: int", "list") == returning("x: int; y: int = 0", "list")


# -- nodes -----------------------------------------------------------------------------


@step(outputs=["raw"])
async def load(url: str, client: Any = None) -> str:
    return url


@step
async def parse(raw: str, limit: int = 3) -> str:
    return raw[:limit]


def node_fingerprints(pipeline: Pipeline, **values: Any) -> dict[str, str]:
    graph = pipeline.build()
    found = Fingerprints(graph, values)
    return {node.name: found.of(index).hex() for index, node in enumerate(graph.nodes)}


def test_a_node_counts_with_the_run_inputs_it_reads() -> None:
    pipeline = Pipeline("p", steps=[load, parse])
    one, other = node_fingerprints(pipeline, url="a"), node_fingerprints(pipeline, url="b")
    assert one["load"] != other["load"]
    assert one["parse"] == other["parse"]
    assert one["parse"] != node_fingerprints(pipeline, url="a", limit=5)["parse"]


def test_a_node_counts_with_its_params_and_its_wiring() -> None:
    def with_second(**options: Any) -> dict[str, str]:
        pipeline = Pipeline("p", steps=[load])
        return node_fingerprints(pipeline.add_step(parse, "second", **options), url="a")

    plain = with_second()
    for options in ({"params": {"limit": 4}}, {"after": ["load"]}, {"outputs": ["other"]}):
        changed = with_second(**options)
        assert changed["second"] != plain["second"], options
        assert changed["load"] == plain["load"]


def test_a_node_added_elsewhere_changes_no_other() -> None:
    pipeline = Pipeline("p", steps=[load, parse])
    before = node_fingerprints(pipeline, url="a")
    longer = Pipeline("p").add_step(parse, "first", inputs=["raw"]).add_step(load).add_step(parse)
    after = node_fingerprints(longer, url="a")
    assert {name: after[name] for name in before} == before


def test_a_condition_counts() -> None:
    prints = {
        node_fingerprints(Pipeline("p", steps=[load.with_options(condition=condition)]))["load"]
        for condition in (None, lambda url: url == "a", lambda url: url == "b")
    }
    assert len(prints) == 3


def test_secrets_and_services_never_count() -> None:
    pipeline = Pipeline("p", steps=[load, parse])
    one = node_fingerprints(pipeline, url=Secret("a"))
    assert one == node_fingerprints(pipeline, url=Secret("b"))


def test_a_value_that_no_codec_takes_counts_by_its_type_and_is_reported() -> None:
    graph = Pipeline("p", steps=[load, parse]).build()
    found = Fingerprints(graph, {"url": object()})
    found.of(0)
    assert list(found.opaque) == ["run input 'url'"]
    assert found.of(0) == Fingerprints(graph, {"url": object()}).of(0)
