"""Running a part: only targets and what they need, with values given in the place of others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from asyncflow import GraphError, Group, Pipeline, PipelineResult, Step, step
from tests.virtual_time import run_virtually, virtual_time


@step(outputs=["raw"])
async def load(path: str) -> str:
    return f"rows of {path}"


@step(outputs=["train", "test"])
async def split(raw: str) -> tuple[str, str]:
    return f"most {raw}", f"some {raw}"


@step(outputs=["model"])
async def fit(train: str, depth: int = 3) -> str:
    return f"model of {train} at {depth}"


@step
async def score(model: str, test: str) -> str:
    return f"{model} on {test}"


@step
async def page(raw: str) -> str:
    return f"<{raw}>"


WHOLE = Pipeline("whole", [load, split, fit, score, page])


def ran(result: PipelineResult) -> set[str]:
    assert result.success, result.failures()
    return set(result.step_results)


# -------------------------------------------------------------------- targets


@pytest.mark.parametrize(
    "targets, expected",
    [
        (["page"], {"load", "page"}),
        (["model"], {"load", "split", "fit"}),
        (["train"], {"load", "split"}),
        ([fit], {"load", "split", "fit"}),
        (["raw", page], {"load", "page"}),
        (["score", "page"], {"load", "split", "fit", "score", "page"}),
    ],
    ids=["step", "asset", "one of several outputs", "Step", "asset and Step", "all"],
)
@virtual_time
async def test_only_the_targets_and_what_they_need_run(
    targets: list[str | Step[..., Any]], expected: set[str]
) -> None:
    assert ran(await WHOLE.run({"path": "a"}, targets=targets)) == expected


@virtual_time
async def test_the_pipeline_itself_stays_whole() -> None:
    await WHOLE.run({"path": "a"}, targets=["page"])
    assert len(ran(await WHOLE.run({"path": "a"}))) == 5


@virtual_time
async def test_two_producers_of_one_target_both_come_into_question() -> None:
    @step(outputs=["model"], condition=lambda: False)
    async def small() -> str:
        return "small"

    @step(outputs=["model"], condition=lambda: True)
    async def large() -> str:
        return "large"

    result = await Pipeline("p", [small, large, page]).run(targets=["model"])
    assert ran(result) == {"small", "large"}
    assert result["model"] == "large"


@virtual_time
async def test_after_is_something_a_target_needs() -> None:
    pipeline = Pipeline("p", [load, page]).add_step(load, "later", after=["page"], outputs=["x"])
    assert ran(await pipeline.run({"path": "a"}, targets=["later"])) == {"load", "page", "later"}


@virtual_time
async def test_clean_up_of_what_was_selected_runs() -> None:
    @step(when="always")
    async def clean() -> None: ...

    @step(when="always")
    async def close(raw: str) -> None: ...

    pipeline = Pipeline("p", [load, split, page, clean, close])
    pipeline.add_step(close, "close_sets", inputs={"raw": "train"})
    pipeline.add_step(clean, "after_both", after=["load", "page"])
    pipeline.add_step(clean, "after_closing", after=["close"])
    assert ran(await pipeline.run({"path": "a"}, targets=["raw"])) == {
        "load",
        "clean",
        "close",
        "after_closing",
    }
    assert ran(await pipeline.run({"path": "a"}, targets=["raw", page])) == {
        "load",
        "page",
        "clean",
        "close",
        "after_closing",
        "after_both",
    }
    only_page = ran(await pipeline.run(given={"raw": "rows"}, targets=["page"]))
    assert only_page == {"page", "clean", "after_both"}


@virtual_time
async def test_a_clean_up_step_that_is_a_target_brings_what_it_needs() -> None:
    @step(when="always")
    async def close(raw: str) -> None: ...

    pipeline = Pipeline("p", [load, page, close])
    assert ran(await pipeline.run({"path": "a"}, targets=[close])) == {"load", "close"}


@virtual_time
async def test_clean_up_of_a_part_runs_after_a_failure_in_it() -> None:
    @step
    async def broken(raw: str) -> None:
        raise ValueError("no")

    @step(when="always")
    async def close(raw: str) -> None: ...

    pipeline = Pipeline("p", [load, broken, page]).add_step(close, after=["broken"])
    result = await pipeline.run({"path": "a"}, targets=["broken"])
    assert result.step_results["close"].status == "succeeded"
    assert set(result.step_results) == {"load", "broken", "close"}


@pytest.mark.parametrize(
    "targets, sentence",
    [
        (["pgae"], "targets= names 'pgae', which is no step and no asset; did you mean 'page'?"),
        ("page", r"takes a list of names, got 'page'; write \['page'\]"),
        (page, r"takes a list of names, got <Step 'page'>"),
        ([], "names nothing; leave it out to run everything"),
        ([7], "takes names of steps or assets, got 7"),
    ],
)
@virtual_time
async def test_targets_that_make_no_sense_are_refused(targets: Any, sentence: str) -> None:
    with pytest.raises(GraphError, match=sentence):
        await WHOLE.run({"path": "a"}, targets=targets)


@virtual_time
async def test_asking_for_what_is_not_in_the_part_says_so() -> None:
    result = await WHOLE.run({"path": "a"}, targets=["page"])
    for absent in ("score", "model", fit):
        with pytest.raises(KeyError, match="the part that was run of pipeline 'whole'"):
            result[absent]
        with pytest.raises(KeyError):
            result.get(absent)


# ---------------------------------------------------------------------- given


@virtual_time
async def test_what_makes_a_given_asset_does_not_run_nor_what_only_that_needs() -> None:
    result = await WHOLE.run(given={"raw": "given rows"})
    assert ran(result) == {"split", "fit", "score", "page"}
    assert result["page"] == "<given rows>"
    assert result["raw"] == result.outputs["raw"] == "given rows"


@virtual_time
async def test_all_outputs_of_a_step_may_be_given() -> None:
    result = await WHOLE.run(given={"train": "T", "test": "S"}, targets=["score"])
    assert ran(result) == {"fit", "score"}
    assert result["score"] == "model of T at 3 on S"


@virtual_time
async def test_one_of_several_outputs_will_do_if_nothing_needs_the_other() -> None:
    assert ran(await WHOLE.run(given={"train": "T"}, targets=["model"])) == {"fit"}


@virtual_time
async def test_one_of_several_outputs_will_not_do_if_the_other_is_needed() -> None:
    with pytest.raises(
        GraphError,
        match="step 'split' would run for 'test' though 'train' is given; give all its outputs",
    ):
        await WHOLE.run({"path": "a"}, given={"train": "T"})


@virtual_time
async def test_none_is_a_value_that_can_be_given() -> None:
    assert (await WHOLE.run(given={"raw": None}, targets=["page"]))["page"] == "<None>"


@virtual_time
async def test_a_given_asset_stands_in_for_all_its_producers() -> None:
    @step(outputs=["raw"], condition=lambda: True)
    async def one() -> str:
        raise AssertionError("it must not run")

    @step(outputs=["raw"], condition=lambda: False)
    async def other() -> str:
        raise AssertionError("it must not run")

    result = await Pipeline("p", [one, other, page]).run(given={"raw": "rows"})
    assert ran(result) == {"page"}


@virtual_time
async def test_a_given_list_can_be_mapped_over() -> None:
    @step
    async def numbers() -> list[int]:
        return [1, 2]

    @step
    async def double(number: int) -> int:
        return 2 * number

    @step
    async def next_(double: int) -> int:
        return double + 1

    pipeline = Pipeline("p", [numbers]).add_step(
        double, map="numbers", inputs={"number": "numbers"}
    )
    pipeline.add_step(next_, "next", map="double")
    assert (await pipeline.run(given={"numbers": [5]}))["next"] == [11]
    result = await pipeline.run(given={"double": [7, 8]}, targets=["next"])
    assert result["next"] == [8, 9]
    assert set(result.step_results) == {"next", "next[0]", "next[1]"}
    tested = pipeline.with_steps({"double": lambda number: 100 * number})
    assert (await tested.run())["next"] == [101, 201]


@virtual_time
async def test_after_a_step_that_does_not_run_waits_for_nothing() -> None:
    @step
    async def told() -> str:
        return "told"

    pipeline = Pipeline("p", [load, page]).add_step(told, after=["load"])
    assert ran(await pipeline.run(given={"raw": "rows"})) == {"page", "told"}


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"given": {"rwa": 1}}, "given= names 'rwa', which is no asset; did you mean 'raw'?"),
        ({"given": {"page": 1}, "targets": ["page"]}, "'page', whose value is given"),
        ({"given": {"raw": 1}, "targets": ["raw"]}, "'raw', whose value is given; take it out of"),
        ({"given": {"raw": 1}, "targets": [load]}, "'load', whose value is given"),
        ({"given": ["raw"]}, "takes a mapping"),
        ({"given": {7: 1}}, "has the key 7, which is no name"),
        ({"given": {"score": 1, "page": 2}}, "given= leaves nothing to run"),
    ],
)
@virtual_time
async def test_given_values_that_make_no_sense_are_refused(
    options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(GraphError, match=sentence):
        await WHOLE.run({"path": "a"}, **options)


@virtual_time
async def test_an_asset_cannot_be_given_and_an_input_at_once() -> None:
    with pytest.raises(GraphError, match="the run input 'raw' has the name of an asset"):
        await WHOLE.run({"raw": "a"}, given={"raw": "b"})


# --------------------------------------------------------- inputs and outputs


@virtual_time
async def test_run_inputs_that_the_part_does_not_take_may_be_given_or_left_out() -> None:
    for inputs in ({}, {"path": "a"}, {"depth": 4}):
        assert ran(await WHOLE.run(inputs, given={"raw": "rows"}, targets=["page"])) == {"page"}
    with pytest.raises(GraphError, match="no step takes the run input 'pth'; did you mean"):
        await WHOLE.run({"pth": "a"}, targets=["page"])


@virtual_time
async def test_declared_inputs_are_required_where_the_part_needs_them() -> None:
    pipeline = Pipeline("p", [load, page, fit], inputs={"path": str, "train": str, "depth": int})
    assert ran(await pipeline.run({"path": "a"}, targets=["page"])) == {"load", "page"}
    assert ran(await pipeline.run(given={"raw": "rows"}, targets=["page"])) == {"page"}
    with pytest.raises(GraphError, match="the run input 'path' is missing"):
        await pipeline.run(targets=["page"])
    with pytest.raises(GraphError, match="the run input 'train' is missing"):
        await pipeline.run({"path": "a"})


@virtual_time
async def test_a_part_keeps_the_declared_outputs_it_has_and_its_targets() -> None:
    pipeline = Pipeline("p", [load, split, fit, score, page], outputs=["score", "page"])
    result = await pipeline.run({"path": "a"}, targets=["page"])
    assert result.outputs == {"page": "<rows of a>"}
    result = await pipeline.run({"path": "a"}, targets=["model"])
    assert set(result.outputs) == {"fit", "model"}
    result = await pipeline.run(given={"raw": "rows"}, targets=["score"])
    assert set(result.outputs) == {"score"}


@virtual_time
async def test_a_given_value_that_is_a_declared_output_is_kept() -> None:
    pipeline = Pipeline("p", [load, page], outputs=["raw", "page"])
    assert (await pipeline.run(given={"raw": "rows"})).outputs == {"raw": "rows", "page": "<rows>"}


# --------------------------------------------------------------------- groups


def grouped() -> Pipeline:
    first = load.with_options(execution_group="prep")
    second = page.with_options(execution_group="prep")
    third = split.with_options(execution_group="parts")
    groups = {"prep": Group(lane="thread"), "parts": Group(lane="thread")}
    return Pipeline("p", [first, second, third], groups=groups)


@virtual_time
async def test_a_part_has_what_is_left_of_its_groups() -> None:
    assert ran(await grouped().run({"path": "a"}, targets=["page"])) == {"load", "page"}
    assert ran(await grouped().run({"path": "a"}, targets=["raw"])) == {"load"}
    assert ran(await grouped().run(given={"raw": "rows"})) == {"page", "split"}


# ----------------------------------------------------------------- properties


@st.composite
def layered(draw: st.DrawFn) -> tuple[Pipeline, dict[str, set[str]], list[str], list[str]]:
    """A random pipeline, who needs whom, some targets and some given assets."""
    size = draw(st.integers(1, 8))
    above: dict[str, set[str]] = {}
    pipeline = Pipeline("random")
    for number in range(size):
        parents = draw(st.sets(st.sampled_from(sorted(above)), max_size=3)) if above else set()

        async def join(*values: str) -> str:
            return f"({'+'.join(sorted(values))})"

        name = f"n{number}"
        pipeline.add_step(step(join, name=name), inputs=sorted(parents) or None)
        above[name] = parents
    names = sorted(above)
    given = draw(st.lists(st.sampled_from(names), unique=True, max_size=size))
    free = [name for name in names if name not in given]
    targets = draw(st.lists(st.sampled_from(free), unique=True, min_size=1)) if free else []
    return pipeline, above, targets, given


@drawn(layered())
def test_a_part_is_all_that_its_targets_need_and_nothing_else(
    case: tuple[Pipeline, dict[str, set[str]], list[str], list[str]],
) -> None:
    pipeline, above, targets, given = case
    if not targets:
        return
    needed: set[str] = set()
    to_follow = list(targets)
    while to_follow:
        name = to_follow.pop()
        if name not in needed:
            needed.add(name)
            to_follow.extend(above[name] - set(given))
    result = run_virtually(pipeline.run(targets=targets, given=dict.fromkeys(given, "G")))
    assert ran(result) == needed

    def value(name: str) -> str:
        return "G" if name in given else f"({'+'.join(sorted(map(value, above[name])))})"

    assert {name: result[name] for name in targets} == {name: value(name) for name in targets}
