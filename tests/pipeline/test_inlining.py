"""Pipelines inlined into pipelines: names, wiring, groups, selection and faults."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from asyncflow import (
    GraphError,
    Group,
    Pipeline,
    PipelineResult,
    RunFailure,
    Runtime,
    StepContext,
    step,
)
from tests.picturing import Picture
from tests.virtual_time import run_virtually, virtual_time


@step(outputs=["raw"])
async def load(path: str) -> str:
    return f"rows of {path}"


@step
async def clean(raw: str) -> str:
    return raw.upper()


@step
async def join(left: str, right: str) -> str:
    return f"{left} + {right}"


def prepare(**options: Any) -> Pipeline:
    return Pipeline("prepare", steps=[load, clean], **options)


def problems_of(pipeline: Pipeline) -> list[str]:
    with pytest.raises(GraphError) as caught:
        pipeline.build()
    return list(caught.value.problems)


def states(result: PipelineResult) -> dict[str, str]:
    return {name: str(found.status) for name, found in result.step_results.items()}


# -- names and wiring --------------------------------------------------------------------


@virtual_time
async def test_the_nodes_of_an_inlined_pipeline_stand_under_its_name() -> None:
    pipeline = Pipeline("all").add_pipeline(prepare(), "etl")
    assert [node.name for node in pipeline.steps] == ["etl/load", "etl/clean"]
    result = await pipeline.run({"path": "a"})
    assert result["etl/clean"] == result.outputs["etl/clean"] == "ROWS OF A"
    assert result["etl/raw"] == "rows of a"
    assert list(result.step_results) == ["etl/load", "etl/clean"]
    assert not {"raw", "clean"} & result.outputs.keys()


@virtual_time
async def test_one_pipeline_stands_twice_in_another_with_other_wiring() -> None:
    sub = prepare(inputs={"path": str})
    pipeline = (
        Pipeline("all")
        .add_pipeline(sub, "a", inputs={"path": "first"}, outputs={"clean": "left"})
        .add_pipeline(sub, "b", inputs={"path": "second"}, outputs={"clean": "right"})
        .add_step(join)
    )
    result = await pipeline.run({"first": "x", "second": "y"})
    assert result["join"] == "ROWS OF X + ROWS OF Y"
    assert result["left"] == result["a/clean"] == "ROWS OF X"


@virtual_time
async def test_an_input_may_be_an_asset_of_the_outer_pipeline_and_of_another_inlining() -> None:
    @step
    async def where() -> str:
        return "here"

    pipeline = (
        Pipeline("all", [where])
        .add_pipeline(prepare(), "a", inputs={"path": "where"})
        .add_pipeline(prepare(), "b", inputs={"path": "a/clean"})
    )
    assert (await pipeline.run())["b/clean"] == "ROWS OF ROWS OF HERE"


@virtual_time
async def test_what_is_left_out_has_the_same_name_outside() -> None:
    @step
    async def path() -> str:
        return "made"

    for sub in (prepare(), prepare(inputs=["path"])):
        result = await Pipeline("all", [path]).add_pipeline(sub, "etl").run()
        assert result["etl/clean"] == "ROWS OF MADE"
        result = await Pipeline("all").add_pipeline(sub, "etl").run({"path": "given"})
        assert result["etl/clean"] == "ROWS OF GIVEN"


@virtual_time
async def test_a_declared_input_of_a_step_may_come_from_outside() -> None:
    @step(inputs=["table"], outputs=["size"])
    async def measure(rows: str) -> int:
        return len(rows)

    sub = Pipeline("sizes", [measure])
    outer = Pipeline("all", [load]).add_pipeline(sub, "m", inputs={"table": "raw"})
    assert (await outer.run({"path": "a"}))["m/size"] == 9
    outer = Pipeline("all").add_pipeline(sub, "m", inputs={"table": "text"})
    assert (await outer.run({"text": "four"}))["m/size"] == 4


@virtual_time
async def test_an_outer_step_takes_what_an_inlined_pipeline_makes_by_its_full_name() -> None:
    @step
    async def show(text: str) -> str:
        return f"<{text}>"

    pipeline = Pipeline("all").add_pipeline(prepare(), "etl")
    pipeline.add_step(show, inputs={"text": "etl/clean"})
    pipeline.add_step(show, "raw", inputs=["etl/raw"])
    result = await pipeline.run({"path": "a"})
    assert (result["show"], result["raw"]) == ("<ROWS OF A>", "<rows of a>")


@virtual_time
async def test_its_own_assets_come_before_those_outside() -> None:
    @step(outputs=["raw"])
    async def other() -> str:
        return "of the outer one"

    result = await Pipeline("all", [other]).add_pipeline(prepare(), "etl").run({"path": "a"})
    assert (result["raw"], result["etl/clean"]) == ("of the outer one", "ROWS OF A")


@virtual_time
async def test_a_step_with_several_outputs_may_return_them_by_their_own_names() -> None:
    @step(outputs=["train", "test"])
    async def split() -> dict[str, int]:
        return {"train": 1, "test": 2}

    pipeline = Pipeline("all").add_pipeline(
        Pipeline("sets", [split]), "s", outputs={"train": "most"}
    )
    result = await pipeline.run()
    assert (result["most"], result["s/test"]) == (1, 2)
    assert result["s/split"] == {"train": 1, "test": 2}


@virtual_time
async def test_outputs_may_name_the_only_output_of_a_step_and_inputs_may_be_a_list() -> None:
    pipeline = Pipeline("all").add_pipeline(
        prepare(), "etl", inputs=["path"], outputs={"load": "table"}
    )
    result = await pipeline.run({"path": "a"})
    assert result["table"] == "rows of a"
    assert result["etl/clean"] == "ROWS OF A"


@virtual_time
async def test_params_and_defaults_stay_those_of_the_inlined_pipeline() -> None:
    @step
    async def cut(text: str, length: int, mark: str = "…") -> str:
        return text[:length] + mark

    sub = Pipeline("cutting").add_step(cut, params={"length": 3})
    result = await Pipeline("all").add_pipeline(sub, "c").run({"text": "abcdef"})
    assert result["c/cut"] == "abc…"


# -- context and services ----------------------------------------------------------------


@step
async def scale(number: int, factor: int) -> int:
    return number * factor


@virtual_time
async def test_its_context_is_its_own() -> None:
    sub = Pipeline("scaling", [scale], context={"factor": 10})
    outer = Pipeline("all", context={"factor": 2}).add_pipeline(sub, "big").add_step(scale)
    result = await outer.run({"number": 3})
    assert (result["big/scale"], result["scale"]) == (30, 6)


@virtual_time
async def test_inputs_come_before_its_context_and_the_outer_context_after_it() -> None:
    sub = Pipeline("scaling", [scale], context={"factor": 10})
    outer = Pipeline("all", context={"other": 4}).add_pipeline(
        sub, "big", inputs={"factor": "other"}
    )
    assert (await outer.run({"number": 3}))["big/scale"] == 12
    open_ = Pipeline("all", context={"factor": 7}).add_pipeline(Pipeline("s", [scale]), "s")
    assert (await open_.run({"number": 3}))["s/scale"] == 21


@virtual_time
async def test_services_reach_every_depth() -> None:
    @step
    async def ask(client: list[str]) -> str:
        return client[0]

    inner = Pipeline("inner", [ask])
    outer = Pipeline("outer").add_pipeline(Pipeline("middle").add_pipeline(inner, "in"), "mid")
    assert (await outer.run(services={"client": ["hello"]}))["mid/in/ask"] == "hello"
    async with Runtime(services={"client": ["shared"]}):
        assert (await outer.run())["mid/in/ask"] == "shared"


@virtual_time
async def test_a_pipeline_that_declares_its_inputs_takes_no_other_asset() -> None:
    @step
    async def read(path: str, limit: int = 5) -> str:
        return f"{path}:{limit}"

    @step
    async def limit() -> int:
        return 99

    closed = Pipeline("reading", [read], inputs=["path"])
    result = await Pipeline("all", [limit]).add_pipeline(closed, "r").run({"path": "a"})
    assert result["r/read"] == "a:5"
    told = Pipeline("all", [limit]).add_pipeline(closed, "r", inputs={"limit": "limit"})
    assert (await told.run({"path": "a"}))["r/read"] == "a:99"


@virtual_time
async def test_declared_types_are_checked_where_a_run_input_fills_them() -> None:
    pipeline = Pipeline("all").add_pipeline(
        prepare(inputs={"path": str}), "etl", inputs={"path": "place"}
    )
    with pytest.raises(GraphError, match="input 'place' is of type int, declared as str"):
        await pipeline.run({"place": 3})


# -- conditions, maps, clean-up ----------------------------------------------------------


@virtual_time
async def test_a_condition_finds_names_where_its_step_does() -> None:
    @step(condition=lambda enough, number: number > enough)
    async def large(number: int) -> int:
        return number

    sub = Pipeline("choosing", [large], context={"enough": 5})
    pipeline = Pipeline("all").add_pipeline(sub, "a", inputs={"number": "n"})
    assert (await pipeline.run({"n": 9}))["a/large"] == 9
    assert states(await pipeline.run({"n": 2})) == {"a/large": "skipped"}


@virtual_time
async def test_two_inlined_pipelines_make_one_asset_if_their_conditions_exclude_each_other() -> (
    None
):
    def branch(name: str, wanted: bool) -> Pipeline:
        @step(name="make", condition=lambda fast: fast is wanted)
        async def make(fast: bool) -> str:
            return name

        return Pipeline(name, [make])

    @step
    async def use(model: str) -> str:
        return f"with {model}"

    pipeline = (
        Pipeline("all")
        .add_pipeline(branch("quick", True), "a", outputs={"make": "model"})
        .add_pipeline(branch("thorough", False), "b", outputs={"make": "model"})
        .add_step(use)
    )
    assert (await pipeline.run({"fast": True}))["use"] == "with quick"
    assert (await pipeline.run({"fast": False}))["use"] == "with thorough"


@virtual_time
async def test_maps_expand_inside_and_flow_on_across_the_border() -> None:
    @step
    async def numbers() -> list[int]:
        return [1, 2, 3]

    @step
    async def double(item: int) -> int:
        return 2 * item

    sub = Pipeline("doubling").add_step(double, map="items", inputs={"item": "items"})
    pipeline = Pipeline("all", [numbers]).add_pipeline(sub, "d", inputs={"items": "numbers"})
    pipeline.add_step(double, "again", map="d/double", inputs={"item": "d/double"})
    graph = pipeline.build()
    followed = graph.maps[graph.index["again"]].follows
    assert followed == graph.index["d/double"]
    result = await pipeline.run()
    assert (result["d/double"], result["again"]) == ([2, 4, 6], [4, 8, 12])
    assert result.step_results["d/double[1]"].output == 4


@virtual_time
async def test_a_map_that_runs_after_the_pipeline_it_takes_from_waits_for_the_whole_list() -> None:
    @step
    async def double(item: int) -> int:
        return 2 * item

    sub = Pipeline("doubling").add_step(double, map="items", inputs={"item": "items"})

    @step
    async def numbers() -> list[int]:
        return [1, 2, 3]

    pipeline = Pipeline("all", [numbers]).add_pipeline(sub, "d", inputs={"items": "numbers"})
    pipeline.add_step(double, "again", map="d/double", inputs={"item": "d/double"}, after=["d"])
    graph = pipeline.build()
    assert graph.maps[graph.index["again"]].follows is None
    assert (await pipeline.run())["again"] == [4, 8, 12]


@virtual_time
async def test_clean_up_that_names_nothing_waits_for_the_rest_of_its_own_pipeline() -> None:
    ended: list[str] = []

    @step
    async def work() -> None:
        ended.append("work")

    @step(when="always")
    async def tidy() -> None:
        ended.append("tidy")

    @step
    async def later() -> None:
        ended.append("later")

    pipeline = Pipeline("all").add_pipeline(Pipeline("sub", [work, tidy]), "s")
    pipeline.add_step(later, after=["s"])
    pipeline.add_step(tidy)
    assert (await pipeline.run()).success
    assert ended == ["work", "tidy", "later", "tidy"]
    graph = pipeline.build()
    assert graph.parents[graph.index["s/tidy"]] == (graph.index["s/work"],)
    assert graph.parents[graph.index["tidy"]] == (graph.index["later"],)


@virtual_time
async def test_an_alert_of_an_inlined_pipeline_tells_of_its_failures_only() -> None:
    told: list[str] = []

    @step
    async def work(fail: bool) -> None:
        if fail:
            raise ValueError("no")

    @step(when="failure")
    async def alert(why: RunFailure) -> None:
        told.extend(why.errors)

    sub = Pipeline("sub", [work, alert])
    pipeline = (
        Pipeline("all", context={"good": False, "bad": True}, failure_policy="collect_all")
        .add_pipeline(sub, "a", inputs={"fail": "good"})
        .add_pipeline(sub, "b", inputs={"fail": "bad"})
    )
    found = states(await pipeline.run())
    assert (found["a/alert"], found["b/alert"]) == ("skipped", "succeeded")
    assert told == ["b/work"]


# -- after -------------------------------------------------------------------------------


def traced(name: str, trace: list[str]) -> Any:
    @step(name=name)
    async def run() -> None:
        trace.append(name)

    return run


@virtual_time
async def test_after_a_pipeline_is_after_all_of_it_and_a_pipeline_after_is_all_of_it_after() -> (
    None
):
    trace: list[str] = []
    two = Pipeline("two", [traced("one", trace), traced("two", trace)])
    pipeline = Pipeline("all").add_pipeline(two, "y", after=["first"])
    pipeline.add_step(traced("last", trace), after=["x", "y"])
    pipeline.add_step(traced("first", trace), after=["x"]).add_pipeline(two, "x")
    assert (await pipeline.run()).success
    assert trace == ["one", "two", "first", "one", "two", "last"]


@virtual_time
async def test_a_failure_passes_along_after_a_pipeline_even_past_its_clean_up() -> None:
    @step
    async def work() -> None:
        raise ValueError("no")

    @step(when="always")
    async def tidy() -> None: ...

    sub = Pipeline("sub", [work]).add_step(tidy, after=["work"])
    pipeline = Pipeline("all", failure_policy="collect_all").add_pipeline(sub, "s")
    pipeline.add_step(traced("later", []), after=["s"])
    assert states(await pipeline.run()) == {
        "s/work": "failed",
        "s/tidy": "succeeded",
        "later": "upstream_failed",
    }


def test_a_thousand_steps_after_a_thousand_others_have_few_edges() -> None:
    many = Pipeline("many")
    many.add_step(traced("hub", []))
    for number in range(1000):
        many.add_step(traced("leaf", []), f"leaf_{number}", after=["hub"])
    many.add_step(traced("end", []), after=[f"leaf_{number}" for number in range(1000)])
    pipeline = Pipeline("all").add_pipeline(many, "a").add_pipeline(many, "b", after=["a"])
    graph = pipeline.build()
    assert graph.parents[graph.index["b/hub"]] == (graph.index["a/end"],)
    assert sum(map(len, graph.parents)) == 4001


# -- nesting -----------------------------------------------------------------------------


@virtual_time
async def test_an_inlined_pipeline_may_have_inlined_others() -> None:
    middle = Pipeline("middle", inputs=["path"]).add_pipeline(
        prepare(context={"unused": 1}), "in", outputs={"clean": "text"}
    )
    middle.add_step(clean, "twice", inputs={"raw": "text"}, after=["in"])
    outer = Pipeline("outer").add_pipeline(
        middle, "mid", inputs={"path": "where"}, outputs={"twice": "answer"}
    )
    assert [node.name for node in outer.steps] == ["mid/in/load", "mid/in/clean", "mid/twice"]
    result = await outer.run({"where": "a"})
    assert result["answer"] == result["mid/text"] == "ROWS OF A"
    assert result["mid/in/raw"] == "rows of a"


@virtual_time
async def test_what_is_changed_in_a_pipeline_later_is_not_changed_where_it_stands() -> None:
    sub = prepare()
    outer = Pipeline("outer").add_pipeline(sub, "etl")
    sub.add_step(clean, "more", inputs={"raw": "clean"})
    assert [node.name for node in outer.steps] == ["etl/load", "etl/clean"]
    assert [node.name for node in sub.steps] == ["load", "clean", "more"]


def chain(depth: int, names: list[str]) -> Pipeline:
    """``bump`` once in each of so many pipelines, each inlined into the next."""

    @step
    async def bump(number: int) -> int:
        return number + 1

    pipeline = Pipeline("p0", [bump])
    for level in range(depth):
        name = names[level % len(names)]
        pipeline = Pipeline(f"p{level + 1}").add_pipeline(pipeline, name, outputs={"bump": "below"})
        pipeline.add_step(bump, inputs={"number": "below"})
    return pipeline


@drawn(depth=st.integers(0, 12), names=st.lists(st.sampled_from("abc"), min_size=1, max_size=4))
def test_however_deep_every_name_means_what_it_meant_where_it_was_written(
    depth: int, names: list[str]
) -> None:
    result = run_virtually(chain(depth, names).run({"number": 0}))
    assert result["bump"] == depth + 1
    assert len(result.step_results) == depth + 1


# -- groups ------------------------------------------------------------------------------


@step(execution_group="g")
def first(number: int) -> int:
    return number


@step(execution_group="g")
def second(first: int) -> int:
    return first


def grouped(**options: Any) -> Pipeline:
    return Pipeline("grouped", [first, second], **options)


def test_a_label_of_one_inlining_never_joins_another() -> None:
    pipeline = Pipeline("all", [first, second])
    pipeline.add_pipeline(grouped(), "a").add_pipeline(grouped(), "b")
    assert {group.group_name: group.execution_order for group in pipeline.step_groups} == {
        "g": ["first", "second"],
        "a/g": ["a/first", "a/second"],
        "b/g": ["b/first", "b/second"],
    }


def test_names_of_split_labels_never_clash() -> None:
    @step
    def between(first: int) -> int:
        return first

    @step(execution_group="g")
    def third(between: int) -> int:
        return between

    @step(execution_group="g_0")
    def other() -> int:
        return 0

    split = Pipeline("split", [first, between, third, other])
    pipeline = Pipeline("all").add_pipeline(split, "a").add_pipeline(split, "b")
    names = [group.group_name for group in pipeline.step_groups]
    assert sorted(names) == ["a/g_0", "a/g_1", "a/g_2", "b/g_0", "b/g_1", "b/g_2"]


def test_what_is_said_about_groups_goes_along_and_the_outer_pipeline_has_the_last_word() -> None:
    sub = grouped(groups={"g": Group(lane="thread")})
    pipeline = Pipeline("all", groups={"b/g": Group(lane="inline")})
    pipeline.add_pipeline(sub, "a").add_pipeline(sub, "b")
    assert [group.lane for group in pipeline.step_groups] == ["thread", "inline"]
    assert sub.groups == {"g": Group(lane="thread")}


@virtual_time
async def test_awaited_in_a_step_it_shares_the_runtime_and_its_capacity() -> None:
    @step(resources={"cpu": 1})
    async def hold(path: str) -> str:
        return path

    sub = Pipeline("sub").add_pipeline(Pipeline("holding", [hold]), "in")

    @step(resources={"cpu": 1})
    async def outermost() -> str:
        return str((await sub.run({"path": "x"}))["in/hold"])

    pipeline = Pipeline("top", [outermost])
    async with Runtime(max_cpus=1):
        assert (await pipeline.run())["outermost"] == "x"
    assert (await pipeline.run(runtime=None))["outermost"] == "x"


# -- a part, other steps, kept outputs ---------------------------------------------------


def twice() -> Pipeline:
    return (
        Pipeline("all")
        .add_pipeline(prepare(), "a", outputs={"clean": "left"})
        .add_pipeline(prepare(), "b", inputs={"path": "other"}, outputs={"clean": "right"})
        .add_step(join)
    )


@pytest.mark.parametrize(
    "targets, expected",
    [
        (["a"], ["a/load", "a/clean"]),
        (["left"], ["a/load", "a/clean"]),
        (["a/raw", "b/load"], ["a/load", "b/load"]),
        (["b", "a/load"], ["a/load", "b/load", "b/clean"]),
    ],
)
@virtual_time
async def test_targets_name_steps_assets_and_whole_pipelines(
    targets: list[str], expected: list[str]
) -> None:
    result = await twice().run({"path": "x", "other": "y"}, targets=targets)
    assert list(result.step_results) == expected


@virtual_time
async def test_given_values_stand_in_for_assets_inside() -> None:
    result = await twice().run({"path": "x"}, given={"right": "R", "a/raw": "rows"})
    assert states(result) == {"a/clean": "succeeded", "join": "succeeded"}
    assert result["join"] == "ROWS + R"


@virtual_time
async def test_a_part_may_leave_out_what_its_steps_run_after() -> None:
    @step
    async def setup() -> None: ...

    pipeline = Pipeline("all", [setup]).add_pipeline(prepare(), "a", after=["setup"])
    pipeline.add_pipeline(prepare(), "b", after=["a"])
    result = await pipeline.run({"path": "x"}, given={"a/clean": "A", "a/raw": "R"})
    assert list(result.step_results) == ["b/load", "b/clean"]
    result = await pipeline.run({"path": "x"}, targets=["a/raw"])
    assert list(result.step_results) == ["setup", "a/load"]


@virtual_time
async def test_with_steps_replaces_one_inlining_only() -> None:
    tested = twice().with_steps({"a/load": lambda path: f"fake {path}"})
    result = await tested.run({"path": "x", "other": "y"})
    assert result["join"] == "FAKE X + ROWS OF Y"


@virtual_time
async def test_the_values_an_inlined_pipeline_does_not_keep_are_let_go() -> None:
    sub = prepare(outputs=["clean"])
    pipeline = Pipeline("all").add_pipeline(sub, "etl").add_step(load, "own", outputs=["own_raw"])
    result = await pipeline.run({"path": "a"})
    assert set(result.outputs) == {"etl/clean", "own", "own_raw"}
    shown = Pipeline("all").add_pipeline(sub, "etl", outputs={"raw": "table"})
    assert (await shown.run({"path": "a"}))["table"] == "rows of a"
    chosen = Pipeline("all", outputs=["etl/raw"]).add_pipeline(sub, "etl")
    assert set((await chosen.run({"path": "a"})).outputs) == {"etl/load", "etl/raw"}


@virtual_time
async def test_a_step_stands_for_its_only_inlining() -> None:
    result = await Pipeline("all").add_pipeline(prepare(), "etl").run({"path": "a"})
    assert result[clean] == "ROWS OF A"
    with pytest.raises(KeyError, match=r"stands under 2 names; ask for one of"):
        (await twice().run({"path": "x", "other": "y"}))[clean]


# -- faults ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, sentence",
    [
        (
            {"inputs": {"pth": "place"}},
            "pipeline 'etl': inputs= names 'pth', which nothing in 'prepare' takes; did you mean "
            "'path'?",
        ),
        (
            {"inputs": {"raw": "place"}},
            "pipeline 'etl': inputs= names 'raw', which 'prepare' makes itself",
        ),
        (
            {"outputs": {"claen": "text"}},
            "pipeline 'etl': outputs= names 'claen', which is no asset of 'prepare'; did you mean "
            "'clean'?",
        ),
        ({"after": ["strat"]}, "pipeline 'etl' runs after 'strat', which is no step"),
        ({"after": ["etl"]}, "pipeline 'etl' runs after itself"),
        (
            {"outputs": {"clean": "start"}},
            "asset 'start' is produced by 'start' and by 'etl/clean'",
        ),
    ],
)
def test_wrong_names_are_build_errors_that_name_the_nearest_right_one(
    options: dict[str, Any], sentence: str
) -> None:
    pipeline = Pipeline("all").add_step(traced("start", []))
    pipeline.add_pipeline(prepare(), "etl", **options)
    assert any(sentence in problem for problem in problems_of(pipeline)), problems_of(pipeline)


def test_an_input_that_leads_nowhere_is_a_build_error_where_inputs_are_declared() -> None:
    outer = Pipeline("all", inputs=["place"])
    outer.add_pipeline(prepare(), "etl", inputs={"path": "plaec"})
    assert problems_of(outer) == [
        "pipeline 'all': step 'etl/load': it needs 'plaec', which is no asset and no run input of "
        "the pipeline; did you mean 'place'?"
    ]


@virtual_time
async def test_an_input_that_leads_nowhere_is_an_error_of_the_run_where_none_are_declared() -> None:
    @step
    async def place() -> str:
        return "a"

    outer = Pipeline("all", [place]).add_pipeline(prepare(), "etl", inputs={"path": "plaec"})
    with pytest.raises(
        GraphError, match=r"'plaec', asked for by step 'etl/load' has no value.*place"
    ):
        await outer.run()


def test_faults_inside_name_the_whole_path() -> None:
    @step(inputs=["tabel"])
    async def use(table: str) -> None: ...

    middle = Pipeline("middle").add_pipeline(Pipeline("inner", [use]), "in")
    (problem,) = problems_of(Pipeline("outer").add_pipeline(middle, "mid"))
    assert problem.startswith("pipeline 'outer': step 'mid/in/use': it needs the asset 'tabel'")


def test_two_pipelines_of_one_name_are_one_fault() -> None:
    pipeline = Pipeline("all").add_pipeline(prepare(), "etl").add_pipeline(prepare(), "etl")
    told = [problem for problem in problems_of(pipeline) if "inlined as" in problem]
    assert told == [
        "pipeline 'all': 2 pipelines are inlined as 'etl'; give each a name of its own: "
        "add_pipeline(…, 'etl_2')"
    ]


def test_a_step_and_a_pipeline_of_one_name_are_a_fault() -> None:
    pipeline = Pipeline("all").add_step(clean, "etl").add_pipeline(prepare(), "etl")
    assert any("are both called 'etl'; rename one" in p for p in problems_of(pipeline))


def test_a_name_that_the_inlined_pipeline_offers_twice_is_a_fault() -> None:
    (problem,) = problems_of(
        Pipeline("all").add_pipeline(prepare(context={"raw": 1, "path": "a"}), "etl")
    )
    assert "'etl/raw' could be that asset or a run input or context value of" in problem


def test_a_cycle_through_an_inlined_pipeline_is_shown_as_a_path() -> None:
    pipeline = Pipeline("all").add_step(traced("start", []), after=["etl"])
    pipeline.add_pipeline(prepare(), "etl", after=["start"])
    assert any(
        "start → etl/load → etl/clean → start" in p or "→ start →" in p
        for p in problems_of(pipeline)
    )


def test_what_an_inlined_pipeline_keeps_must_be_there() -> None:
    pipeline = Pipeline("all").add_pipeline(prepare(outputs=["claen"]), "etl")
    assert any(
        "pipeline 'etl': the outputs= of 'prepare' names 'claen'" in p
        for p in problems_of(pipeline)
    )


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ((clean, "etl"), r"takes a Pipeline, got <Step 'clean'.*; add_step\(\) takes a step"),
        ((Pipeline("empty"), "etl"), "pipeline 'empty' has no steps yet"),
        ((prepare(), "a/b"), "pipeline name 'a/b' holds '/'"),
        ((prepare(), ""), "must not be empty"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_at_once(
    arguments: tuple[Any, Any], sentence: str
) -> None:
    with pytest.raises(GraphError, match=sentence):
        Pipeline("all").add_pipeline(*arguments)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"inputs": "path"}, "inputs=…. takes a mapping from names to names, got 'path'"),
        ({"inputs": {"path": 3}}, "takes the name of an asset, got 3"),
        ({"outputs": {"clean": "a/b"}}, "asset name 'a/b' holds '/'"),
        ({"after": "start"}, r"pipeline 'etl': after takes a list of steps, got 'start'"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(
    options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(GraphError, match=sentence):
        Pipeline("all").add_pipeline(prepare(), "etl", **options)


@virtual_time
async def test_an_unknown_short_name_leads_to_the_full_one() -> None:
    pipeline = Pipeline("all").add_pipeline(prepare(), "preparation").add_step(clean, "again")
    with pytest.raises(GraphError, match="did you mean 'preparation/raw'"):
        await pipeline.run({"path": "a"})
    with pytest.raises(GraphError, match="did you mean 'preparation/load'"):
        pipeline.with_steps({load: lambda path: path})


# -- pictures ----------------------------------------------------------------------------


def test_pictures_for_a_terminal_and_plans_show_full_names() -> None:
    assert twice().visualize().splitlines()[1:] == [
        "○    a/load → raw",
        "●    a/clean → left",
        "│ ○  b/load → raw",
        "│ ●  b/clean → right",
        "●─┘  join",
    ]
    assert "a/clean" in str(twice().plan())


def pictured() -> Pipeline:
    middle = Pipeline("middle").add_pipeline(grouped(), "in")
    return Pipeline("all").add_pipeline(middle, "mid").add_pipeline(prepare(), "etl")


def test_pictures_for_pages_frame_inlined_pipelines() -> None:
    assert pictured().visualize("mermaid").splitlines() == [
        "flowchart LR",
        '    subgraph g0["mid"]',
        '        subgraph g1["in"]',
        '            subgraph g2["g"]',
        '                n0["first"]',
        '                n1["second"]',
        "            end",
        "        end",
        "    end",
        '    subgraph g3["etl"]',
        '        n2["load"]',
        '        n3["clean"]',
        "    end",
        "    n0 --> n1",
        '    n2 -->|"raw"| n3',
    ]


def test_pictures_for_graphviz_frame_inlined_pipelines() -> None:
    lines = pictured().visualize("dot").splitlines()
    assert lines[5:9] == [
        "  subgraph cluster_0 {",
        '    label="mid";',
        "    style=dashed;",
        "    subgraph cluster_1 {",
    ]
    assert '    n3 [label="clean"];' in lines
    assert '  n2 -> n3 [label="raw"];' in lines
    assert sum(line.endswith("{") for line in lines) == sum(line.endswith("}") for line in lines)


def test_an_svg_shows_full_names_and_no_prefix_twice() -> None:
    words = Picture(pictured().visualize("svg")).words
    assert {"mid/in/first", "g · thread", "etl/load", "etl/clean", "raw"} <= set(words)


# -- in a running step -------------------------------------------------------------------


@virtual_time
async def test_a_pipeline_with_inlined_ones_runs_nested_in_a_step() -> None:
    @step
    async def outermost(ctx: StepContext) -> str:
        result = await ctx.run(twice(), {"path": "x", "other": "y"})
        return str(result["join"])

    assert (await Pipeline("top", [outermost]).run())["outermost"] == "ROWS OF X + ROWS OF Y"


# -- recorded runs and worker processes --------------------------------------------------


def recorded(ran: list[str], *, times: int = 2, fail: bool = False) -> Pipeline:
    @step(outputs=["rows"])
    async def read(path: str, times: int) -> str:
        ran.append(f"read {path}")
        return path * times

    @step
    async def last(left: str, right: str) -> str:
        ran.append("last")
        if fail:
            raise ValueError("not yet")
        return left + right

    sub = Pipeline("reading", [read], inputs=["path"], context={"times": times})
    pipeline = Pipeline("all").add_pipeline(sub, "a", inputs={"path": "x"}, outputs=["rows"])
    pipeline.add_pipeline(sub, "b", inputs={"path": "y"}, outputs={"rows": "others"})
    return pipeline.add_step(last, inputs={"left": "rows", "right": "others"})


def test_a_recorded_run_goes_on_inside_inlined_pipelines(tmp_path: Path) -> None:
    ran: list[str] = []

    async def run(pipeline: Pipeline) -> PipelineResult:
        ran.clear()
        async with Runtime(directory=tmp_path):
            return await pipeline.run({"x": "p", "y": "q"}, run_id="r")

    assert not asyncio.run(run(recorded(ran, fail=True))).success
    assert ran == ["read p", "read q", "last"]
    assert asyncio.run(run(recorded(ran)))["last"] == "ppqq"
    assert ran == ["last"]
    assert asyncio.run(run(recorded(ran, times=3)))["last"] == "pppqqq"
    assert ran == ["read p", "read q", "last"]
