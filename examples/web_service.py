"""A web service whose requests start runs on one runtime that all of them share.

====================  =========================================================
POST /runs            starts a run that counts the words of pages: 202 and its id
GET /runs             the runs in progress and the last that ended
GET /runs/ID          a run at this moment, with its result once it is over
GET /runs/ID/events   its events as server-sent events, until it ends
DELETE /runs/ID       cancels it, and answers when nothing of it runs any more
====================  =========================================================

A run belongs to the runtime, not to the request that started it, so it goes on when the
browser that asked for it goes away. All runs fetch through one HTTP client, a service of the
runtime. The lifespan of the application opens both, and at shutdown gives runs in progress
time to end.

It needs the extra ``[examples]``. Run it with ``uvicorn examples.web_service:app``, then::

    curl -X POST localhost:8000/runs -H 'content-type: application/json' \\
         -d '{"urls": ["http://localhost:8000/openapi.json"]}'
    curl -N localhost:8000/runs/ID/events

A server waits for open streams before it lets the application shut down. Whoever streams long
runs gives it a limit: ``uvicorn examples.web_service:app --timeout-graceful-shutdown 10``.

It fetches whatever address it is told to: put it before nobody you do not trust.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import msgspec
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from asyncflow import Pipeline, Run, RunState, Runtime, StepContext, step

__all__ = ["app", "create_app", "pipeline"]

EVENTS_KEPT = 256
DRAIN_SECONDS = 10.0
COMMONEST_WORDS = 10


# -- what is run -----------------------------------------------------------------------------


@step
def pages_to_fetch(urls: list[str]) -> list[str]:
    """Each address once, in the order given."""
    return list(dict.fromkeys(urls))


@step(retry=2, timeout=30)
async def fetch(url: str, client: httpx.AsyncClient, context: StepContext) -> str:
    """The text at a URL, through the client that all runs share."""
    context.report(0, message=url)
    response = await client.get(url)
    response.raise_for_status()
    return response.text


@step
def count(page: str) -> Counter[str]:
    """How often each word stands in a page."""
    return Counter(page.lower().split())


@step(outputs=["words"])
def add_up(counts: list[Counter[str]]) -> dict[str, int]:
    """The commonest words of all pages."""
    return dict(sum(counts, Counter[str]()).most_common(COMMONEST_WORDS))


pipeline = (
    Pipeline("words", steps=[pages_to_fetch], inputs=["urls"], outputs=["words"])
    .add_step(fetch, inputs={"url": "pages_to_fetch"}, outputs=["pages"], map="pages_to_fetch")
    .add_step(count, inputs={"page": "pages"}, outputs=["counts"], map="pages")
    .add_step(add_up)
)


# -- what is said about it -------------------------------------------------------------------


class Order(BaseModel):
    """What a run is to do: the pages whose words to count."""

    urls: list[str] = Field(min_length=1, max_length=1000)


def described(run: Run) -> dict[str, Any]:
    """A run in a line of a list."""
    return {"id": run.id, "state": run.state}


def snapshot_of(run: Run) -> dict[str, Any]:
    """All there is to say about a run at this moment."""
    snapshot: dict[str, Any] = msgspec.to_builtins(run.snapshot(limit=20))
    if run.state is not RunState.RUNNING:
        result = run.result_now()
        snapshot["words"] = result.get("words")
        snapshot["summary"] = result.summary()
    return snapshot


async def server_sent(run: Run, since: int) -> AsyncIterator[bytes]:
    """The events of a run as lines of a stream; its end is the end of the stream.

    What a slow reader misses comes as one ``Gap``: it costs neither the run nor memory.
    """
    events = run.events(since, buffer=EVENTS_KEPT)
    try:
        async for event in events:
            data = msgspec.json.encode(event)
            yield b"id: %d\nevent: %s\ndata: %s\n\n" % (event.sequence, event.kind.encode(), data)
    finally:
        # A browser that goes away leaves in the middle of the stream.
        await events.aclose()


# -- the service -----------------------------------------------------------------------------


def runtime_of(request: Request) -> Runtime:
    """The runtime that all requests share."""
    runtime: Runtime = request.app.state.runtime
    return runtime


def run_of(run_id: str, request: Request) -> Run:
    """The run a path speaks of.

    Raises:
        HTTPException: 404, there is none.
    """
    try:
        return runtime_of(request).get(run_id)
    except KeyError as error:
        raise HTTPException(404, f"there is no run {run_id!r}") from error


SharedRuntime = Annotated[Runtime, Depends(runtime_of)]
NamedRun = Annotated[Run, Depends(run_of)]


async def start_run(order: Order, runtime: SharedRuntime) -> dict[str, Any]:
    """Start a run, and say which."""
    return described(await runtime.start(pipeline, {"urls": order.urls}))


async def list_runs(runtime: SharedRuntime, state: RunState | None = None) -> list[dict[str, Any]]:
    """The runs there are, oldest first; only those in one state if one is given."""
    return [described(run) for run in runtime.runs(state)]


async def show_run(run: NamedRun) -> dict[str, Any]:
    """A run at this moment."""
    return snapshot_of(run)


async def stream_events(run: NamedRun, since: Annotated[int, Query(ge=0)] = 0) -> StreamingResponse:
    """What happens in a run from now on; ``since`` counts what came before as missed."""
    return StreamingResponse(
        server_sent(run, since),
        media_type="text/event-stream",
        headers={"cache-control": "no-store"},
    )


async def cancel_run(run: NamedRun) -> dict[str, Any]:
    """Cancel a run and wait until nothing of it runs; one that is over stays as it is."""
    await run.cancel("cancelled by a request")
    return snapshot_of(run)


def create_app(
    make_client: Callable[[], httpx.AsyncClient] = httpx.AsyncClient, *, max_concurrency: int = 100
) -> FastAPI:
    """The application.

    Args:
        make_client: makes the HTTP client that all runs share.
        max_concurrency: how many steps of all runs may be under way at once.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with (
            make_client() as client,
            Runtime(max_concurrency=max_concurrency, services={"client": client}) as runtime,
        ):
            app.state.runtime = runtime
            yield
            await runtime.aclose(drain_seconds=DRAIN_SECONDS)

    app = FastAPI(title="Words of pages", lifespan=lifespan)
    app.post("/runs", status_code=202)(start_run)
    app.get("/runs")(list_runs)
    app.get("/runs/{run_id}")(show_run)
    app.get("/runs/{run_id}/events")(stream_events)
    app.delete("/runs/{run_id}")(cancel_run)
    return app


app = create_app()
