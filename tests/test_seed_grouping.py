"""The step-grouping guide of flowyml, block by block, with the results that its text states.

Only what the blocks leave to the reader is filled in, and ``run()`` is awaited.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable
from typing import Any

import pytest

from asyncflow import (
    CapacityError,
    GPUConfig,
    Group,
    NodeAffinity,
    NodeState,
    Pipeline,
    PipelineResult,
    ResourceRequirements,
    Runtime,
    Step,
    StepContext,
    step,
)

LOGGER = "asyncflow"
LARGE_MACHINE: dict[str, Any] = {"max_cpus": 16, "max_memory": "64Gi"}


def pipeline_of(*steps: Step[..., Any]) -> Pipeline:
    """The steps in the order in which a guide defines them."""
    pipeline = Pipeline("data_pipeline")
    for used in steps:
        pipeline.add_step(used)
    return pipeline


def orders(pipeline: Pipeline) -> dict[str, list[str]]:
    return {group.group_name: group.execution_order for group in pipeline.step_groups}


def workers(result: PipelineResult, names: Iterable[str]) -> set[str]:
    return {result.step_results[name].worker for name in names}


# -- Quick Start -------------------------------------------------------------------------


@step(outputs=["raw_data"], execution_group="preprocessing")
def load_data() -> dict[str, Any]:
    return {"records": 1000}


@step(inputs=["raw_data"], outputs=["clean_data"], execution_group="preprocessing")
def clean_data(raw_data: dict[str, Any]) -> dict[str, Any]:
    return {**raw_data, "status": "cleaned"}


@step(inputs=["clean_data"], outputs=["features"], execution_group="preprocessing")
def extract_features(clean_data: dict[str, Any]) -> dict[str, Any]:
    return {**clean_data, "features": ["f1", "f2", "f3"]}


async def test_the_quick_start_runs_three_steps_in_one_worker() -> None:
    pipeline = Pipeline("data_pipeline")
    pipeline.add_step(load_data)
    pipeline.add_step(clean_data)
    pipeline.add_step(extract_features)
    result = await pipeline.run()
    assert result.success
    assert result["features"] == {
        "records": 1000,
        "status": "cleaned",
        "features": ["f1", "f2", "f3"],
    }
    assert orders(pipeline) == {"preprocessing": ["load_data", "clean_data", "extract_features"]}
    (worker,) = workers(result, ["load_data", "clean_data", "extract_features"])
    assert worker


# -- How It Works ------------------------------------------------------------------------


async def test_two_steps_with_one_label_make_one_group() -> None:
    @step(outputs=["data"], execution_group="my_group")
    def step_1() -> str:
        return "data"

    @step(inputs=["data"], outputs=["result"], execution_group="my_group")
    def step_2(data: str) -> str:
        return f"{data}_processed"

    pipeline = pipeline_of(step_1, step_2)
    assert orders(pipeline) == {"my_group": ["step_1", "step_2"]}
    assert (await pipeline.run())["result"] == "data_processed"


async def test_grouped_steps_run_in_order_in_one_thread_and_pass_the_object_itself() -> None:
    seen: list[tuple[str, int]] = []

    @step(outputs=["data"], execution_group="g")
    def make() -> list[int]:
        seen.append(("make", threading.get_ident()))
        return [1, 2, 3]

    @step(inputs=["data"], outputs=["same"], execution_group="g")
    def take(data: list[int]) -> list[int]:
        seen.append(("take", threading.get_ident()))
        return data

    result = await pipeline_of(make, take).run()
    assert result["same"] is result["data"]
    assert [name for name, _ in seen] == ["make", "take"]
    assert len({thread for _, thread in seen}) == 1


# -- Resource Aggregation ----------------------------------------------------------------


@step(
    outputs=["data"],
    execution_group="training",
    resources=ResourceRequirements(cpu="2", memory="4Gi"),
)
def prepare_data() -> str:
    return "data"


@step(
    inputs=["data"],
    outputs=["model"],
    execution_group="training",
    resources=ResourceRequirements(
        cpu="8", memory="16Gi", gpu=GPUConfig(gpu_type="nvidia-v100", count=2)
    ),
)
def train_on_v100(data: str) -> str:
    return "model"


def test_a_group_holds_the_largest_request_of_each_kind() -> None:
    (group,) = pipeline_of(prepare_data, train_on_v100).step_groups
    resources = group.aggregated_resources
    assert resources is not None
    assert (resources.cpu, resources.memory) == ("8", "16Gi")
    assert resources.gpu == GPUConfig("nvidia-v100", count=2)


async def test_two_declared_devices_are_enough_for_v100_x2_on_a_machine_without_gpus() -> None:
    async with Runtime(**LARGE_MACHINE, max_gpus=2) as runtime:
        result = await pipeline_of(prepare_data, train_on_v100).run(runtime=runtime)
    result.raise_for_failure()
    assert result["model"] == "model"


async def test_v100_x2_is_refused_before_the_first_step_where_there_is_no_gpu() -> None:
    started: list[str] = []

    @step(outputs=["data"], execution_group="training")
    def note_the_start() -> str:
        started.append("note_the_start")
        return "data"

    pipeline = pipeline_of(note_the_start, train_on_v100)
    async with Runtime(**LARGE_MACHINE) as runtime:
        with pytest.raises(CapacityError) as caught:
            await pipeline.run(runtime=runtime)
    assert "'training'" in str(caught.value)
    assert "2 GPUs of type 'nvidia-v100' asked for, but there are no GPUs" in str(caught.value)
    assert not started


@pytest.mark.parametrize(
    "types, best",
    [
        (["nvidia-t4", "nvidia-a100", "nvidia-v100"], "nvidia-a100"),
        (["nvidia-t4", "nvidia-v100"], "nvidia-v100"),
        (["nvidia-v100", "a-card-nobody-knows"], "nvidia-v100"),
    ],
)
def test_the_best_gpu_type_of_a_group_wins(types: list[str], best: str) -> None:
    pipeline = Pipeline("p")
    for gpu_type in types:

        @step(execution_group="g", resources=ResourceRequirements(gpu=GPUConfig(gpu_type)))
        def use_gpu(context: StepContext) -> None: ...

        pipeline.add_step(use_gpu, name=f"on_{gpu_type}")
    (group,) = pipeline.step_groups
    assert group.aggregated_resources is not None
    assert group.aggregated_resources.gpu is not None
    assert group.aggregated_resources.gpu.gpu_type == best


def test_gpu_count_and_memory_are_maxima_taken_apart() -> None:
    @step(outputs=["a"], execution_group="g", resources={"gpu": {"count": 4, "memory": "16Gi"}})
    def many(context: StepContext) -> None: ...

    @step(outputs=["b"], execution_group="g", resources={"gpu": {"count": 1, "memory": "80Gi"}})
    def large(a: None, context: StepContext) -> None: ...

    (group,) = pipeline_of(many, large).step_groups
    assert group.aggregated_resources is not None
    assert group.aggregated_resources.gpu == GPUConfig(count=4, memory="80Gi")


def test_storage_is_a_maximum_and_affinity_a_union() -> None:
    @step(
        outputs=["a"],
        execution_group="g",
        resources={"storage": "10Gi", "node_affinity": {"required": {"zone": "north"}}},
    )
    def first() -> None: ...

    @step(
        execution_group="g",
        resources={
            "storage": "200Mi",
            "node_affinity": {"required": {"disk": "ssd"}, "tolerations": ["spot"]},
        },
    )
    def second(a: None) -> None: ...

    (group,) = pipeline_of(first, second).step_groups
    assert group.aggregated_resources is not None
    assert group.aggregated_resources.storage == "10Gi"
    assert group.aggregated_resources.node_affinity == NodeAffinity(
        required={"zone": "north", "disk": "ssd"}, tolerations=["spot"]
    )


# -- Sequential Analysis -----------------------------------------------------------------


@step(outputs=["a"], execution_group="proc")
def step_a() -> int:
    return 1


@step(inputs=["a"], outputs=["b"], execution_group="proc")
def step_b(a: int) -> int:
    return a + 1


@step(inputs=["b"], outputs=["c"], execution_group="proc")
def step_c(b: int) -> int:
    return b + 1


async def test_consecutive_steps_are_grouped() -> None:
    pipeline = pipeline_of(step_a, step_b, step_c)
    assert orders(pipeline) == {"proc": ["step_a", "step_b", "step_c"]}
    assert (await pipeline.run())["c"] == 3


async def test_a_step_of_no_group_in_between_splits_the_group_in_two() -> None:
    @step(outputs=["a"], execution_group="group1")
    def step_a() -> int:
        return 1

    @step(outputs=["x"])
    def step_x() -> int:
        return 100

    @step(inputs=["x"], outputs=["b"], execution_group="group1")
    def step_b(x: int) -> int:
        return x + 1

    pipeline = pipeline_of(step_a, step_x, step_b)
    assert orders(pipeline) == {"group1_0": ["step_a"], "group1_1": ["step_b"]}
    result = await pipeline.run()
    assert (result["a"], result["b"]) == (1, 101)


# -- Advanced Features -------------------------------------------------------------------


async def test_grouped_steps_stand_between_steps_of_no_group() -> None:
    @step(outputs=["config"])
    def load_config() -> dict[str, int]:
        return {"batch_size": 32}

    @step(inputs=["config"], outputs=["data"], execution_group="prep")
    def fetch_data(config: dict[str, int]) -> str:
        return "data"

    @step(inputs=["data"], outputs=["processed"], execution_group="prep")
    def process_data(data: str) -> str:
        return "processed"

    @step(inputs=["processed"], outputs=["deployed"])
    def deploy(processed: str) -> str:
        return "deployed"

    pipeline = pipeline_of(load_config, fetch_data, process_data, deploy)
    assert orders(pipeline) == {"prep": ["fetch_data", "process_data"]}
    result = await pipeline.run()
    assert result.outputs.items() >= {"processed": "processed", "deployed": "deployed"}.items()
    assert len(workers(result, ["fetch_data", "process_data"])) == 1


async def test_a_member_of_a_group_is_retried_by_itself() -> None:
    calls: list[str] = []

    @step(outputs=["a"], execution_group="g")
    def once() -> int:
        calls.append("once")
        return 1

    @step(inputs=["a"], outputs=["b"], execution_group="g", retry=1)
    def twice(a: int) -> int:
        calls.append("twice")
        if calls.count("twice") == 1:
            raise OSError("not yet")
        return a + 1

    @step(inputs=["b"], outputs=["c"], execution_group="g")
    def after(b: int) -> int:
        calls.append("after")
        return b + 1

    result = await pipeline_of(once, twice, after).run()
    assert result["c"] == 3
    assert calls == ["once", "twice", "twice", "after"]
    assert result.step_results["twice"].attempts == 2
    assert len(workers(result, ["once", "twice", "after"])) == 1


async def test_a_member_of_a_group_may_have_a_condition() -> None:
    @step(outputs=["a"], execution_group="g")
    def number() -> int:
        return 3

    @step(inputs=["a"], execution_group="g", condition=lambda a: a > 10)
    def large_only(a: int) -> int:
        return a

    @step(inputs=["a"], execution_group="g", condition=lambda a: a < 10)
    def small_only(a: int) -> int:
        return -a

    result = await pipeline_of(number, large_only, small_only).run()
    assert result.success
    assert result.step_results["large_only"].status is NodeState.SKIPPED
    assert result["small_only"] == -3


async def test_resources_may_be_a_mapping_and_affinity_must_match_the_runtime() -> None:
    @step(
        execution_group="g",
        resources={
            "cpu": 1,
            "node_affinity": {"required": {"zone": "north"}, "tolerations": ["spot"]},
        },
    )
    def here() -> str:
        return "here"

    pipeline = pipeline_of(here)
    async with Runtime(**LARGE_MACHINE, labels={"zone": "north"}, taints=["spot"]) as north:
        assert (await pipeline.run(runtime=north))["here"] == "here"
    async with Runtime(**LARGE_MACHINE, labels={"zone": "south"}) as south:
        with pytest.raises(CapacityError, match="requires the label zone=north"):
            await pipeline.run(runtime=south)


# -- Best Practices ----------------------------------------------------------------------


def test_related_steps_make_one_group_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    @step(outputs=["raw"], execution_group="preprocessing")
    def load() -> None: ...

    @step(inputs=["raw"], outputs=["clean"], execution_group="preprocessing")
    def clean(raw: None) -> None: ...

    @step(inputs=["clean"], outputs=["features"], execution_group="preprocessing")
    def extract(clean: None) -> None: ...

    with caplog.at_level(logging.WARNING, LOGGER):
        pipeline = pipeline_of(load, clean, extract)
        assert orders(pipeline) == {"preprocessing": ["load", "clean", "extract"]}
    assert not caplog.records


def test_unrelated_steps_in_one_group_are_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    @step(outputs=["data1"], execution_group="bad_group")
    def load_dataset_a() -> None: ...

    @step(outputs=["data2"], execution_group="bad_group")
    def load_dataset_b() -> None: ...

    with caplog.at_level(logging.WARNING, LOGGER):
        pipeline = pipeline_of(load_dataset_a, load_dataset_b)
        assert orders(pipeline) == {"bad_group": ["load_dataset_a", "load_dataset_b"]}
    (record,) = caplog.records
    assert (record.name, record.levelno) == (LOGGER, logging.WARNING)
    assert record.getMessage() == (
        "pipeline 'data_pipeline': group 'bad_group' runs 'load_dataset_a' and 'load_dataset_b' "
        "one after the other although they could run at the same time; take one out of the group "
        "if that costs time"
    )


async def test_light_steps_share_one_expensive_device() -> None:
    @step(
        outputs=["data"],
        execution_group="gpu_tasks",
        resources=ResourceRequirements(gpu=GPUConfig("nvidia-a100", count=1)),
    )
    def prepare_on_gpu(context: StepContext) -> list[object]:
        return [os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"], context.lease.gpu_ids]

    @step(inputs=["data"], outputs=["result"], execution_group="gpu_tasks")
    def inference_on_gpu(data: list[object], context: StepContext) -> list[list[object]]:
        own: list[object] = [os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]]
        return [data, [*own, context.lease.gpu_ids]]

    pipeline = pipeline_of(prepare_on_gpu, inference_on_gpu)
    async with Runtime(max_gpus=["nvidia-t4", "nvidia-a100"]) as runtime:
        result = await pipeline.run(runtime=runtime)
    prepared, inferred = result["result"]
    assert prepared == inferred
    assert prepared[1:] == ["1", ("1",)]


# -- Inspecting Groups -------------------------------------------------------------------


def print_groups(pipeline: Pipeline) -> None:
    """The guide's own lines."""
    print(f"Number of groups: {len(pipeline.step_groups)}")

    for group in pipeline.step_groups:
        print(f"\nGroup: {group.group_name}")
        print(f"  Steps: {[s.name for s in group.steps]}")
        print(f"  Execution order: {group.execution_order}")
        if group.aggregated_resources:
            print(f"  CPU: {group.aggregated_resources.cpu}")
            print(f"  Memory: {group.aggregated_resources.memory}")
            if group.aggregated_resources.gpu:
                print(
                    f"  GPU: {group.aggregated_resources.gpu.count}x "
                    f"{group.aggregated_resources.gpu.gpu_type}"
                )


def test_a_group_without_requests_prints_its_steps(capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = Pipeline("my_pipeline")
    pipeline.add_step(step_a)
    pipeline.add_step(step_b)
    pipeline.add_step(step_c)
    pipeline.build()
    print_groups(pipeline)
    assert capsys.readouterr().out == (
        "Number of groups: 1\n"
        "\n"
        "Group: proc\n"
        "  Steps: ['step_a', 'step_b', 'step_c']\n"
        "  Execution order: ['step_a', 'step_b', 'step_c']\n"
    )


def test_a_group_with_requests_prints_what_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = pipeline_of(prepare_data, train_on_v100)
    pipeline.build()
    print_groups(pipeline)
    assert capsys.readouterr().out == (
        "Number of groups: 1\n"
        "\n"
        "Group: training\n"
        "  Steps: ['prepare_data', 'train_on_v100']\n"
        "  Execution order: ['prepare_data', 'train_on_v100']\n"
        "  CPU: 8\n"
        "  Memory: 16Gi\n"
        "  GPU: 2x nvidia-v100\n"
    )


# -- Examples ----------------------------------------------------------------------------


async def test_the_data_pipeline_runs() -> None:
    warehouse: list[list[str]] = []

    @step(outputs=["raw"], execution_group="etl")
    def extract() -> list[str]:
        return ["a", "b"]

    @step(inputs=["raw"], outputs=["transformed"], execution_group="etl")
    def transform(raw: list[str]) -> list[str]:
        return [text.upper() for text in raw]

    @step(inputs=["transformed"], outputs=["loaded"], execution_group="etl")
    def load(transformed: list[str]) -> str:
        warehouse.append(transformed)
        return "success"

    result = await pipeline_of(extract, transform, load).run()
    assert result["loaded"] == "success"
    assert warehouse == [["A", "B"]]


@step(
    outputs=["dataset"],
    execution_group="training",
    resources=ResourceRequirements(cpu="4", memory="8Gi"),
)
def prepare_dataset() -> list[int]:
    return [1, 2, 3]


@step(
    inputs=["dataset"],
    outputs=["model"],
    execution_group="training",
    resources=ResourceRequirements(cpu="8", memory="32Gi", gpu=GPUConfig("nvidia-a100", count=2)),
)
def train_model(dataset: list[int]) -> int:
    return sum(dataset)


@step(
    inputs=["model"],
    outputs=["metrics"],
    execution_group="training",
    resources=ResourceRequirements(cpu="2", memory="4Gi"),
)
def evaluate_model(model: int) -> dict[str, int]:
    return {"accuracy": model}


async def test_the_training_pipeline_runs_on_one_instance_with_two_a100() -> None:
    pipeline = pipeline_of(prepare_dataset, train_model, evaluate_model)
    (group,) = pipeline.step_groups
    assert group.aggregated_resources == ResourceRequirements(
        cpu="8", memory="32Gi", gpu=GPUConfig("nvidia-a100", count=2)
    )
    async with Runtime(**LARGE_MACHINE, max_gpus=["nvidia-a100"] * 2) as runtime:
        result = await pipeline.run(runtime=runtime)
    assert result["metrics"] == {"accuracy": 6}
    assert len(workers(result, group.execution_order)) == 1


async def test_one_a100_is_too_few_for_the_training_pipeline() -> None:
    pipeline = pipeline_of(prepare_dataset, train_model, evaluate_model)
    async with Runtime(**LARGE_MACHINE, max_gpus=["nvidia-a100", "nvidia-t4"]) as runtime:
        with pytest.raises(CapacityError, match="of 2 only 1 will do"):
            await pipeline.run(runtime=runtime)


async def test_a_group_as_a_whole_may_be_given_other_resources() -> None:
    pipeline = Pipeline(
        "smaller",
        steps=[prepare_dataset, train_model, evaluate_model],
        groups={"training": Group(resources=ResourceRequirements(cpu=1))},
    )
    (group,) = pipeline.step_groups
    assert group.aggregated_resources == ResourceRequirements(cpu=1)
    async with Runtime(max_cpus=1, max_memory="1Gi", oversized="error") as runtime:
        assert (await pipeline.run(runtime=runtime))["metrics"] == {"accuracy": 6}
