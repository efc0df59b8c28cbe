"""Services: live objects that steps find by name, for one run or for all of a runtime."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from typing import Any

import pytest

from asyncflow import GraphError, Pipeline, Runtime, step
from tests.virtual_time import virtual_time


class Client:
    """A live object; what it says tells which one it is."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def get(self, url: str) -> str:
        await asyncio.sleep(1)
        return f"{self.name} got {url}"


@step
async def fetch(url: str, client: Client) -> str:
    return await client.get(url)


@step
async def who(client: Any = "default") -> str:
    found: str = getattr(client, "name", client)
    return found


FETCH = Pipeline("fetch", [fetch])


# ------------------------------------------------------------------ precedence


@virtual_time
async def test_a_service_goes_to_the_parameter_of_its_name() -> None:
    result = await FETCH.run({"url": "u"}, services={"client": Client("mine")})
    assert result["fetch"] == "mine got u"


@virtual_time
async def test_inputs_come_before_services_before_context_before_defaults() -> None:
    bare, with_context = Pipeline("p", [who]), Pipeline("p", [who], context={"client": "context"})
    asked: list[tuple[Pipeline, dict[str, Any], str]] = [
        (bare, {}, "default"),
        (with_context, {}, "context"),
        (with_context, {"services": {"client": Client("service")}}, "service"),
        (bare, {"services": {"client": Client("service")}}, "service"),
        (
            with_context,
            {"services": {"client": Client("service")}, "inputs": {"client": "input"}},
            "input",
        ),
    ]
    for pipeline, options, expected in asked:
        assert (await pipeline.run(**options))["who"] == expected


@virtual_time
async def test_params_and_assets_come_before_services() -> None:
    pipeline = Pipeline("p").add_step(who, params={"client": "param"}).add_step(who, "other")
    result = await pipeline.run(services={"client": Client("service")})
    assert (result["who"], result["other"]) == ("param", "service")


@virtual_time
async def test_those_of_the_runtime_serve_all_its_runs_and_give_way_to_those_of_a_run() -> None:
    async with Runtime(services={"client": Client("shared"), "spare": object()}):
        assert (await FETCH.run({"url": "u"}))["fetch"] == "shared got u"
        result = await FETCH.run({"url": "u"}, services={"client": Client("own")})
        assert result["fetch"] == "own got u"
        pipeline = Pipeline("p", [who], context={"client": "context"})
        assert (await pipeline.run())["who"] == "shared"
        assert (await pipeline.run({"client": "input"}))["who"] == "input"


@virtual_time
async def test_a_service_fills_what_declared_inputs_leave_open() -> None:
    pipeline = Pipeline("p", [fetch], inputs={"url": str})
    assert (await pipeline.run({"url": "u"}, services={"client": Client("mine")})).success
    with pytest.raises(
        GraphError,
        match=r"parameter 'client' of step 'fetch' has no value: .* service or context",
    ):
        await pipeline.run({"url": "u"})


@virtual_time
async def test_a_declared_input_is_not_filled_by_a_service() -> None:
    pipeline = Pipeline("p", [fetch], inputs=["url", "client"])
    with pytest.raises(GraphError, match="the run input 'client' is missing"):
        await pipeline.run({"url": "u"}, services={"client": Client("mine")})


@virtual_time
async def test_conditions_find_services_too() -> None:
    @step(condition=lambda client: client.name == "open")
    async def guarded() -> str:
        return "ran"

    pipeline = Pipeline("p", [guarded])
    assert (await pipeline.run(services={"client": Client("open")}))["guarded"] == "ran"
    result = await pipeline.run(services={"client": Client("shut")})
    assert result.step_results["guarded"].skipped


@virtual_time
async def test_none_and_what_is_false_are_services_like_others() -> None:
    pipeline = Pipeline("p", [who])
    assert (await pipeline.run(services={"client": None}))["who"] is None
    assert (await pipeline.run(services={"client": []}))["who"] == []


@virtual_time
async def test_every_step_gets_the_very_object() -> None:
    seen: list[Client] = []

    @step
    async def one(client: Client) -> None:
        seen.append(client)

    @step
    def other(client: Client) -> None:
        seen.append(client)

    client = Client("mine")
    await Pipeline("p", [one, other]).run(services={"client": client})
    assert len(seen) == 2
    assert all(found is client for found in seen)


# -------------------------------------------------------------------- refusals


@virtual_time
async def test_a_service_with_the_name_of_an_asset_is_refused() -> None:
    @step(outputs=["client"])
    async def make() -> Client:
        return Client("made")

    with pytest.raises(GraphError, match="the service 'client' has the name of an asset; rename"):
        await Pipeline("p", [make, who]).run(services={"client": Client("mine")})


@virtual_time
async def test_one_of_the_runtime_is_refused_where_an_asset_could_be_meant_as_well() -> None:
    @step(outputs=["client"])
    async def make() -> Client:
        return Client("made")

    async with Runtime(services={"client": Client("shared")}):
        with pytest.raises(GraphError, match="parameter 'client' could be the asset of that name"):
            await Pipeline("p", [make, who]).run()
        told = Pipeline("p", [make]).add_step(who, inputs=["client"])
        assert (await told.run())["who"] == "made"
        assert (await Pipeline("p", [make]).run()).success


@virtual_time
async def test_a_service_that_no_step_takes_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(GraphError, match="no step takes the service 'clinet'; did you mean 'clie"):
        await FETCH.run({"url": "u"}, services={"clinet": Client("mine")})


@virtual_time
async def test_a_part_may_be_given_services_of_the_whole() -> None:
    pipeline = Pipeline("p", [fetch, who.with_options(inputs=["fetch"])])
    services = {"client": Client("mine")}
    result = await pipeline.run(given={"fetch": "page"}, services=services)
    assert result["who"] == "page"


@pytest.mark.parametrize("services", ["client", ["client"], {7: "client"}])
@virtual_time
async def test_services_are_a_mapping_from_names(services: Any) -> None:
    with pytest.raises(GraphError, match=r"run\(services=…\)"):
        await FETCH.run({"url": "u"}, services=services)
    with pytest.raises(TypeError, match=r"Runtime\(services=…\) takes a mapping from names"):
        Runtime(services=services)


# ------------------------------------------------------------------- lifetimes


@virtual_time
async def test_a_service_that_raises_fails_its_step_and_nothing_else() -> None:
    class Broken(Client):
        async def get(self, url: str) -> str:
            raise ConnectionError("refused")

    async with Runtime(services={"client": Broken("broken")}) as runtime:
        result = await FETCH.run({"url": "u"})
        assert isinstance(result.step_results["fetch"].error, ConnectionError)
        assert (await FETCH.run({"url": "u"}, services={"client": Client("mine")})).success
        scheduler = runtime._entered()
        assert (scheduler.in_flight, scheduler.timers, scheduler.runs) == (0, 0, {})


@virtual_time
async def test_neither_result_nor_runtime_keeps_a_service_alive() -> None:
    async with Runtime() as runtime:
        client: Client | None = Client("mine")
        gone = weakref.ref(client)
        run = await runtime.start(FETCH, {"url": "u"}, services={"client": client})
        result = await run.result()
        client = None
        gc.collect()
        assert gone() is None
        assert result["fetch"] == "mine got u"
        assert runtime.get(run.id) is run


class Unseen(Client):
    def __repr__(self) -> str:
        raise AssertionError("nobody may look at a service")

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise AssertionError("nobody may compare a service")

    def __reduce__(self) -> Any:
        raise AssertionError("nobody may write a service down")


@virtual_time
async def test_a_service_is_never_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with FETCH.start({"url": "u"}, services={"client": Unseen("shy")}) as run:
        events = run.events()
        run.snapshot()
        run.explain("fetch")
        result = await run.result()
        assert "shy" not in str([event async for event in events]).replace("shy got u", "")
    result.summary()
    result.to_dict()
    assert result["fetch"] == "shy got u"
