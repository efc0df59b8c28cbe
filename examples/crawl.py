"""A crawler that writes what it finds while it goes, in memory that does not grow with it.

``stream_map`` fetches up to ``concurrency`` pages at once. Its source is the frontier: the
links that were found and not yet followed. Its results go to a file, a line of JSON for each
page, as they come; what stays in memory are the addresses already seen. A server that says
"too many requests" (429) is asked again after the time it names.

It is polite: so many requests at once to each host, and so many in any second to all of them
together. The runtime defines these limits, and each fetch takes its own.

The site is served by this program itself, on free ports of 127.0.0.1 that stand for its hosts:
pages that link to three more and back, in which every seventh refuses the first time it is asked
for.

Run it with ``python -m examples.crawl --pages 10000 --out pages.jsonl``. It needs the extra
``[examples]``.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
from array import array
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from re import compile as pattern
from urllib.parse import urljoin, urlsplit

import aiohttp
import msgspec

from asyncflow import Pipeline, Rate, Retry, RetryAfter, Runtime, StepContext, step
from asyncflow.streams import stream_map

__all__ = ["Crawled", "Frontier", "Page", "Site", "crawl_site", "pipeline", "served"]

LINKS_A_PAGE = 3
PAGES_PER_REPORT = 100
LINK = pattern(r'href="([^"]+)"')
TITLE = pattern(r"<title>([^<]*)</title>")
HOSTS = 4
PER_HOST = 8
PER_SECOND = 2000
PATIENCE = Retry(5, wait_initial=0.1, wait_max=5.0, on=aiohttp.ClientConnectionError)


# -- the crawler -----------------------------------------------------------------------------


class Page(msgspec.Struct, frozen=True):
    """What is known of a page: a line of the file.

    ``error`` is the text of what went wrong where it could not be had.
    """

    url: str
    title: str = ""
    length_bytes: int = 0
    links: tuple[str, ...] = ()
    error: str = ""


class Crawled(msgspec.Struct, frozen=True):
    """How a crawl ended, and how many requests started in the second with the most."""

    pages: int
    failed: int
    busiest_second: int = 0


class Frontier:
    """The addresses still to be fetched, each one once; it ends when nothing can follow."""

    def __init__(self, start: str) -> None:
        self._seen = {start}
        self._waiting = deque([start])
        self._under_way = 0
        self._changed = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[str]:
        while self._waiting or self._under_way:
            if self._waiting:
                self._under_way += 1
                yield self._waiting.popleft()
            else:
                self._changed.clear()
                await self._changed.wait()

    def fetched(self, links: Iterable[str]) -> None:
        """One address is done with, and these links were found there."""
        self._under_way -= 1
        for link in links:
            if link not in self._seen:
                self._seen.add(link)
                self._waiting.append(link)
        self._changed.set()


async def fetch(url: str, session: aiohttp.ClientSession) -> Page:
    """A page, without its text.

    Raises:
        RetryAfter: the server says when to come again.
        aiohttp.ClientError: it cannot be had.
    """
    async with session.get(url) as response:
        if response.status == 429:
            raise RetryAfter(float(response.headers.get("retry-after", 1)), f"429 at {url}")
        response.raise_for_status()
        text = await response.text()
    title = TITLE.search(text)
    links = dict.fromkeys(urljoin(url, link) for link in LINK.findall(text))
    return Page(url, title[1] if title else "", len(text.encode()), tuple(links))


def limits_of(url: str) -> list[str]:
    """What a request takes of the limits: a place at its host, and one of the next second's."""
    return [f"host:{urlsplit(url).netloc}", "requests"]


@step
async def crawl(
    start: str,
    out: str,
    session: aiohttp.ClientSession,
    context: StepContext,
    concurrency: int = 100,
) -> Crawled:
    """Follow every link from ``start`` on and write a line for each page."""

    starts = array("d")
    loop = asyncio.get_running_loop()

    async def fetched(url: str) -> Page:
        starts.append(loop.time())
        return await fetch(url, session)

    frontier, pages, failed = Frontier(start), 0, 0
    results = stream_map(
        fetched,
        frontier,
        concurrency=concurrency,
        ordered=False,
        on_error="yield",
        retry=PATIENCE,
        timeout=30,
        limits=limits_of,
    )
    # A line goes to a buffer of the file object, which does not hold up the loop.
    with Path(out).open("wb") as file:  # noqa: ASYNC230
        async with aclosing(results):
            async for url, found in results:
                page = found if isinstance(found, Page) else Page(url, error=repr(found))
                frontier.fetched(page.links)
                file.write(msgspec.json.encode(page) + b"\n")
                pages, failed = pages + 1, failed + bool(page.error)
                if pages % PAGES_PER_REPORT == 0:
                    context.report(pages)
    return Crawled(pages, failed, most_in(1, starts))


def most_in(seconds: float, times: Sequence[float]) -> int:
    """How many times, in order, there are in the stretch of so many seconds with the most."""
    counts = (bisect_left(times, begin + seconds) - at for at, begin in enumerate(times))
    return max(counts, default=0)


pipeline = Pipeline("crawl", steps=[crawl])


# -- the site --------------------------------------------------------------------------------


class Site:
    """A site of so many pages on several hosts, and what was asked of it.

    Args:
        pages: how many; page ``n`` links to ``3 n + 1`` to ``3 n + 3`` and back to ``n // 2``.
        hosts: how many; page ``n`` is on host ``n % hosts``.
        refused_every: the pages of which the first request is refused with 429: 7 for every
            seventh, 0 for none.
        retry_after_seconds: what it says then. Fractions are beyond the standard, but common.
        delay_seconds: how long an answer takes.
        padding_bytes: how much text stands in each page beside its links.

    Attributes:
        asked: requests by page.
        refused: how many were answered with 429.
        most_at_once: the most requests that waited for their answers at one moment.
        most_at_a_host: the same for the host with the most.
        addresses: of the hosts, while they are served.
    """

    def __init__(
        self,
        pages: int,
        *,
        hosts: int = HOSTS,
        refused_every: int = 7,
        retry_after_seconds: float = 0.05,
        delay_seconds: float = 0.001,
        padding_bytes: int = 2000,
    ) -> None:
        self.pages = pages
        self.hosts = hosts
        self.addresses = [""] * hosts
        self.refused_every = refused_every
        self.retry_after_seconds = retry_after_seconds
        self.delay_seconds = delay_seconds
        self.asked: Counter[int] = Counter()
        self.refused = 0
        self.most_at_once = self.most_at_a_host = 0
        self._at_once: Counter[int] = Counter()
        self.connections: set[asyncio.Transport] = set()
        self._padding = "x" * padding_bytes

    def came(self, host: int) -> None:
        """A request has come to a host."""
        self._at_once[host] += 1
        self.most_at_a_host = max(self.most_at_a_host, self._at_once[host])
        self.most_at_once = max(self.most_at_once, self._at_once.total())

    def left(self, host: int) -> None:
        """A request to a host has its answer."""
        self._at_once[host] -= 1

    def answer(self, path: str) -> bytes:
        """The response to a request, head and body."""
        number = int(path[1:]) if path[1:].isdecimal() else -1
        if not 0 <= number < self.pages:
            return _response("404 Not Found", "")
        self.asked[number] += 1
        if self.refused_every and number % self.refused_every == 0 and self.asked[number] == 1:
            self.refused += 1
            after = f"Retry-After: {self.retry_after_seconds}\r\n"
            return _response("429 Too Many Requests", "", after)
        return _response("200 OK", self._text(number))

    def address_of(self, number: int) -> str:
        """Where a page is."""
        return f"{self.addresses[number % self.hosts]}/{number}"

    def _text(self, number: int) -> str:
        first = LINKS_A_PAGE * number + 1
        onward = range(first, min(first + LINKS_A_PAGE, self.pages))
        linked = (*onward, number // 2)
        links = "".join(f'<a href="{self.address_of(n)}">{n}</a>' for n in linked)
        return f"<title>Page {number}</title>{links}<p>{self._padding}</p>"


def _response(status: str, body: str, headers: str = "") -> bytes:
    length = len(body.encode())
    return f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n{body}".encode()


class _Connection(asyncio.Protocol):
    """Answers one request after the other; a task for each connection would cost more."""

    def __init__(self, site: Site, host: int) -> None:
        self._site, self._host = site, host
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._site.connections.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._site.connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            self._asked(head.split(b" ", 2)[1].decode())

    def _asked(self, path: str) -> None:
        self._site.came(self._host)
        asyncio.get_running_loop().call_later(self._site.delay_seconds, self._answer, path)

    def _answer(self, path: str) -> None:
        self._site.left(self._host)
        self._transport.write(self._site.answer(path))


@asynccontextmanager
async def served(site: Site) -> AsyncIterator[str]:
    """Serve a site on free ports of 127.0.0.1, and give the address of its first page."""
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(partial(_Connection, site, host), "127.0.0.1", 0, backlog=1024)
        for host in range(site.hosts)
    ]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    site.addresses = [f"http://127.0.0.1:{port}" for port in ports]
    try:
        yield site.address_of(0)
    finally:
        for server in servers:
            server.close()
        for transport in list(site.connections):
            transport.abort()
        for server in servers:
            await server.wait_closed()


# -- the program -----------------------------------------------------------------------------


async def crawl_site(
    site: Site,
    out: Path,
    *,
    concurrency: int = 100,
    per_host: int = PER_HOST,
    per_second: int = PER_SECOND,
    progress: bool = False,
) -> Crawled:
    """Serve a site, crawl it from its first page on, and write the pages to a file.

    Args:
        site: what to serve.
        out: the file, which is replaced.
        concurrency: how many pages to fetch, or wait to fetch, at once.
        per_host: how many requests one host may have to answer at once.
        per_second: how many requests may start in any second.
        progress: show a display on the terminal's error stream.

    Raises:
        StepFailed: the file could not be written.
    """
    connector = aiohttp.TCPConnector(limit=concurrency)
    rate = Rate(per_second, per_seconds=1)
    limits: dict[str, int | Rate] = {"host:*": per_host, "requests": rate}
    async with (
        served(site) as start,
        aiohttp.ClientSession(connector=connector) as session,
        Runtime(services={"session": session}, limits=limits) as runtime,
    ):
        result = await pipeline.run(
            {"start": start, "out": str(out), "concurrency": concurrency},
            runtime=runtime,
            progress=progress,
        )
    result.raise_for_failure()
    return result[crawl]


def main(arguments: Sequence[str] | None = None) -> int:
    """Crawl the site and say how it went; 0 if every page was had."""
    parser = argparse.ArgumentParser(prog="crawl", description="Crawl a site served here.")
    parser.add_argument("--pages", type=int, default=10_000, help="default 10000")
    parser.add_argument("--concurrency", type=int, default=100, help="default 100")
    parser.add_argument("--per-host", type=int, default=PER_HOST, help=f"default {PER_HOST}")
    parser.add_argument("--per-second", type=int, default=PER_SECOND, help=f"default {PER_SECOND}")
    parser.add_argument("--out", type=Path, default=Path("pages.jsonl"), help="the file to write")
    options = parser.parse_args(arguments)
    site = Site(options.pages)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    crawled = asyncio.run(
        crawl_site(
            site,
            options.out,
            concurrency=options.concurrency,
            per_host=options.per_host,
            per_second=options.per_second,
            progress=sys.stderr.isatty(),
        )
    )
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{crawled.pages:,} pages, {crawled.failed} failed, {site.refused:,} refused at first")
    print(
        f"at most {site.most_at_a_host} at once at one host, {crawled.busiest_second:,} begun in "
        "one second; "
        f"peak memory grew by {grown / 1024:.0f} MiB"
    )
    return 1 if crawled.failed else 0


if __name__ == "__main__":
    sys.exit(main())
