"""Steps: made bare or with options, called as before, refused with a sentence."""

from __future__ import annotations

import functools
import inspect
import math
import pickle
from datetime import timedelta
from typing import Any, assert_type

import pytest

from asyncflow.errors import GraphError
from asyncflow.functions import parameters_of
from asyncflow.resources import ResourceRequirements
from asyncflow.retry import NEVER, Retry
from asyncflow.step import Step, step


@step
def double(number: int) -> int:
    """Twice the number."""
    return 2 * number


@step(outputs=["page"], retry=3, timeout=10, condition=lambda url: bool(url))
async def fetch(url: str) -> str:
    return f"<{url}>"


def plain(text: str) -> str:
    return text


wrapped = step(plain, name="other", tags=["nightly"])


# -- making --------------------------------------------------------------------------


def test_a_bare_step_has_the_name_of_its_function_and_no_options() -> None:
    assert double.name == "double"
    assert double.options == {
        "name": "double",
        "inputs": None,
        "outputs": None,
        "environment": None,
        "execution_group": None,
        "resources": None,
        "retry": NEVER,
        "timeout": None,
        "condition": None,
        "cache": False,
        "when": "success",
        "limits": None,
        "lane": None,
        "tags": (),
    }


def test_a_step_takes_options() -> None:
    assert (fetch.name, fetch.outputs, fetch.retry, fetch.timeout) == (
        "fetch",
        ("page",),
        Retry(3),
        10.0,
    )


def test_calling_a_step_calls_its_function() -> None:
    assert double(3) == 6
    assert double(number=4) == 8


async def test_calling_a_coroutine_step_gives_its_coroutine() -> None:
    assert await fetch("a") == "<a>"


def test_a_step_looks_like_its_function() -> None:
    assert double.__doc__ == "Twice the number."
    assert double.__module__ == __name__
    assert inspect.signature(double) == inspect.signature(double.func)
    assert repr(double) == "<Step 'double'>"


async def test_types_go_through() -> None:
    assert_type(double(1), int)
    assert_type(double.with_options(retry=1)(1), int)
    assert_type(wrapped("a"), str)
    assert_type(await fetch("a"), str)
    # The type checker's refusals; running them shows that nothing else refuses them.
    double("a")  # type: ignore[arg-type]
    wrapped(text=1)  # type: ignore[arg-type]


def test_dicts_and_numbers_become_records() -> None:
    used = step(plain, resources={"cpu": "500m"}, timeout=timedelta(minutes=1), retry=2)
    assert used.resources == ResourceRequirements(cpu="500m")
    assert used.timeout == 60.0
    assert used.retry == Retry(2)


def test_inputs_are_names_or_a_mapping() -> None:
    assert step(plain, inputs=["raw"]).inputs == ("raw",)
    assert step(plain, inputs=(name for name in ["raw"])).inputs == ("raw",)
    assert step(plain, inputs={"text": "raw"}).inputs == {"text": "raw"}
    assert step(plain, inputs={"text": ["a", "b"]}).inputs == {"text": ("a", "b")}


def test_a_copy_has_other_options_and_leaves_the_step_alone() -> None:
    changed = fetch.with_options(timeout=None, lane="thread")
    assert (changed.timeout, changed.lane, changed.retry, changed.name) == (
        None,
        "thread",
        Retry(3),
        "fetch",
    )
    assert (fetch.timeout, fetch.lane) == (10.0, None)
    assert changed.func is fetch.func


def test_defining_a_step_again_is_fine() -> None:
    def make(result: int) -> Step[[], int]:
        @step(name="same")
        def again() -> int:
            return result

        return again

    assert (make(1)(), make(2)()) == (1, 2)


# -- functions of all kinds ----------------------------------------------------------


class Model:
    async def __call__(self, text: str) -> str:
        return text

    def predict(self, text: str) -> str:
        return text

    @classmethod
    async def load(cls) -> Model:
        return cls()


async def coroutine(text: str, scale: int) -> str:
    return text * scale


@pytest.mark.parametrize(
    "func, name, is_coroutine, parameters",
    [
        (plain, "plain", False, ["text"]),
        (coroutine, "coroutine", True, ["text", "scale"]),
        (functools.partial(coroutine, "a"), "coroutine", True, ["scale"]),
        (functools.partial(functools.partial(plain)), "plain", False, ["text"]),
        (Model(), "Model", True, ["text"]),
        (Model().predict, "predict", False, ["text"]),
        (Model.load, "load", True, []),
        (len, "len", False, ["obj"]),
    ],
)
def test_anything_that_can_be_called_can_be_a_step(
    func: Any, name: str, is_coroutine: bool, parameters: list[str]
) -> None:
    used = step(func)
    assert used.name == name
    assert used.is_coroutine is is_coroutine
    assert [parameter.name for parameter in used.parameters] == parameters
    assert not used.is_generator


def test_a_builtin_without_a_signature_takes_anything() -> None:
    (parameter,) = parameters_of(max)
    assert parameter.is_variadic


# -- pickling ------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_step_of_a_module_pickles_by_its_name(protocol: int) -> None:
    assert pickle.loads(pickle.dumps(double, protocol)) is double


def test_a_condition_without_a_name_does_not_keep_a_step_from_pickling() -> None:
    assert pickle.loads(pickle.dumps(fetch)) is fetch


def test_a_changed_copy_pickles_with_its_changes() -> None:
    changed = fetch.with_options(name="again", timeout=1)
    again = pickle.loads(pickle.dumps(changed))
    assert again.options == changed.options
    assert again.func is fetch.func


def test_a_step_beside_its_function_pickles() -> None:
    again = pickle.loads(pickle.dumps(wrapped))
    assert again.options == wrapped.options
    assert again.func is plain


def test_a_step_that_nobody_could_find_again_does_not_pickle() -> None:
    @step
    def local() -> None: ...

    shadow = Step(lambda: None, name="shadow")
    partial = Step(functools.partial(plain, "a"))
    for lost in (local, shadow, partial):
        with pytest.raises(pickle.PicklingError, match="is not found by its name"):
            pickle.dumps(lost)


# -- what is refused -----------------------------------------------------------------


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"name": ""}, "a step name must not be empty"),
        ({"name": 3}, "a step name is a text, got 3"),
        ({"name": "a/b"}, "step name 'a/b' holds '/'; '/', '[' and ']' are reserved"),
        ({"name": "a[1]"}, "step name 'a[1]' holds '['; '/', '[' and ']' are reserved"),
        ({"name": "a\nb"}, "step name 'a\\nb' holds '\\n'; '/', '[' and ']' are reserved"),
        (
            {"inputs": "raw"},
            "step 'plain': inputs: takes a list of names, got the text 'raw'; write ['raw']",
        ),
        (
            {"inputs": 3},
            "step 'plain': inputs: takes a list of names such as ['raw', 'config'], got 3",
        ),
        ({"inputs": [""]}, "step 'plain': inputs: takes names, got ''"),
        ({"inputs": {"text": [1]}}, "step 'plain': inputs: takes names, got 1"),
        ({"inputs": {1: "raw"}}, "step 'plain': inputs: takes names, got 1"),
        (
            {"outputs": "model"},
            "step 'plain': outputs: takes a list of names, got the text 'model'; write ['model']",
        ),
        (
            {"outputs": []},
            "step 'plain': outputs: takes at least one name; leave it out for an output named as "
            "the step",
        ),
        ({"outputs": ["a", "b", "a"]}, "step 'plain': outputs: names 'a' twice"),
        (
            {"outputs": ["a/b"]},
            "step 'plain': outputs: asset name 'a/b' holds '/'; '/', '[' and ']' are reserved",
        ),
        (
            {"execution_group": ""},
            "step 'plain': execution_group: a group name must not be empty",
        ),
        (
            {"retry": -1},
            "step 'plain': retry: retry takes a whole number of 0 or more, got -1",
        ),
        (
            {"timeout": 0},
            "step 'plain': timeout: takes finite seconds above 0, got 0; leave it out for none",
        ),
        (
            {"timeout": math.nan},
            "step 'plain': timeout: takes finite seconds above 0, got nan; leave it out for none",
        ),
        (
            {"timeout": math.inf},
            "step 'plain': timeout: takes finite seconds above 0, got inf; leave it out for none",
        ),
        ({"timeout": "5"}, "step 'plain': timeout: takes seconds or a timedelta, got '5'"),
        ({"timeout": True}, "step 'plain': timeout: takes seconds or a timedelta, got True"),
        ({"condition": True}, "step 'plain': condition: takes a callable, got True"),
        (
            {"lane": "proces"},
            "step 'plain': lane: there is no lane 'proces'; the lanes are inline, thread and "
            "process",
        ),
        (
            {"tags": "nightly"},
            "step 'plain': tags: takes a list of names, got the text 'nightly'; write ['nightly']",
        ),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options: Any, sentence: str) -> None:
    with pytest.raises(GraphError) as caught:
        step(plain, **options)
    assert str(caught.value) == sentence


def test_a_timeout_larger_than_any_clock_is_refused() -> None:
    with pytest.raises(GraphError, match="timeout: takes finite seconds above 0"):
        step(plain, timeout=10**400)


def test_resources_that_make_no_sense_are_refused_with_the_step() -> None:
    with pytest.raises(GraphError) as caught:
        step(plain, resources={"cpus": 2})
    assert str(caught.value).startswith("step 'plain': resources: ")
    assert "'cpus'" in str(caught.value)
    assert "did you mean 'cpu'" in str(caught.value)


def test_an_option_that_is_none_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'retries'"):
        step(plain, retries=3)  # type: ignore[call-overload]


def test_a_lambda_needs_a_name() -> None:
    with pytest.raises(GraphError, match="a lambda has no name; give it one"):
        step(lambda: None)
    assert step(lambda: None, name="nothing").name == "nothing"


def test_what_cannot_be_called_is_no_step() -> None:
    with pytest.raises(GraphError, match="@step takes a function, got 3"):
        step(3)  # type: ignore[call-overload]


def test_a_step_of_a_step_is_refused() -> None:
    with pytest.raises(GraphError) as caught:
        step(fetch, name="again")
    assert str(caught.value) == (
        "<Step 'fetch'> is a step already; with_options(…) gives a changed copy"
    )
