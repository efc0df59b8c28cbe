"""The web service: requests start, show, follow and cancel runs that outlive them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
import pytest_asyncio
import uvicorn
from fastapi import FastAPI

from asyncflow import Run, Runtime
from examples.web_service import create_app, server_sent

WORDS = "the cat and the dog"


class Site:
    """What the service fetches from: it knows who is waiting, and can hold answers back."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.held = asyncio.Event()
        self.is_asked = asyncio.Event()
        self.clients_made = 0

    async def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        self.is_asked.set()
        if request.url.path.startswith("/held"):
            await self.held.wait()
        if request.url.path == "/missing":
            return httpx.Response(404)
        return httpx.Response(200, text=WORDS)

    def make_client(self) -> httpx.AsyncClient:
        self.clients_made += 1
        return httpx.AsyncClient(transport=httpx.MockTransport(self.answer))


class Served(NamedTuple):
    """The application while it is up, a client of it, and the site behind it."""

    app: FastAPI
    http: httpx.AsyncClient
    site: Site

    @property
    def runtime(self) -> Runtime:
        runtime: Runtime = self.app.state.runtime
        return runtime

    async def start(self, *paths: str) -> str:
        answer = await self.http.post("/runs", json={"urls": [f"http://site{p}" for p in paths]})
        assert answer.status_code == 202, answer.text
        run_id: str = answer.json()["id"]
        return run_id

    async def show(self, run_id: str) -> dict[str, Any]:
        answer = await self.http.get(f"/runs/{run_id}")
        assert answer.status_code == 200, answer.text
        shown: dict[str, Any] = answer.json()
        return shown


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Served]:
    site = Site()
    app = create_app(site.make_client)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://service", timeout=20
        ) as http,
    ):
        yield Served(app, http, site)


def _events(stream: str) -> list[dict[str, Any]]:
    """The records of a stream, after a look at how each is framed."""
    *records, rest = stream.split("\n\n")
    assert rest == ""
    found: list[dict[str, Any]] = []
    for record in records:
        number, kind, text = record.split("\n")
        event = msgspec.json.decode(text.removeprefix("data: "))
        assert number == f"id: {event['sequence']}"
        assert kind == f"event: {event['kind']}"
        found.append(event)
    return found


async def test_a_request_starts_a_run_that_counts_words(served: Served) -> None:
    run_id = await served.start("/a", "/b")
    await served.runtime.get(run_id).wait()
    shown = await served.show(run_id)
    assert shown["state"] == "succeeded"
    assert shown["words"] == {"the": 4, "cat": 2, "and": 2, "dog": 2}


async def test_the_same_page_is_fetched_once(served: Served) -> None:
    run_id = await served.start("/a", "/a")
    await served.runtime.get(run_id).wait()
    assert served.site.asked == ["/a"]


async def test_a_snapshot_tells_what_runs_at_the_moment(served: Served) -> None:
    run_id = await served.start("/held")
    await served.site.is_asked.wait()
    shown = await served.show(run_id)
    assert shown["state"] == "running"
    assert "fetch[0]" in [node["name"] for node in shown["running"]]
    assert "words" not in shown
    served.site.held.set()
    await served.runtime.get(run_id).wait()


async def test_all_runs_share_one_client(served: Served) -> None:
    ids = [await served.start("/a") for _ in range(3)]
    for run_id in ids:
        await served.runtime.get(run_id).wait()
    assert served.site.clients_made == 1
    assert len(served.site.asked) == 3


async def test_runs_are_listed_oldest_first_and_by_state(served: Served) -> None:
    done = await served.start("/a")
    await served.runtime.get(done).wait()
    under_way = await served.start("/held")
    listed = (await served.http.get("/runs")).json()
    assert listed == [{"id": done, "state": "succeeded"}, {"id": under_way, "state": "running"}]
    only = await served.http.get("/runs", params={"state": "running"})
    assert [run["id"] for run in only.json()] == [under_way]
    served.site.held.set()
    await served.runtime.get(under_way).wait()


async def test_the_events_of_a_run_that_is_over_are_one_gap(served: Served) -> None:
    run_id = await served.start("/a")
    await served.runtime.get(run_id).wait()
    (gap,) = _events((await served.http.get(f"/runs/{run_id}/events")).text)
    assert gap["kind"] == "Gap"
    assert gap["missed"] == gap["sequence"]


async def test_what_a_slow_reader_misses_is_a_gap_and_the_run_goes_on(served: Served) -> None:
    run_id = await served.start("/held", *(f"/{n}" for n in range(500)))
    run: Run = served.runtime.get(run_id)
    stream = server_sent(run, 0)
    first = _events((await anext(stream)).decode())
    served.site.held.set()
    await run.wait()
    rest = [_events(record.decode())[0] async for record in stream]
    assert first[0]["sequence"] < rest[0]["sequence"]
    assert rest[0]["kind"] == "Gap"
    assert rest[-1]["kind"] == "RunFinished"
    assert len(rest) < 300


async def test_a_run_is_cancelled(served: Served) -> None:
    run_id = await served.start("/held")
    await served.site.is_asked.wait()
    answer = await served.http.delete(f"/runs/{run_id}")
    assert answer.json()["state"] == "cancelled"
    assert answer.json()["running"] == []
    assert answer.json()["stopping"] == "cancelled by a request"


async def test_cancelling_a_run_that_is_over_changes_nothing(served: Served) -> None:
    run_id = await served.start("/a")
    await served.runtime.get(run_id).wait()
    assert (await served.http.delete(f"/runs/{run_id}")).json()["state"] == "succeeded"


async def test_a_run_that_failed_says_why(served: Served) -> None:
    run_id = await served.start("/missing")
    await served.runtime.get(run_id).wait()
    shown = await served.show(run_id)
    assert shown["state"] == "failed"
    assert shown["words"] is None
    assert "404" in shown["summary"]


@pytest.mark.parametrize(
    "method, path", [("GET", "/runs/no"), ("GET", "/runs/no/events"), ("DELETE", "/runs/no")]
)
async def test_a_run_nobody_knows_is_not_found(served: Served, method: str, path: str) -> None:
    answer = await served.http.request(method, path)
    assert answer.status_code == 404
    assert answer.json() == {"detail": "there is no run 'no'"}


async def test_an_order_without_pages_is_refused(served: Served) -> None:
    assert (await served.http.post("/runs", json={"urls": []})).status_code == 422
    assert served.runtime.runs() == []


async def test_shutting_down_lets_runs_in_progress_end() -> None:
    site = Site()
    app = create_app(site.make_client)
    async with (
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as http,
        app.router.lifespan_context(app),
    ):
        served = Served(app, http, site)
        run = served.runtime.get(await served.start("/held"))
        await site.is_asked.wait()
        asyncio.get_running_loop().call_soon(site.held.set)
    assert run.state == "succeeded"


@pytest_asyncio.fixture
async def listening() -> AsyncIterator[Served]:
    """The service behind a real server: only there do streams arrive piece by piece."""
    site = Site()
    app = create_app(site.make_client)
    server = uvicorn.Server(uvicorn.Config(app, ws="none", log_config=None))
    with socket.create_server(("127.0.0.1", 0)) as bound:
        # Requests wait in the socket's backlog until the server is up.
        serving = asyncio.ensure_future(server.serve(sockets=[bound]))
        address = f"http://127.0.0.1:{bound.getsockname()[1]}"
        try:
            async with httpx.AsyncClient(base_url=address, timeout=20) as http:
                yield Served(app, http, site)
        finally:
            site.held.set()
            server.should_exit = True
            await serving


async def test_events_arrive_while_the_run_goes_on_and_end_with_it(listening: Served) -> None:
    run_id = await listening.start("/held")
    await listening.site.is_asked.wait()
    async with listening.http.stream("GET", f"/runs/{run_id}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        chunks = answer.aiter_text()
        # What came before the reader did is a gap: from here on it misses nothing.
        received = await anext(chunks)
        assert (await listening.show(run_id))["state"] == "running"
        listening.site.held.set()
        received += "".join([chunk async for chunk in chunks])
    events = _events(received)
    assert events[0]["kind"] == "Gap"
    assert events[-1]["kind"] == "RunFinished"
    assert events[-1]["state"] == "succeeded"
    assert "add_up" in {event["node"] for event in events if event["kind"] == "NodeFinished"}


async def test_a_connection_that_breaks_leaves_the_run_alone(listening: Served) -> None:
    run_id = await listening.start("/held")
    async with listening.http.stream("GET", f"/runs/{run_id}/events") as answer:
        await anext(answer.aiter_lines())
    assert (await listening.show(run_id))["state"] == "running"
    listening.site.held.set()
    await listening.runtime.get(run_id).wait()
    assert (await listening.show(run_id))["state"] == "succeeded"
