"""Versions of a pipeline: saved as readable files, compared exactly."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncflow import (
    GPUConfig,
    GraphError,
    NotReadable,
    Pipeline,
    ResourceRequirements,
    Retry,
    Secret,
    VersionedPipeline,
    step,
)


@step(outputs=["raw"], execution_group="prep", resources={"cpu": "500m", "memory": "1Gi"})
def load(url: str) -> str:
    return url


@step(outputs=["clean"], execution_group="prep", retry=2)
async def clean(raw: str) -> str:
    return raw


@step
def train(clean: str, rate: float = 0.1) -> float:
    return rate


@step
def report(train: float) -> str:
    return str(train)


Make = Callable[..., VersionedPipeline]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def versioned(*steps: Any, version: str = "v1.0.0", **options: Any) -> VersionedPipeline:
        return VersionedPipeline(
            "training",
            version,
            tmp_path / "versions",
            steps=steps or (load, clean, train),
            **options,
        )

    return versioned


def test_a_versioned_pipeline_is_a_pipeline(make: Make) -> None:
    result = make().run_sync({"url": "x"})
    assert result["train"] == 0.1
    assert isinstance(make(), Pipeline)
    assert VersionedPipeline("p").version == "v0.1.0"
    assert make().with_steps({"train": lambda clean: 7.0}).run_sync({"url": "x"})["train"] == 7.0


def test_nothing_is_written_until_a_version_is_saved(make: Make, tmp_path: Path) -> None:
    pipeline = make()
    assert pipeline.list_versions() == []
    assert not (tmp_path / "versions").exists()


def test_an_unchanged_pipeline_has_no_differences(make: Make) -> None:
    make().save_version()
    difference = make(version="v2").compare_with("v1.0.0")
    assert not difference.has_changes
    assert difference.step_order_changed is False
    assert "no differences" in str(difference)


def test_added_and_removed_steps_are_named_and_the_order_is_as_it_was(make: Make) -> None:
    make().save_version()
    difference = make(load, clean, train, report, version="v1.1.0").compare_with("v1.0.0")
    assert difference["added_steps"] == ["report"]
    assert difference["removed_steps"] == []
    assert difference["modified_steps"] == []
    assert difference["step_order_changed"] is False
    assert (difference.current_version, difference.compared_to) == ("v1.1.0", "v1.0.0")
    assert dict(difference) == difference.to_dict()
    assert "removed_steps" in difference
    with pytest.raises(KeyError):
        difference["nonsense"]
    fewer = make(load, clean).compare_with("v1.0.0")
    assert (fewer.added_steps, fewer.removed_steps) == ([], ["train"])
    assert not fewer.step_order_changed


def test_an_added_step_in_the_middle_changes_no_order(make: Make) -> None:
    @step
    def look(raw: str) -> None: ...

    make(load, clean).save_version()
    assert not make(load, look, clean).compare_with("v1.0.0").step_order_changed


def test_a_changed_order_is_told(make: Make) -> None:
    @step
    def left() -> None: ...

    @step
    def right() -> None: ...

    make(left, right).save_version()
    difference = make(right, left).compare_with("v1.0.0")
    assert difference.step_order_changed
    assert difference.modified_steps == []


def _other_train(clean: str, rate: float = 0.1) -> float:
    return rate * 2


@pytest.mark.parametrize(
    "changed, parts",
    [
        (train.with_options(retry=3), ["options"]),
        (train.with_options(retry=Retry(3, on=lambda error: True)), ["options"]),
        (train.with_options(condition=lambda clean: True), ["options"]),
        (train.with_options(cache="code_hash"), ["options"]),
        (step(_other_train, name="train"), ["code"]),
        (train.with_options(outputs=["model"]), ["wiring"]),
        (train.with_options(inputs={"clean": "raw"}), ["wiring"]),
    ],
    ids=["retry", "predicate", "condition", "cache", "code", "outputs", "inputs"],
)
def test_a_modified_step_is_told_with_what_differs(
    make: Make, changed: Any, parts: list[str]
) -> None:
    make().save_version()
    difference = make(load, clean, changed).compare_with("v1.0.0")
    assert difference.modified_steps == ["train"]
    assert difference.modifications == {"train": parts}
    assert difference.changed_resources == {}


def test_params_after_and_context_count(make: Make) -> None:
    make(load, clean, context={"gone": 1, "rate": 0.1}).add_step(train).save_version()
    changed = make(load, clean, context={"rate": 0.2, "come": 2})
    changed.add_step(train, params={"rate": 0.5}, after=["load"])
    difference = changed.compare_with("v1.0.0")
    assert difference.modifications == {"train": ["wiring", "params"]}
    assert difference.context_changes == {
        "added": ["come"],
        "removed": ["gone"],
        "modified": ["rate"],
    }


def test_changed_resources_are_told_with_both_sides(make: Make) -> None:
    make().save_version()
    more = load.with_options(
        resources=ResourceRequirements(cpu=2, memory="1Gi", gpu=GPUConfig("nvidia-a100", 2))
    )
    difference = make(more, clean, train).compare_with("v1.0.0")
    assert difference.modified_steps == []
    assert difference.changed_resources == {
        "load": (
            {"cpu": "500m", "memory": "1Gi"},
            {"cpu": 2, "memory": "1Gi", "gpu": {"gpu_type": "nvidia-a100", "count": 2}},
        )
    }
    assert "resources of load" in str(difference)


def test_another_spelling_of_an_amount_is_no_change(make: Make) -> None:
    make().save_version()
    same = load.with_options(resources={"cpu": 0.5, "memory": 2**30})
    assert not make(same, clean, train).compare_with("v1.0.0").has_changes


def test_changed_groups_are_told(make: Make) -> None:
    make().save_version()
    alone = clean.with_options(execution_group=None)
    difference = make(load, alone, train).compare_with("v1.0.0")
    assert difference.changed_groups == {"clean": ("prep", None)}
    assert difference.modified_steps == []


# -- files -----------------------------------------------------------------------------


def test_the_file_is_readable_and_holds_what_a_version_is(make: Make, tmp_path: Path) -> None:
    make(context={"token": Secret("hunter2"), "rate": "visible"}).save_version({"by": "me"})
    path = tmp_path / "versions" / "training" / "v1.0.0.json"
    text = path.read_text()
    held = json.loads(text)
    assert text.count("\n") > 40
    assert [node["name"] for node in held["steps"]] == held["order"] == ["load", "clean", "train"]
    assert held["steps"][1]["takes"] == {"raw": "asset raw"}
    assert held["steps"][0]["takes"] == {"url": "input url"}
    assert held["steps"][1]["options"]["retry"]["retries"] == 2
    assert held["steps"][0]["resources"] == {"cpu": "500m", "memory": "1Gi"}
    assert held["groups"][0]["steps"] == ["load", "clean"]
    assert held["metadata"] == {"by": "me"}
    assert "hunter2" not in text
    assert "visible" not in text
    assert os.listdir(path.parent) == ["v1.0.0.json"]


def test_versions_are_listed_in_their_natural_order(make: Make, tmp_path: Path) -> None:
    pipeline = make()
    for version in ("v0.10.0", "v0.9.0", "v1.0.0", "v0.9.0-rc1"):
        pipeline.version = version
        pipeline.save_version()
    (tmp_path / "versions" / "training" / "notes.txt").write_text("not a version")
    (tmp_path / "versions" / "training" / ".v3.json-abc").write_text("left by a crash")
    assert pipeline.list_versions() == ["v0.9.0", "v0.9.0-rc1", "v0.10.0", "v1.0.0"]


def test_saving_the_same_again_changes_nothing(make: Make, tmp_path: Path) -> None:
    first = make().save_version()
    path = tmp_path / "versions" / "training" / "v1.0.0.json"
    before = path.read_bytes()
    assert make().save_version({"other": "metadata"}) == first
    assert path.read_bytes() == before


def test_saving_something_else_under_a_version_is_an_error_that_says_what_to_do(
    make: Make, tmp_path: Path
) -> None:
    make().save_version()
    with pytest.raises(GraphError) as refused:
        make(load, clean, train, report).save_version()
    said = str(refused.value)
    assert "added: report" in said
    assert "Set pipeline.version" in said
    assert str(tmp_path / "versions" / "training" / "v1.0.0.json") in said
    assert len(make().get_version("v1.0.0").steps) == 3


def test_a_version_that_is_not_there_is_an_error_with_the_nearest_one(make: Make) -> None:
    make().save_version()
    with pytest.raises(GraphError, match=r"no version 'v1.0.1'; did you mean 'v1.0.0'\?"):
        make().compare_with("v1.0.1")


@pytest.mark.parametrize(
    "version", ["", "../v1", "a/b", "v1\n", ".hidden", "-rf", "x" * 101, "v1\x00", "%2e%2e", None]
)
def test_what_cannot_be_the_name_of_a_file_is_no_version(make: Make, version: Any) -> None:
    for attempt in (
        lambda: make(version=version),
        lambda: setattr(make(), "version", version),
        lambda: make().compare_with(version),
    ):
        with pytest.raises(GraphError, match="a version is a short text"):
            attempt()


def test_a_pipeline_of_any_name_stays_in_its_folder(tmp_path: Path) -> None:
    VersionedPipeline("..", versions_dir=tmp_path / "versions", steps=[load]).save_version()
    assert [path.name for path in tmp_path.iterdir()] == ["versions"]


@pytest.mark.parametrize(
    "text, why",
    [
        ("", "no version"),
        ("[" * 100_000, "no version"),
        ("{}", "no version"),
        ('{"format": 2}', "format 2"),
        ('{"format": 1, "pipeline": 3}', "no version"),
    ],
)
def test_a_damaged_file_is_refused(make: Make, tmp_path: Path, text: str, why: str) -> None:
    make().save_version()
    (tmp_path / "versions" / "training" / "v1.0.0.json").write_text(text)
    with pytest.raises(NotReadable, match=why):
        make().compare_with("v1.0.0")


def test_a_file_under_another_name_is_refused(make: Make, tmp_path: Path) -> None:
    make().save_version()
    folder = tmp_path / "versions" / "training"
    (folder / "v1.0.0.json").rename(folder / "v9.json")
    with pytest.raises(NotReadable, match=r"holds version 'v1\.0\.0'"):
        make().compare_with("v9")


def test_metadata_that_is_not_json_leaves_nothing_behind(make: Make, tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        make().save_version({"what": object()})
    assert not list(tmp_path.rglob("*.json*"))


def test_of_many_that_save_one_version_at_once_one_wins(make: Make) -> None:
    outcomes: list[str] = []

    def save(pipeline: VersionedPipeline) -> None:
        try:
            pipeline.save_version()
            outcomes.append("saved")
        except GraphError:
            outcomes.append("refused")

    pipelines = [make(load, clean.with_options(retry=number)) for number in range(8)]
    threads = [threading.Thread(target=save, args=[pipeline]) for pipeline in pipelines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 7 + ["saved"]
    assert make().list_versions() == ["v1.0.0"]


def test_inlined_pipelines_and_maps_are_described_too(tmp_path: Path) -> None:
    @step
    def double(item: int) -> int:
        return 2 * item

    @step(outputs=["items"])
    def numbers() -> list[int]:
        return [1, 2]

    def made(changed: bool) -> VersionedPipeline:
        inner = Pipeline("inner", steps=[load, clean.with_options(retry=9) if changed else clean])
        pipeline = VersionedPipeline("outer", versions_dir=tmp_path, steps=[numbers])
        pipeline.add_step(double, inputs={"item": "items"}, map="items")
        return pipeline.add_pipeline(inner, "in")

    record = made(False).save_version()
    described = {node.name: node for node in record.steps}
    assert described["in/clean"].takes == {"raw": "asset in/raw"}
    assert described["in/clean"].group == "in/prep"
    assert described["double"].map == "items"
    assert not made(False).compare_with("v0.1.0").has_changes
    assert made(True).compare_with("v0.1.0").modifications == {"in/clean": ["options"]}
