"""Ways to write a wrong pipeline: each is refused with who, what is wrong, and what to do."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple

import pytest

from asyncflow import (
    AsyncflowError,
    CapacityError,
    GraphError,
    Group,
    ParallelExecutor,
    Pipeline,
    PipelineResult,
    Retry,
    Runtime,
    Step,
    step,
)

ANY: Any = step  # takes what the type checker would refuse


def function(load: int, rate: float = 1.0) -> None: ...


@step
def load() -> int:
    return 1


@step
def train(load: int, rate: float = 1.0) -> int:
    return load


@step
async def fetch(url: str) -> str:
    return url


async def page(url: str) -> str:
    return url


@step
def rows() -> Iterator[int]:
    yield 1


@step
async def lines() -> AsyncIterator[int]:
    yield 1


def pipeline(*steps: Step[..., Any], **options: Any) -> Pipeline:
    return Pipeline("p", steps=steps, **options)


def asking(name: str = "hungry", **options: Any) -> Step[..., Any]:
    """A step that asks for something of the machine, or of its group."""

    def needs() -> None: ...

    return step(needs, name=name, **options)


def within(group: str, name: str, **options: Any) -> Step[..., Any]:
    return asking(name, execution_group=group, **options)


async def run_on(used: Step[..., Any], **machine: Any) -> PipelineResult:
    async with Runtime(**machine) as runtime:
        return await pipeline(used).run(runtime=runtime)


class Wrong(NamedTuple):
    """What to write, and what the refusal has to say: whose fault, which, and the remedy."""

    write: Callable[[], Any]
    who: str
    fault: str
    remedy: str
    error: type[AsyncflowError] = GraphError


DEFINITIONS = {
    "a_lambda_without_a_name": Wrong(
        lambda: step(lambda: None), "a lambda", "has no name", "give it one: step(func, name="
    ),
    "a_name_with_a_slash": Wrong(
        lambda: step(function, name="a/b"), "'a/b'", "holds '/'", "are reserved"
    ),
    "no_function": Wrong(lambda: ANY(3), "@step", "got 3", "takes a function"),
    "a_step_of_a_step": Wrong(
        lambda: ANY(load), "'load'", "is a step already", "with_options(…) gives a changed copy"
    ),
    "inputs_as_one_text": Wrong(
        lambda: step(function, inputs="load"), "'function'", "got the text 'load'", "write ['load']"
    ),
    "no_outputs": Wrong(
        lambda: step(function, outputs=[]), "'function'", "outputs: takes at least one", "leave it"
    ),
    "retries_as_text": Wrong(
        lambda: ANY(function, retry="3"), "'function'", "got '3'", "takes a whole number"
    ),
    "a_timeout_of_nothing": Wrong(
        lambda: step(function, timeout=0), "'function'", "got 0", "leave it out for none"
    ),
    "a_condition_that_is_no_function": Wrong(
        lambda: ANY(function, condition=True), "'function'", "got True", "takes a callable"
    ),
    "a_lane_that_is_none": Wrong(
        lambda: ANY(function, lane="gpu"), "'function'", "no lane 'gpu'", "the lanes are inline"
    ),
    "an_unknown_resource": Wrong(
        lambda: step(function, resources={"cpus": 2}), "'function'", "'cpus'", "did you mean 'cpu'"
    ),
    "an_unknown_unit": Wrong(
        lambda: step(function, resources={"memory": "4 gigs"}), "'function'", "'gigs'", "'4Gi'"
    ),
    "less_than_no_cpu": Wrong(
        lambda: step(function, resources={"cpu": -1}), "'function'", "-1 is not", "'500m'"
    ),
    "no_gpus": Wrong(
        lambda: step(function, resources={"gpu": 0}), "'function'", "asks for nothing", "leave gpu"
    ),
    "a_retry_on_nothing": Wrong(
        lambda: Retry(1, on=3),  # type: ignore[arg-type]
        "Retry(on=…)",
        "got 3",
        "takes exception types or a predicate",
    ),
    "group_resources": Wrong(
        lambda: Group(resources={"cpus": 2}),  # type: ignore[arg-type]
        "Group(resources=…)",
        "the unknown key 'cpus'",
        "did you mean 'cpu'",
    ),
}

PLACEMENTS = {
    "a_bare_function": Wrong(
        lambda: pipeline().add_step(function),  # type: ignore[arg-type]
        "'function'",
        "add_step() takes a step",
        "decorate the function with @step",
    ),
    "a_called_step": Wrong(
        lambda: pipeline().add_step(load()),  # type: ignore[arg-type]
        "got 1",
        "add_step() takes a step",
        "pass the step itself, without calling it",
    ),
    "steps_that_are_one_step": Wrong(
        lambda: Pipeline("p", steps=load),  # type: ignore[arg-type]
        "Pipeline(steps=…)",
        "got <Step 'load'>",
        "write [<Step 'load'>]",
    ),
    "a_reserved_name": Wrong(
        lambda: pipeline().add_step(load, name="load[0]"), "'load[0]'", "holds '['", "are reserved"
    ),
    "params_as_a_list": Wrong(
        lambda: pipeline().add_step(train, params=[1]),  # type: ignore[arg-type]
        "'train'",
        "params takes a mapping, got [1]",
        "write {'name': value}",
    ),
    "params_by_position": Wrong(
        lambda: pipeline().add_step(train, params={0: 1}),  # type: ignore[dict-item]
        "'train'",
        "params has the key 0",
        "write it as text",
    ),
    "after_one_step": Wrong(
        lambda: pipeline().add_step(train, after="load"),
        "'train'",
        "after takes a list of steps, got 'load'",
        "write ['load']",
    ),
    "after_a_number": Wrong(
        lambda: pipeline().add_step(train, after=[3]),  # type: ignore[list-item]
        "'train'",
        "after takes names or steps, got 3",
        "name the step",
    ),
    "after_no_list": Wrong(
        lambda: pipeline().add_step(train, after=3),  # type: ignore[arg-type]
        "'train'",
        "after takes a list of steps, got 3",
        "write [3]",
    ),
    "outputs_as_one_text": Wrong(
        lambda: pipeline(load, outputs="load"),
        "Pipeline(outputs=…)",
        "got the text 'load'",
        "write ['load']",
    ),
    "run_inputs_as_one_text": Wrong(
        lambda: pipeline(fetch, inputs="url"), "Pipeline(inputs=…)", "got 'url'", "takes names"
    ),
    "context_as_a_list": Wrong(
        lambda: pipeline(fetch, context=["url"]),
        "Pipeline(context=…)",
        "got ['url']",
        "write {'name': value}",
    ),
    "a_group_as_text": Wrong(
        lambda: pipeline(load, groups={"g": "thread"}),
        "groups['g']",
        "got 'thread'",
        "write Group(lane='thread')",
    ),
    "an_unknown_policy": Wrong(
        lambda: pipeline(load, failure_policy="stop"),
        "failure_policy",
        "not 'stop'",
        "is 'fail_fast' or 'collect_all'",
    ),
}

BUILDS = {
    "no_steps": Wrong(lambda: pipeline().build(), "'p'", "has no steps", "add one with add_step()"),
    "two_nodes_of_one_name": Wrong(
        lambda: pipeline(load, load).build(), "'load'", "two nodes", "name='load_2'"
    ),
    "two_producers": Wrong(
        lambda: pipeline(load, asking(outputs=["load"])).build(),
        "'hungry'",
        "'load' is produced by 'load' and by 'hungry'",
        "rename one output, or give both a condition",
    ),
    "a_misspelt_input": Wrong(
        lambda: pipeline(load).add_step(train, inputs=["laod"]).build(),
        "'train'",
        "needs the asset 'laod', which no step produces",
        "did you mean 'load'?",
    ),
    "an_input_like_no_other": Wrong(
        lambda: pipeline(load).add_step(train, inputs=["weights"]).build(),
        "'train'",
        "needs the asset 'weights', which no step produces",
        "add a step that does, or correct inputs=",
    ),
    "a_run_input_declared_as_asset": Wrong(
        lambda: pipeline(step(page, inputs=["url"]), inputs=["url"]).build(),
        "'page'",
        "'url', which is a run input or context value and no asset",
        "leave it out of inputs=",
    ),
    "a_map_over_a_run_input": Wrong(
        lambda: (
            Pipeline("p", inputs=["numbers"]).add_step(step(page), "each", map="numbers").build()
        ),
        "'each'",
        "is mapped over 'numbers', which no step produces",
        "let a step return them, also a run input",
    ),
    "a_map_over_a_misspelt_asset": Wrong(
        lambda: pipeline(load).add_step(train, map="laod").build(),
        "'train'",
        "is mapped over 'laod', which no step produces",
        "did you mean 'load'?",
    ),
    "a_cycle": Wrong(
        lambda: (
            pipeline()
            .add_step(train, name="first", inputs=["second"])
            .add_step(train, name="second", inputs=["first"])
            .build()
        ),
        "second → first → second",
        "wait for each other",
        "cut one of the links",
    ),
    "its_own_output": Wrong(
        lambda: pipeline().add_step(train, inputs=["train"]).build(),
        "'train'",
        "depends on itself",
        "rename its output or its input",
    ),
    "after_itself": Wrong(
        lambda: pipeline().add_step(load, after=["load"]).build(),
        "'load'",
        "depends on itself",
        "take it out of after=",
    ),
    "after_a_misspelt_step": Wrong(
        lambda: pipeline(load).add_step(train, after=["laod"]).build(),
        "'train'",
        "runs after 'laod', which is no step",
        "did you mean 'load'?",
    ),
    "after_a_step_that_is_missing": Wrong(
        lambda: pipeline(load).add_step(train, after=["cleanup"]).build(),
        "'train'",
        "runs after 'cleanup', which is no step",
        "add that step, or take it out of after=",
    ),
    "params_for_a_misspelt_parameter": Wrong(
        lambda: pipeline(load).add_step(train, params={"rat": 1}).build(),
        "'train'",
        "no parameter 'rat'",
        "did you mean 'rate'?",
    ),
    "params_for_no_parameter": Wrong(
        lambda: pipeline(load).add_step(train, params={"epochs": 1}).build(),
        "'train'",
        "no parameter 'epochs'",
        "drop it from params=, or add that parameter",
    ),
    "a_parameter_filled_twice": Wrong(
        lambda: pipeline(load).add_step(train, inputs=["load"], params={"load": 1}).build(),
        "'train'",
        "'load' is filled by inputs= and by params=",
        "drop one",
    ),
    "more_inputs_than_parameters": Wrong(
        lambda: pipeline(load).add_step(asking("full"), inputs=["load"]).build(),
        "'full'",
        "no parameter left",
        "add a parameter or *args",
    ),
    "inputs_for_a_misspelt_parameter": Wrong(
        lambda: pipeline(load).add_step(train, inputs={"lod": "load"}).build(),
        "'train'",
        "'lod', which its function does not have",
        "did you mean 'load'?",
    ),
    "inputs_for_no_parameter": Wrong(
        lambda: pipeline(load).add_step(train, inputs={"weights": "load"}).build(),
        "'train'",
        "'weights', which its function does not have",
        "add that parameter, or name another one",
    ),
    "a_generator": Wrong(
        lambda: pipeline(rows).build(), "'rows'", "is a generator function", "return a list"
    ),
    "an_async_generator": Wrong(
        lambda: pipeline(lines).build(), "'lines'", "is a generator function", "return a list"
    ),
    "a_name_with_two_meanings": Wrong(
        lambda: pipeline(load, train, context={"load": 2}).build(),
        "'train'",
        "'load' could be the asset of that name or a run input or context value",
        "say inputs=['load']",
    ),
    "a_parameter_that_nothing_fills": Wrong(
        lambda: pipeline(fetch, inputs=["depth"]).run({"depth": 1}),
        "'fetch'",
        "'url' of step 'fetch' has no value: no asset, params, run input, service or context",
        "pass inputs={'url': …} or services={'url': …}",
    ),
    "an_output_that_nothing_makes": Wrong(
        lambda: pipeline(load, outputs=["weights"]).build(),
        "outputs=",
        "'weights', which is no asset and no step",
        "add a step that makes it, or take it out of outputs=",
    ),
    "a_group_of_nobody": Wrong(
        lambda: pipeline(load, groups={"g": Group()}).build(),
        "groups=",
        "no step has that execution_group",
        "give it to a step, or take it out of groups=",
    ),
    "lanes_that_do_not_agree": Wrong(
        lambda: pipeline(within("g", "a", lane="inline"), within("g", "b", lane="thread")).build(),
        "'a' wants the inline lane and 'b' the thread lane",
        "group 'g' has one worker",
        "make them agree or take one out of the group",
    ),
    "labels_that_do_not_agree": Wrong(
        lambda: pipeline(
            within("g", "a", resources={"node_affinity": {"required": {"zone": "north"}}}),
            within("g", "b", resources={"node_affinity": {"required": {"zone": "south"}}}),
        ).build(),
        "group 'g'",
        "'zone' to be both 'north' and 'south'",
        "let its steps agree on one value",
    ),
    "a_gpu_that_nothing_names": Wrong(
        lambda: pipeline(asking(lane="inline", resources={"gpu": 1})).build(),
        "'hungry'",
        "nothing tells it which device is its own",
        "take a StepContext parameter",
    ),
    "a_condition_of_anything": Wrong(
        lambda: pipeline(asking(condition=lambda *names: True)).build(),
        "'hungry'",
        "its condition takes *args or **kwargs",
        "name what it needs instead",
    ),
    "a_drawing_in_no_format": Wrong(
        lambda: pipeline(load).visualize("png"), "'png'", "no drawing format", "'mermaid'"
    ),
}

RUNS = {
    "a_missing_run_input": Wrong(
        lambda: pipeline(fetch).run(), "'fetch'", "'url' of step 'fetch' has no value", "pass inpu"
    ),
    "a_missing_declared_input": Wrong(
        lambda: pipeline(fetch, inputs=["url"]).run(), "'url'", "is missing", "pass inputs={'url'"
    ),
    "a_misspelt_run_input": Wrong(
        lambda: pipeline(fetch).run({"url": "", "ulr": ""}),
        "'ulr'",
        "no step takes the run input",
        "did you mean 'url'?",
    ),
    "a_run_input_that_nobody_takes": Wrong(
        lambda: pipeline(load).run({"weights": 1}),
        "'weights'",
        "no step takes the run input",
        "leave it out, or add a parameter of that name",
    ),
    "a_run_input_that_is_not_declared": Wrong(
        lambda: pipeline(fetch, inputs=["url"]).run({"url": "", "depth": 1}),
        "'depth'",
        "is not declared",
        "add it to the pipeline's inputs=, or leave it out",
    ),
    "a_run_input_of_another_type": Wrong(
        lambda: pipeline(fetch, inputs={"url": str}).run({"url": 1}),
        "'url'",
        "is of type int, declared as str",
        "pass one of that type",
    ),
    "a_run_input_named_as_an_asset": Wrong(
        lambda: pipeline(load, train).run({"load": 1}),
        "'load'",
        "has the name of an asset",
        "rename one",
    ),
    "run_inputs_as_a_list": Wrong(
        lambda: pipeline(fetch).run(["url"]),  # type: ignore[arg-type]
        "run(inputs=…)",
        "takes a mapping, got ['url']",
        "write {'name': value}",
    ),
    "a_timeout_of_no_time": Wrong(
        lambda: pipeline(load).run(timeout=0), "run(timeout=…)", "got 0", "leave it out for none"
    ),
    "an_executor_that_is_a_number": Wrong(
        lambda: pipeline(load).run(executor=4),  # type: ignore[arg-type]
        "run(executor=…)",
        "got 4",
        "write ParallelExecutor(max_workers=4)",
    ),
    "a_runtime_that_is_a_number": Wrong(
        lambda: pipeline(load).run(runtime=4),  # type: ignore[arg-type]
        "run(runtime=…)",
        "got 4",
        "enter one with 'async with Runtime() as runtime'",
    ),
    "a_backend_that_is_none": Wrong(
        lambda: ParallelExecutor(backend="fibre"),  # type: ignore[arg-type]
        "ParallelExecutor",
        "no backend 'fibre'",
        "use 'process' or 'thread'",
    ),
    "a_policy_that_is_none": Wrong(
        lambda: pipeline(load).run(failure_policy="stop"),  # type: ignore[arg-type]
        "failure_policy",
        "not 'stop'",
        "is 'fail_fast' or 'collect_all'",
    ),
    "more_gpus_than_there_are": Wrong(
        lambda: run_on(asking(resources={"gpu": 2}), max_gpus=1),
        "'hungry'",
        "2 GPUs asked for, but of 1 only 1 will do",
        "ask for less, or declare devices with Runtime(max_gpus=…)",
        CapacityError,
    ),
    "a_gpu_of_another_type": Wrong(
        lambda: run_on(asking(resources={"gpu": "nvidia-a100"}), max_gpus=["nvidia-t4"]),
        "'hungry'",
        "type 'nvidia-a100' asked for, but of 1 only 0 will do (0: nvidia-t4)",
        "declare devices with Runtime(max_gpus=…)",
        CapacityError,
    ),
    "more_cpus_than_a_strict_runtime_has": Wrong(
        lambda: run_on(asking(resources={"cpu": 8}), max_cpus=2, oversized="error"),
        "'hungry'",
        "8 CPUs asked for, but there are 2 CPUs",
        "ask for less, or let oversized='clamp' give it all",
        CapacityError,
    ),
    "a_label_that_the_runtime_lacks": Wrong(
        lambda: run_on(asking(resources={"node_affinity": {"required": {"zone": "north"}}})),
        "'hungry'",
        "requires the label zone=north, and this runtime does not have that label",
        "set Runtime(labels=…)",
        CapacityError,
    ),
    "a_taint_that_nobody_tolerates": Wrong(
        lambda: run_on(asking(), taints=["spot"]),
        "'hungry'",
        "does not tolerate the taint 'spot'",
        "add a toleration",
        CapacityError,
    ),
    "more_storage_than_is_free": Wrong(
        lambda: run_on(asking(resources={"storage": "1Ei"})),
        "'hungry'",
        "asks for 1 EiB of storage",
        "ask for less, or make room",
        CapacityError,
    ),
}

TABLE = DEFINITIONS | PLACEMENTS | BUILDS | RUNS


async def write(wrong: Wrong) -> None:
    written = wrong.write()
    if inspect.isawaitable(written):
        await written


@pytest.mark.parametrize("wrong", TABLE.values(), ids=TABLE.keys())
async def test_a_wrong_pipeline_is_refused_with_who_what_and_what_to_do(wrong: Wrong) -> None:
    with pytest.raises(wrong.error) as caught:
        await write(wrong)
    sentence = str(caught.value)
    assert wrong.who in sentence
    assert wrong.fault in sentence
    assert wrong.remedy.lower() in sentence.lower()
    assert "\n" not in sentence


def test_the_table_is_long_enough_to_mean_something() -> None:
    assert len(TABLE) == sum(map(len, (DEFINITIONS, PLACEMENTS, BUILDS, RUNS))) >= 25


# -- several faults at once --------------------------------------------------------------


def test_faults_of_the_graph_are_reported_together() -> None:
    wrong = Pipeline("p", steps=[load, load, rows], outputs=["nothing_like_it"])
    wrong.add_step(train, name="first", inputs=["second"])
    wrong.add_step(train, name="second", inputs=["first"])
    wrong.add_step(train, name="third", inputs=["laod"])
    wrong.add_step(train, name="fourth", params={"rat": 1})
    with pytest.raises(GraphError) as caught:
        wrong.build()
    problems = caught.value.problems
    faults = [
        "two nodes are called 'load'",
        "'rows' is a generator",
        "outputs= names 'nothing_like_it'",
        "these steps wait for each other",
        "'third' needs the asset 'laod'",
        "'fourth': it has no parameter 'rat'",
    ]
    assert len(problems) == len(faults)
    for fault in faults:
        assert sum(fault in problem for problem in problems) == 1
    assert all(problem.startswith("pipeline 'p': ") for problem in problems)
    assert str(caught.value).splitlines() == list(problems)


async def test_faults_of_the_run_inputs_are_reported_together() -> None:
    wrong = Pipeline("p", steps=[fetch], inputs={"url": str, "depth": int})
    with pytest.raises(GraphError) as caught:
        await wrong.run({"url": 3, "ulr": ""})
    assert len(caught.value.problems) == 3
    text = str(caught.value)
    assert "'depth' is missing" in text
    assert "'ulr' is not declared; did you mean 'url'?" in text
    assert "'url' is of type int, declared as str" in text


async def test_faults_of_capacity_are_reported_together() -> None:
    machine = pipeline(
        asking("labelled", resources={"node_affinity": {"required": {"zone": "north"}}}),
        asking("accelerated", resources={"gpu": 1}),
    )
    async with Runtime() as runtime:
        with pytest.raises(CapacityError) as caught:
            await machine.run(runtime=runtime)
    text = str(caught.value)
    assert "step 'labelled': it requires the label zone=north" in text
    assert "step 'accelerated': 1 GPU asked for, but there are no GPUs" in text


async def test_a_wrong_pipeline_starts_nothing() -> None:
    started: list[str] = []

    @step
    async def first() -> int:
        started.append("first")
        return 1

    wrong = pipeline(first).add_step(train, inputs=["laod"])
    with pytest.raises(GraphError):
        await wrong.run()
    async with Runtime() as runtime:
        with pytest.raises(CapacityError):
            await pipeline(first, asking(resources={"gpu": 1})).run(runtime=runtime)
    assert not started


async def test_a_pipeline_that_was_wrong_runs_once_it_is_mended() -> None:
    mended = pipeline(train)
    with pytest.raises(GraphError):
        await mended.run()
    result = await mended.add_step(load).run()
    assert result["train"] == 1
