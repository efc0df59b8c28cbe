"""Clients used inside steps behave as they do in plain asyncio: the loop and the task are real."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from asyncflow import NodeState, Pipeline, Retry, Step, step

if TYPE_CHECKING:
    import aiohttp
    import httpx

REQUESTS = 200
MOST_AT_ONCE = 10
MEETING_SECONDS = 30.0

pytestmark = pytest.mark.both_loops


class Server:
    """A small HTTP server: ``/echo/TEXT`` answers TEXT, ``/never`` does not answer.

    ``open_connections`` counts clients that are connected, ``largest`` the most there were.
    """

    def __init__(self) -> None:
        self.connections = self.open_connections = self.largest = 0
        self.url = ""
        self.asked_for_never = asyncio.Event()
        self.hung_up = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Server]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        self.url = f"http://{host}:{port}"
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open_connections += 1
        self.largest = max(self.largest, self.open_connections)
        try:
            while head := await self._head(reader):
                await self._answer(head, reader, writer)
        except ConnectionError:
            # The client hung up in the middle, as a cancelled one does.
            pass
        finally:
            self.open_connections -= 1
            writer.close()

    async def _head(self, reader: asyncio.StreamReader) -> str:
        try:
            return (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:
            return ""

    async def _answer(
        self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        path = head.split(" ", 2)[1]
        if path == "/never":
            self.asked_for_never.set()
            await reader.read()
            self.hung_up.set()
            return
        body = path.removeprefix("/echo/").encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server().running() as running:
        yield running


@pytest.fixture
async def httpx_client() -> AsyncIterator[httpx.AsyncClient]:
    found = pytest.importorskip("httpx", reason="httpx is not installed")
    limits = found.Limits(max_connections=MOST_AT_ONCE)
    async with found.AsyncClient(limits=limits, timeout=MEETING_SECONDS, trust_env=False) as client:
        yield client


@pytest.fixture
async def aiohttp_session() -> AsyncIterator[aiohttp.ClientSession]:
    found = pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    connector = found.TCPConnector(limit=MOST_AT_ONCE)
    async with found.ClientSession(connector=connector) as session:
        yield session


def fan_out(fetch: Callable[[int], Awaitable[Any]], count: int = REQUESTS) -> Pipeline:
    """So many steps that fetch, and one below each that looks at what was fetched."""

    @step
    async def fetched(number: int) -> Any:
        return await fetch(number)

    @step
    async def checked(number: int, text: str) -> bool:
        return text == str(number)

    pipeline = Pipeline("fan_out")
    for number in range(count):
        pipeline.add_step(fetched, name=f"fetch_{number}", params={"number": number})
        pipeline.add_step(
            checked,
            name=f"check_{number}",
            params={"number": number},
            inputs={"text": f"fetch_{number}"},
        )
    return pipeline


async def assert_all_are_fetched(fetch: Callable[[int], Awaitable[Any]], server: Server) -> None:
    result = await fan_out(fetch).run()
    result.raise_for_failure()
    assert all(result[f"check_{number}"] for number in range(REQUESTS))
    assert 1 < server.largest <= MOST_AT_ONCE
    # Connections are shared between steps: a client bound to a task would open one for each.
    assert server.connections <= MOST_AT_ONCE


async def time_out_after(begun: asyncio.Event, hangs: Step[..., Any]) -> None:
    """Run a step that hangs, with longer and longer timeouts, until one came after it had begun."""
    seconds = 0.02
    while not begun.is_set():
        limited = hangs.with_options(name="hangs", timeout=seconds)
        result = await Pipeline("p", steps=[limited]).run()
        assert result.step_results["hangs"].status is NodeState.TIMED_OUT
        seconds *= 2


# -- httpx -------------------------------------------------------------------------------


async def test_httpx_is_shared_by_all_steps(
    server: Server, httpx_client: httpx.AsyncClient
) -> None:
    async def fetch(number: int) -> str:
        return (await httpx_client.get(f"{server.url}/echo/{number}")).text

    await assert_all_are_fetched(fetch, server)


async def test_a_timeout_of_the_step_ends_a_request_of_httpx(
    server: Server, httpx_client: httpx.AsyncClient
) -> None:
    @step
    async def never() -> str:
        return (await httpx_client.get(f"{server.url}/never")).text

    await time_out_after(server.asked_for_never, never)
    await server.hung_up.wait()
    # The pool is whole: what was cut off gave its connection back.
    assert (await httpx_client.get(f"{server.url}/echo/after")).text == "after"


async def test_a_timeout_of_httpx_itself_is_the_step_s_error_and_is_retried(
    server: Server, httpx_client: httpx.AsyncClient
) -> None:
    paths = iter(["never", "echo/second"])

    @step(retry=Retry(1, wait_initial=0, wait_jitter=0))
    async def impatient() -> str:
        path = next(paths)
        seconds = 0.05 if path == "never" else MEETING_SECONDS
        return (await httpx_client.get(f"{server.url}/{path}", timeout=seconds)).text

    result = await Pipeline("p", steps=[impatient]).run()
    assert result["impatient"] == "second"
    assert result.step_results["impatient"].attempts == 2


# -- aiohttp -----------------------------------------------------------------------------


async def test_aiohttp_is_shared_by_all_steps(
    server: Server, aiohttp_session: aiohttp.ClientSession
) -> None:
    async def fetch(number: int) -> str:
        async with aiohttp_session.get(f"{server.url}/echo/{number}") as response:
            return await response.text()

    await assert_all_are_fetched(fetch, server)


async def test_a_response_of_aiohttp_may_be_read_by_another_step(
    server: Server, aiohttp_session: aiohttp.ClientSession
) -> None:
    @step(outputs=["response"])
    async def ask() -> aiohttp.ClientResponse:
        return await aiohttp_session.get(f"{server.url}/echo/later")

    @step
    async def read(response: aiohttp.ClientResponse) -> str:
        async with response:
            return await response.text()

    assert (await Pipeline("p", steps=[ask, read]).run())["read"] == "later"


async def test_cancelling_the_run_ends_a_request_of_aiohttp(
    server: Server, aiohttp_session: aiohttp.ClientSession
) -> None:
    @step
    async def never() -> None:
        async with aiohttp_session.get(f"{server.url}/never"):
            pass

    async with Pipeline("p", steps=[never]).start() as run:
        await server.asked_for_never.wait()
        await run.cancel("enough")
        result = await run.result()
    assert result.step_results["never"].status is NodeState.CANCELLED
    await server.hung_up.wait()
    async with aiohttp_session.get(f"{server.url}/echo/after") as response:
        assert await response.text() == "after"


# -- anyio -------------------------------------------------------------------------------


async def test_anyio_threads_run_beside_the_steps() -> None:
    @step
    async def in_a_thread(number: int) -> int:
        return await anyio.to_thread.run_sync(lambda: number * 2)

    pipeline = Pipeline("p")
    for number in range(50):
        pipeline.add_step(in_a_thread, name=f"s{number}", params={"number": number})
    result = await pipeline.run()
    assert [result[f"s{number}"] for number in range(50)] == [2 * number for number in range(50)]


async def test_an_anyio_task_group_in_a_step_joins_its_tasks() -> None:
    @step
    async def fan() -> list[int]:
        found: list[int] = []

        async def child(number: int) -> None:
            await anyio.sleep(0.001)
            found.append(number)

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(child, number)
        return sorted(found)

    assert (await Pipeline("p", steps=[fan]).run())["fan"] == list(range(10))


async def test_a_failing_anyio_task_group_fails_its_step_with_the_group() -> None:
    @step
    async def fan() -> None:
        async def broken() -> None:
            raise OSError("child")

        async with anyio.create_task_group() as group:
            group.start_soon(broken)
            group.start_soon(anyio.sleep_forever)

    result = await Pipeline("p", steps=[fan]).run()
    error = result.step_results["fan"].error
    assert isinstance(error, ExceptionGroup)
    assert [str(inner) for inner in error.exceptions] == ["child"]


async def test_a_step_s_timeout_reaches_the_tasks_of_its_anyio_group() -> None:
    begun = asyncio.Event()
    ended: list[str] = []

    @step
    async def fan() -> None:
        async def child() -> None:
            begun.set()
            try:
                await anyio.sleep_forever()
            finally:
                ended.append("child")

        async with anyio.create_task_group() as group:
            group.start_soon(child)

    await time_out_after(begun, fan)
    assert ended == ["child"]


async def test_anyio_timeouts_inside_a_step_stay_inside() -> None:
    @step
    async def tries() -> str:
        with anyio.move_on_after(0) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0):
                await anyio.sleep_forever()
        return "went on"

    assert (await Pipeline("p", steps=[tries]).run())["tries"] == "went on"


async def test_steps_talk_through_an_anyio_stream() -> None:
    sender, receiver = anyio.create_memory_object_stream[int](max_buffer_size=1)

    @step
    async def produce() -> int:
        async with sender:
            for number in range(100):
                await sender.send(number)
        return 100

    @step
    async def consume() -> int:
        async with receiver:
            return sum([number async for number in receiver])

    result = await Pipeline("p", steps=[produce, consume]).run()
    assert result["consume"] == sum(range(result["produce"]))


async def test_a_run_may_stand_in_an_anyio_scope_that_ends_it() -> None:
    begun = asyncio.Event()
    ended: list[str] = []

    @step
    async def endless() -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("endless")

    pipeline = Pipeline("p", steps=[endless])
    async with anyio.create_task_group() as group:
        group.start_soon(pipeline.run)
        await begun.wait()
        group.cancel_scope.cancel()
    assert ended == ["endless"]
