"""The crawler: every page once, refusals asked again, bounded in requests and in memory."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asyncflow import StepFailed
from examples.crawl import Crawled, Frontier, Page, Site, crawl_site, limits_of, main, most_in

PAGES = 300
SOON = 0.001


def _ended(crawled: Crawled) -> tuple[int, int]:
    return crawled.pages, crawled.failed


def _written(path: Path) -> list[Page]:
    return [msgspec.json.decode(line, type=Page) for line in path.read_bytes().splitlines()]


async def test_every_page_is_fetched_and_written_once(tmp_path: Path) -> None:
    out = tmp_path / "pages.jsonl"
    site = Site(PAGES, retry_after_seconds=SOON)
    assert _ended(await crawl_site(site, out)) == (PAGES, 0)
    assert sorted(page.title for page in _written(out)) == sorted(
        f"Page {number}" for number in range(PAGES)
    )


async def test_a_line_tells_the_links_and_the_length_of_a_page(tmp_path: Path) -> None:
    out = tmp_path / "pages.jsonl"
    await crawl_site(Site(5, refused_every=0, padding_bytes=1000), out)
    pages = {page.title: page for page in _written(out)}
    assert [link.rpartition("/")[2] for link in pages["Page 1"].links] == ["4", "0"]
    assert 1000 < pages["Page 1"].length_bytes < 1200


async def test_a_page_that_was_refused_is_asked_for_again(tmp_path: Path) -> None:
    site = Site(50, refused_every=5, retry_after_seconds=SOON)
    assert (await crawl_site(site, tmp_path / "out")).failed == 0
    assert site.refused == 10
    assert site.asked == {number: 1 + (number % 5 == 0) for number in range(50)}


async def test_it_waits_as_long_as_the_server_says(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await crawl_site(Site(1, refused_every=1, retry_after_seconds=0.3), tmp_path / "out")
    assert loop.time() - began >= 0.3


class RefusesForever(Site):
    """Page 2 always says to come again."""

    def answer(self, path: str) -> bytes:
        if path == "/2":
            self.asked[2] = 0
        return super().answer(path)


async def test_a_page_that_never_comes_is_written_with_its_error(tmp_path: Path) -> None:
    out = tmp_path / "pages.jsonl"
    site = RefusesForever(4, refused_every=2, retry_after_seconds=SOON)
    assert _ended(await crawl_site(site, out)) == (4, 1)
    (failed,) = [page for page in _written(out) if page.error]
    assert failed.url.endswith("/2")
    assert "429" in failed.error
    assert site.refused == 1 + 6  # page 0 once, page 2 at the first try and five more


class Misses(Site):
    """Page 1 is linked to and does not exist."""

    def answer(self, path: str) -> bytes:
        return super().answer("/none" if path == "/1" else path)


async def test_a_dead_link_does_not_end_the_crawl(tmp_path: Path) -> None:
    out = tmp_path / "pages.jsonl"
    assert _ended(await crawl_site(Misses(4, refused_every=0), out)) == (4, 1)
    (failed,) = [page for page in _written(out) if page.error]
    assert "404" in failed.error


class SlowUntil(Site):
    """Takes its time, in which more requests can come, until so many have waited at once."""

    def __init__(self, crowd: int, pages: int, **options: Any) -> None:
        super().__init__(pages, delay_seconds=0.1, **options)
        self._crowd = crowd

    def came(self, host: int) -> None:
        super().came(host)
        if self.most_at_once >= self._crowd:
            self.delay_seconds = 0.002


@pytest.mark.parametrize("concurrency", [1, 8])
async def test_no_more_pages_are_asked_for_at_once_than_allowed(
    tmp_path: Path, concurrency: int
) -> None:
    site = SlowUntil(concurrency, 100, refused_every=0)
    await crawl_site(site, tmp_path / "out", concurrency=concurrency)
    assert site.most_at_once == concurrency


async def test_no_host_has_more_requests_at_once_than_the_limit(tmp_path: Path) -> None:
    site = SlowUntil(6, 200, hosts=3, retry_after_seconds=SOON)
    assert _ended(await crawl_site(site, tmp_path / "out", concurrency=50, per_host=2)) == (200, 0)
    assert site.most_at_a_host == 2
    assert site.most_at_once == 6


async def test_requests_take_the_seconds_that_their_rate_gives_them(tmp_path: Path) -> None:
    site = Site(25, refused_every=0, delay_seconds=0)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert _ended(await crawl_site(site, tmp_path / "out", per_second=10)) == (25, 0)
    # Ten at first, ten after a second, the rest after another.
    assert loop.time() - began >= 2


def test_the_busiest_second_is_found_wherever_it_begins() -> None:
    assert most_in(1, [0.0, 0.6, 0.9, 1.5, 1.55, 2.0]) == 4
    assert most_in(1, []) == 0


def test_a_request_takes_a_place_at_its_host_and_one_in_this_second() -> None:
    assert limits_of("http://example.org:81/a/b?c") == ["host:example.org:81", "requests"]


async def test_memory_does_not_grow_with_what_is_fetched(tmp_path: Path) -> None:
    out = tmp_path / "pages.jsonl"
    site = Site(PAGES, refused_every=0, padding_bytes=100_000)
    await crawl_site(Site(10), out)  # imports and caches are not the crawl's
    tracemalloc.start()
    try:
        await crawl_site(site, out, concurrency=4)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(page.length_bytes for page in _written(out)) > 30_000_000
    assert peak_bytes < 10_000_000


async def test_a_file_that_cannot_be_written_fails_the_crawl(tmp_path: Path) -> None:
    with pytest.raises(StepFailed) as caught:
        await crawl_site(Site(5), tmp_path / "nowhere" / "out")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


async def _take(urls: AsyncIterator[str], count: int) -> list[str]:
    return [await anext(urls) for _ in range(count)]


async def test_a_frontier_gives_each_address_once() -> None:
    frontier = Frontier("a")
    urls = aiter(frontier)
    assert await _take(urls, 1) == ["a"]
    frontier.fetched(["b", "a", "c", "b"])
    assert await _take(urls, 2) == ["b", "c"]
    frontier.fetched(["a"])
    frontier.fetched(["b", "c"])
    with pytest.raises(StopAsyncIteration):
        await anext(urls)


async def test_a_frontier_waits_for_pages_under_way() -> None:
    frontier = Frontier("a")
    urls = aiter(frontier)
    await anext(urls)
    following = asyncio.ensure_future(_take(urls, 1))
    await asyncio.sleep(0)
    assert not following.done()
    frontier.fetched(["b"])
    assert await following == ["b"]


def test_the_program_says_how_it_went(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pages.jsonl"
    assert main(["--pages", "30", "--out", str(out), "--concurrency", "5"]) == 0
    assert "30 pages, 0 failed, 5 refused at first" in capsys.readouterr().out
    assert len(_written(out)) == 30
