"""Copies of a pipeline with other functions, for tests and notebooks."""

from __future__ import annotations

from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from asyncflow import GraphError, Pipeline, step
from tests.virtual_time import virtual_time


@step(outputs=["body"], retry=2, timeout=5, tags=["network"])
async def fetch(url: str) -> str:
    raise AssertionError("no network in tests")


@step
def parse(body: str) -> list[str]:
    return body.split()


WHOLE = Pipeline("crawl", [fetch, parse], outputs=["parse"])


@virtual_time
async def test_a_function_takes_over_the_options_of_the_step_it_replaces() -> None:
    tried: list[str] = []

    async def fake(url: str) -> str:
        tried.append(url)
        if len(tried) < 3:
            raise ConnectionError("busy")
        return "a b"

    changed = WHOLE.with_steps({"fetch": fake})
    result = await changed.run({"url": "u"})
    assert result["parse"] == ["a", "b"]
    assert len(tried) == 3
    placed = changed.steps[0].step
    assert (placed.name, placed.outputs, placed.timeout, placed.tags) == (
        "fetch",
        ("body",),
        5,
        ("network",),
    )


@virtual_time
async def test_a_sync_function_may_stand_for_a_coroutine_function_and_the_reverse() -> None:
    async def parsed(body: str) -> list[str]:
        return [body]

    changed = WHOLE.with_steps({"fetch": lambda url: f"page of {url}", "parse": parsed})
    assert (await changed.run({"url": "u"}))["parse"] == ["page of u"]


@virtual_time
async def test_a_step_brings_its_own_options() -> None:
    @step(outputs=["body"])
    def fake() -> str:
        return "x y"

    changed = WHOLE.with_steps({"fetch": fake})
    assert (await changed.run())["parse"] == ["x", "y"]
    assert changed.steps[0].name == "fetch"
    assert changed.steps[0].step.retry.retries == 0


@virtual_time
async def test_the_original_and_the_copy_do_not_disturb_each_other() -> None:
    changed = WHOLE.with_steps({"fetch": lambda url: "z"})

    @step
    def count(parse: list[str]) -> int:
        return len(parse)

    changed.add_step(count)
    assert (await changed.run({"url": "u"})).step_results["count"].success
    assert [node.name for node in WHOLE.steps] == ["fetch", "parse"]
    assert WHOLE.steps[0].step is fetch
    assert changed.name == "crawl"
    assert WHOLE.with_steps({}).steps == WHOLE.steps


@virtual_time
async def test_a_built_pipeline_gives_an_unbuilt_copy() -> None:
    WHOLE.build()
    changed = WHOLE.with_steps({"fetch": lambda address: address})
    with pytest.raises(GraphError, match="parameter 'address' of step 'fetch' has no value"):
        await changed.run({})
    assert (await changed.run({"address": "a b"}))["parse"] == ["a", "b"]


@virtual_time
async def test_the_node_s_own_wiring_and_params_stay() -> None:
    pipeline = Pipeline("p").add_step(fetch, "first", {"url": "one"}, outputs=["left"])
    pipeline.add_step(parse, inputs={"body": "left"}, after=["first"])
    changed = pipeline.with_steps({"first": lambda url: f"{url} {url}"})
    assert (await changed.run())["parse"] == ["one", "one"]


@virtual_time
async def test_a_step_may_be_named_by_itself() -> None:
    changed = WHOLE.with_steps({fetch: lambda url: "by step"})
    assert (await changed.run({"url": "u"}))["parse"] == ["by", "step"]


@virtual_time
async def test_mocks_stand_in_for_functions() -> None:
    body = AsyncMock(return_value="m n")
    links = Mock(return_value=["mocked"])
    result = await WHOLE.with_steps({"fetch": body, "parse": links}).run()
    assert result["parse"] == ["mocked"]
    body.assert_awaited_once_with()
    links.assert_called_once_with()


@pytest.mark.parametrize(
    "replacements, sentence",
    [
        ({"fecth": print}, "with_steps names 'fecth', which is no step; did you mean 'fetch'?"),
        ({"fetch": "page"}, "takes functions or steps, got 'page' for 'fetch'"),
        ({7: print}, r"with_steps\(\) has the key 7; name a step"),
        ([fetch], r"with_steps\(\) takes a mapping"),
    ],
)
def test_replacements_that_make_no_sense_are_refused(replacements: Any, sentence: str) -> None:
    with pytest.raises(GraphError, match=sentence):
        WHOLE.with_steps(replacements)
