"""Which parameter gets which value: the binding rule, case by case."""

# No "from __future__ import annotations" here: the steps below carry real annotations.
from collections.abc import Callable
from typing import Any

import pytest

from asyncflow.context import StepContext
from asyncflow.graph.graph import Graph
from asyncflow.step import step
from tests.graph import annotated_as_text
from tests.graph.building import (
    CONTEXT,
    build,
    call_of,
    condition_of,
    names,
    node,
    placed,
    problems_of,
)

SOURCES = (node("raw"), node("config"), node("extra"))


def with_assets(
    func: Callable[..., Any], inputs: Any = None, params: dict[str, Any] | None = None
) -> Graph:
    """A graph of ``func`` as node ``use``, beside steps that produce raw, config and extra."""
    return build(*SOURCES, placed(step(func, name="use", inputs=inputs), params=params))


def faults_of(
    func: Callable[..., Any], inputs: Any = None, params: dict[str, Any] | None = None
) -> tuple[str, ...]:
    return problems_of(*SOURCES, placed(step(func, name="use", inputs=inputs), params=params))


# -- declared inputs -----------------------------------------------------------------


def test_a_declared_input_goes_to_the_parameter_of_its_name() -> None:
    def use(config: str, raw: str) -> None: ...

    graph = with_assets(use, ["raw", "config"])
    assert call_of(graph, "use") == (["<config>", "<raw>"], {})


def test_the_remaining_inputs_fill_the_remaining_parameters_in_order() -> None:
    def use(first: str, config: str, second: str) -> None: ...

    graph = with_assets(use, ["raw", "config", "extra"])
    assert call_of(graph, "use") == (["<raw>", "<config>", "<extra>"], {})


def test_args_take_what_is_left() -> None:
    def use(first: str, *rest: str) -> None: ...

    graph = with_assets(use, ["raw", "config", "extra"])
    assert call_of(graph, "use") == (["<raw>", "<config>", "<extra>"], {})


def test_kwargs_take_what_is_left_by_name() -> None:
    def use(first: str, **rest: str) -> None: ...

    graph = with_assets(use, ["raw", "config", "extra"])
    assert call_of(graph, "use") == (["<raw>"], {"config": "<config>", "extra": "<extra>"})


def test_args_come_before_kwargs() -> None:
    def use(*args: str, **kwargs: str) -> None: ...

    assert call_of(with_assets(use, ["raw", "config"]), "use") == (["<raw>", "<config>"], {})


def test_a_default_before_args_is_passed_so_that_args_keep_their_place() -> None:
    def use(first: str, scale: int = 3, *rest: str) -> None: ...

    graph = with_assets(use, ["raw", "config"], params={"scale": 5})
    assert call_of(graph, "use") == (["<raw>", 5, "<config>"], {})


def test_inputs_find_positional_only_and_keyword_only_parameters_by_name() -> None:
    def use(raw: str, /, *, config: str) -> None: ...

    assert call_of(with_assets(use, ["config", "raw"]), "use") == (
        ["<raw>"],
        {"config": "<config>"},
    )


def test_an_input_of_another_name_fills_a_keyword_only_parameter_that_needs_one() -> None:
    def use(*, text: str, verbose: bool = False) -> None: ...

    assert call_of(with_assets(use, ["raw"]), "use") == ([], {"text": "<raw>", "verbose": False})


def test_options_behind_args_are_not_filled_by_inputs_of_other_names() -> None:
    def use(*texts: str, verbose: bool = False) -> None: ...

    graph = with_assets(use, ["raw", "config"])
    assert call_of(graph, "use") == (["<raw>", "<config>"], {"verbose": False})


def test_an_input_without_a_parameter_is_refused() -> None:
    def use(first: str) -> None: ...

    assert faults_of(use, ["raw", "config"]) == (
        "step 'use': it declares the input 'config' but its function has no parameter left for "
        "it; add a parameter or *args",
    )


def test_an_input_declared_twice_is_refused() -> None:
    def use(raw: str) -> None: ...

    assert faults_of(use, ["raw", "raw"]) == ("step 'use': it declares the input 'raw' twice",)


def test_a_mapping_says_which_parameter_takes_which_asset() -> None:
    def use(text: str, options: str) -> None: ...

    graph = with_assets(use, {"options": "config", "text": "raw"})
    assert call_of(graph, "use") == (["<raw>", "<config>"], {})


def test_a_list_of_assets_makes_the_parameter_a_list() -> None:
    def use(texts: list[str]) -> None: ...

    graph = with_assets(use, {"texts": ["raw", "config", "raw"]})
    assert call_of(graph, "use") == ([["<raw>", "<config>", "<raw>"]], {})


def test_a_mapping_reaches_into_kwargs() -> None:
    def use(**texts: str) -> None: ...

    assert call_of(with_assets(use, {"a": "raw"}), "use") == ([], {"a": "<raw>"})


def test_a_mapping_to_a_parameter_that_is_not_there_is_refused() -> None:
    def use(text: str) -> None: ...

    assert faults_of(use, {"txet": "raw"}) == (
        "step 'use': inputs= names the parameter 'txet', which its function does not have; "
        "did you mean 'text'?",
    )


def test_nodes_of_one_step_may_have_other_inputs() -> None:
    def use(text: str) -> None: ...

    used = step(use)
    graph = build(
        node("raw"),
        node("config"),
        placed(used, "x", inputs=("raw",)),
        placed(used, "y", inputs=("config",)),
    )
    assert call_of(graph, "x") == (["<raw>"], {})
    assert call_of(graph, "y") == (["<config>"], {})


def test_a_value_that_was_not_produced_leaves_the_default() -> None:
    def use(raw: str, config: str = "none", both: tuple[str, ...] = ()) -> None: ...

    graph = with_assets(use, {"raw": "raw", "config": "config", "both": ["config", "raw"]})
    assert call_of(graph, "use", without=["config"]) == (["<raw>", "none", ()], {})


# -- all other parameters ------------------------------------------------------------


def test_params_come_first_then_assets_then_what_the_run_is_given_then_defaults() -> None:
    def use(alpha: int, raw: str, url: str, limit: int = 10) -> None: ...

    graph = with_assets(use, params={"alpha": 1})
    assert call_of(graph, "use", {"url": "u"}) == ([1, "<raw>", "u", 10], {})
    assert call_of(graph, "use", {"url": "u", "limit": 5})[0][3] == 5


def test_params_win_over_an_asset_of_that_name() -> None:
    def use(raw: str) -> None: ...

    graph = with_assets(use, params={"raw": "mine"})
    assert call_of(graph, "use") == (["mine"], {})
    assert graph.parents[graph.index["use"]] == ()


def test_params_reach_into_kwargs() -> None:
    def use(**options: int) -> None: ...

    assert call_of(with_assets(use, params={"alpha": 1}), "use") == ([], {"alpha": 1})


def test_params_for_a_parameter_that_is_not_there_are_refused() -> None:
    def use(alpha: int = 0) -> None: ...

    assert faults_of(use, params={"alhpa": 1}) == (
        "step 'use': it has no parameter 'alhpa' to give params to; did you mean 'alpha'?",
    )


def test_a_parameter_filled_twice_is_refused() -> None:
    def use(raw: str) -> None: ...

    assert faults_of(use, ["raw"], params={"raw": "mine"}) == (
        "step 'use': parameter 'raw' is filled by inputs= and by params=; drop one",
    )


def test_a_name_that_an_asset_and_a_run_input_share_is_refused() -> None:
    def use(raw: str) -> None: ...

    sentence = (
        "step 'use': parameter 'raw' could be the asset of that name or a run input or context "
        "value; rename one, or say inputs=['raw']"
    )
    nodes = (node("raw"), placed(step(use)))
    assert problems_of(*nodes, inputs={"raw": str}) == (sentence,)
    assert problems_of(*nodes, context={"raw": "x"}) == (sentence,)


def test_saying_inputs_settles_a_shared_name() -> None:
    def use(raw: str) -> None: ...

    graph = build(node("raw"), placed(step(use, inputs=["raw"])), inputs={"raw": str})
    assert call_of(graph, "use") == (["<raw>"], {})


def test_what_nothing_else_fills_is_asked_of_the_run() -> None:
    def use(url: str, limit: int = 10) -> None: ...
    def other(url: str, limit: int) -> None: ...

    graph = build(placed(step(use)), placed(step(other)))
    assert graph.outside == {"url": (False, 0), "limit": (False, 1)}


def test_what_no_asset_and_no_params_fill_is_left_for_the_run_to_find() -> None:
    def use(url: str, limit: int = 10) -> None: ...

    declared: list[dict[str, type]] = [{"url": str}, {}, {"ulr": str}]
    for inputs in declared:
        graph = build(placed(step(use)), inputs=inputs)
        assert graph.outside == {"url": (False, 0), "limit": (True, 0)}


def test_a_step_context_goes_to_the_parameter_annotated_so() -> None:
    def use(first: str, ctx: StepContext, raw: str) -> None: ...

    graph = with_assets(use, ["config"])
    assert call_of(graph, "use") == (["<config>", CONTEXT, "<raw>"], {})


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "qualified",
        "optional",
        "renamed",
        "renamed_optional",
        "old_optional",
        "of_a_module",
    ],
)
def test_an_annotation_may_be_text(name: str) -> None:
    graph = build(placed(step(getattr(annotated_as_text, name))))
    assert call_of(graph, name) == ([CONTEXT], {})


def test_a_text_that_names_another_class_means_that_class() -> None:
    graph = build(placed(step(annotated_as_text.another)))
    assert call_of(graph, "another", {"why": "because"}) == (["because"], {})


def test_a_parameter_that_is_only_called_context_is_nothing_special() -> None:
    def use(context: str) -> None: ...

    assert call_of(build(placed(step(use))), "use", {"context": "c"}) == (["c"], {})


# -- conditions ----------------------------------------------------------------------


def test_a_condition_takes_what_the_step_takes_by_the_same_name() -> None:
    def use(text: str, scale: int, limit: int = 1) -> None: ...
    def wanted(limit: int, text: str) -> bool:
        return True

    used = step(use, inputs=["raw"], condition=wanted)
    graph = build(node("raw"), placed(used, params={"scale": 2}))
    assert condition_of(graph, "use") == ([1, "<raw>"], {})


def test_a_condition_may_take_assets_that_the_step_does_not() -> None:
    def use(raw: str) -> None: ...

    used = step(use, condition=lambda config, *, url: True)
    graph = build(node("raw"), node("config"), placed(used))
    assert condition_of(graph, "use", {"url": "u"}) == (["<config>"], {"url": "u"})
    assert call_of(graph, "use") == (["<raw>"], {})
    assert names(graph, graph.parents[2]) == ["raw", "config"]


def test_a_condition_may_take_params_of_its_own_and_a_context() -> None:
    def use() -> None: ...
    def wanted(level: int, context: StepContext) -> bool:
        return True

    graph = build(placed(step(use, condition=wanted), params={"level": 3}))
    assert condition_of(graph, "use") == ([3, CONTEXT], {})
    assert call_of(graph, "use") == ([], {})


def test_a_condition_keeps_its_own_default_for_what_was_not_produced() -> None:
    def use(raw: str) -> None: ...
    def wanted(raw: str = "nothing") -> bool:
        return True

    graph = build(node("raw"), placed(step(use, condition=wanted)))
    assert condition_of(graph, "use", without=["raw"]) == (["nothing"], {})


def test_a_condition_with_args_is_refused() -> None:
    def use() -> None: ...

    (problem,) = problems_of(placed(step(use, condition=lambda *args: True)))
    assert problem == (
        "step 'use': its condition takes *args or **kwargs; name what it needs instead"
    )


# -- names ---------------------------------------------------------------------------


def test_an_asset_that_nobody_produces_is_refused_with_the_nearest_name() -> None:
    assert problems_of(node("load_data"), node("use", "laod_data")) == (
        "step 'use' needs the asset 'laod_data', which no step produces; did you mean 'load_data'?",
    )


def test_a_run_input_is_no_asset() -> None:
    (problem,) = problems_of(node("use", "url"), inputs={"url": str})
    assert problem == (
        "step 'use' declares the input 'url', which is a run input or context value and no "
        "asset; leave it out of inputs=, parameters find it by name"
    )


def test_running_after_nobody_is_refused() -> None:
    assert problems_of(node("load"), node("use", after=["laod"])) == (
        "step 'use' runs after 'laod', which is no step of this pipeline; did you mean 'load'?",
    )


def test_two_nodes_of_one_name_are_refused() -> None:
    assert problems_of(node("a"), node("a")) == (
        "two nodes are called 'a'; give one another name: add_step(…, name='a_2')",
    )


def test_names_that_only_look_different_to_a_machine_are_refused() -> None:
    (problem,) = problems_of(node("caf\u00e9"), node("cafe\u0301"))
    assert "'caf\\xe9' and 'cafe\\u0301' look the same" in problem


def test_two_producers_of_one_asset_need_a_condition_each() -> None:
    assert problems_of(
        node("a", outputs=["x"], condition=lambda: True), node("b", outputs=["x"])
    ) == (
        "asset 'x' is produced by 'a' and by 'b'; rename one output, or give both a condition "
        "('b' has none)",
    )


def test_branches_may_meet_again_in_one_asset() -> None:
    graph = build(
        node("yes", outputs=["x"], condition=lambda: True),
        node("no", outputs=["x"], condition=lambda: False),
        node("use", "x"),
    )
    assert graph.producers_of(graph.assets["x"]) == (0, 1)
    assert graph.parents[2] == (0, 1)


def test_a_step_may_produce_several_assets() -> None:
    graph = build(node("load", outputs=["raw", "config"]), node("use", "config", "raw"))
    assert list(graph.assets) == ["raw", "config", "use"]
    assert graph.outputs_of(0) == (0, 1)
    assert graph.parents[1] == (0,)
    assert call_of(graph, "use") == (["<config>", "<raw>"], {})
