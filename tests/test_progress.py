"""A run is shown to people, and the run does not suffer from it."""

from __future__ import annotations

import asyncio
import io
import logging
import re
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from asyncflow import NodeState, Pipeline, Retry, RunState, step
from asyncflow.events import Event, NodeFinished, NodeRetrying, RunStarted, Warned
from asyncflow.progress import show_progress, shown
from asyncflow.progress.lines import LinePainter
from asyncflow.progress.live import LivePainter
from asyncflow.progress.words import Pace, duration, news_of, percent
from asyncflow.run import RunningNode, RunSnapshot

COMMON: dict[str, Any] = {"sequence": 1, "run_id": "r", "wall_time": 1.0, "monotonic_seconds": 2.0}


@step
async def good() -> int:
    return 1


@step
async def bad() -> int:
    raise ValueError("no [bold]fruit\x1b[2J\nleft")


@step
async def after_bad(bad: int) -> int:
    return bad


@step(retry=Retry(retries=1, wait_initial=0.001))
async def worse() -> int:
    raise LookupError("never")


def terminal(file: io.StringIO, width: int = 100) -> Console:
    return Console(file=file, force_terminal=True, width=width, height=30, color_system=None)


def snapshot(**fields: Any) -> RunSnapshot:
    told: dict[str, Any] = {
        "run_id": "r",
        "pipeline_name": "crawl",
        "state": RunState.RUNNING,
        "counts": {},
        "done": 0,
        "total": 10,
        "elapsed_seconds": 1.0,
        "running": (),
    }
    return RunSnapshot(**{**told, **fields})


def running(name: str, **fields: Any) -> RunningNode:
    told: dict[str, Any] = {"unit": name, "lane": "inline", "attempt": 1, "elapsed_seconds": 2.0}
    return RunningNode(name=name, **{**told, **fields})


def drawn(found: RunSnapshot, width: int = 100) -> str:
    """What a live display shows of a snapshot."""
    file = io.StringIO()
    painter = LivePainter(terminal(file, width), wants_all_news=True)
    painter.open()
    painter.paint(found, [])
    text = file.getvalue()
    painter.close()
    return text


# -- plain lines -------------------------------------------------------------------------


async def test_a_stream_that_is_no_terminal_gets_a_line_for_each_step_that_ends(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pipeline = Pipeline("mixed", steps=[good, bad, after_bad, worse], failure_policy="collect_all")
    async with pipeline.start(run_id="r1") as run:
        await show_progress(run)
    lines = [line.split(" s] ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert lines[0] == "mixed: 4 steps, run r1"
    assert lines[1].startswith("good succeeded in ")
    assert lines[2].startswith("bad failed after ")
    assert lines[2].endswith(r": ValueError: no [bold]fruit\x1b[2J\nleft")
    assert lines[3].startswith("worse failed at attempt 1 and is tried again in ")
    assert lines[4].startswith("worse failed after ")
    assert lines[4].endswith(", attempt 2: LookupError: never")
    assert len(lines) == 5


async def test_run_shows_progress_when_asked_to(capsys: pytest.CaptureFixture[str]) -> None:
    result = await Pipeline("one", steps=[good]).run(progress=True)
    assert result.success
    assert "good succeeded in" in capsys.readouterr().err


async def test_a_console_of_one_s_own_is_written_to(capsys: pytest.CaptureFixture[str]) -> None:
    file = io.StringIO()
    async with Pipeline("one", steps=[good]).start() as run:
        await show_progress(run, Console(file=file))
    assert "good succeeded in" in file.getvalue()
    assert capsys.readouterr().err == ""


async def test_a_run_that_is_over_is_shown_as_it_ended() -> None:
    file = io.StringIO()
    async with Pipeline("one", steps=[good]).start() as run:
        await run.wait()
        await show_progress(run, terminal(file))
    assert "1/1" in file.getvalue()


async def test_a_resumed_run_does_not_show_again_what_earlier_lives_went_through(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    @step
    async def moody(good: int) -> int:
        if not attempts:
            attempts.append(good)
            raise ValueError("not yet")
        return good

    attempts: list[int] = []
    pipeline = Pipeline("pair", steps=[good, moody])
    told = []
    for _ in range(3):
        await pipeline.run(run_id="nightly", checkpoint=tmp_path, progress=True)
        _, *lines = capsys.readouterr().err.splitlines()
        told.append([" ".join(line.split("] ")[1].split()[:2]) for line in lines])
    assert told == [["good succeeded", "moody failed"], ["1 step", "moody succeeded"], []]


def test_a_large_run_says_now_and_then_how_far_it_is() -> None:
    file = io.StringIO()
    painter = LinePainter(file, large=True)
    busy = (running("n7", elapsed_seconds=4.2),)
    for second in range(12):
        counts = {NodeState.RUNNING: 20, NodeState.RETRYING: 2, NodeState.FAILED: 1}
        found = snapshot(
            total=5000, done=400 * second, elapsed_seconds=second, counts=counts, running=busy
        )
        painter.paint(found, [])
    assert file.getvalue().splitlines() == [
        "[    0.0 s] crawl: 5,000 steps, run r",
        "[    5.0 s] 2,000 of 5,000 done (40 %), 400/s, 20 running, 2 retrying, 1 failed, "
        "longest: n7 for 4.2 s",
        "[   10.0 s] 4,000 of 5,000 done (80 %), 400/s, 20 running, 2 retrying, 1 failed, "
        "longest: n7 for 4.2 s",
    ]


def test_a_small_run_that_has_nothing_to_tell_says_so_after_a_while() -> None:
    file = io.StringIO()
    painter = LinePainter(file, large=False)
    for second in range(0, 61, 10):
        painter.paint(snapshot(elapsed_seconds=second, counts={NodeState.RUNNING: 1}), [])
    lines = [line.split("] ")[0] for line in file.getvalue().splitlines()]
    assert lines == ["[    0.0 s", "[   30.0 s", "[   60.0 s"]


@pytest.mark.parametrize(
    "event, text",
    [
        (
            NodeFinished(
                node="n", attempt=2, state=NodeState.SUCCEEDED, duration_seconds=3, **COMMON
            ),
            "n succeeded in 3.0 s, attempt 2",
        ),
        (
            NodeFinished(
                node="n", state=NodeState.SUCCEEDED, duration_seconds=0, cached=True, **COMMON
            ),
            "n was found in the cache",
        ),
        (
            NodeFinished(node="n", state=NodeState.SKIPPED, duration_seconds=0, **COMMON),
            "n was skipped",
        ),
        (
            NodeFinished(
                node="n", attempt=1, state=NodeState.TIMED_OUT, duration_seconds=90, **COMMON
            ),
            "n timed out after 1:30",
        ),
        (
            NodeFinished(
                node="n", attempt=1, state=NodeState.CANCELLED, duration_seconds=0.02, **COMMON
            ),
            "n was cancelled after 20 ms",
        ),
        (NodeFinished(node="n", state=NodeState.CANCELLED, duration_seconds=0, **COMMON), None),
        (
            NodeFinished(node="n", state=NodeState.UPSTREAM_FAILED, duration_seconds=0, **COMMON),
            None,
        ),
        (
            NodeRetrying(node="n", attempt=1, delay_seconds=2, error="E: x", **COMMON),
            "n failed at attempt 1 and is tried again in 2.0 s: E: x",
        ),
        (Warned(message="it gets 2 CPUs", **COMMON), "warning: it gets 2 CPUs"),
        (RunStarted(pipeline="p", nodes=1, units=1, **COMMON), None),
        (
            RunStarted(pipeline="p", nodes=9, units=9, resumed=2, **COMMON),
            "2 steps were done in an earlier life of the run",
        ),
    ],
)
def test_what_happens_is_put_in_words(event: Event, text: str | None) -> None:
    news = news_of(event)
    assert (None if news is None else news.text) == text


# -- the live display --------------------------------------------------------------------


async def test_a_terminal_shows_the_bar_full_at_the_end() -> None:
    file = io.StringIO()
    async with Pipeline("pair", steps=[good, bad, after_bad]).start() as run:
        await show_progress(run, terminal(file))
    text = file.getvalue()
    assert "✓ good succeeded in" in text
    assert r"ValueError: no [bold]fruit\x1b[2J\nleft" in text
    last = text[text.rindex("pair") :]
    assert "3/3  100 %" in last
    assert "1 failed · 1 upstream failed" in last


def test_the_longest_running_steps_have_a_row_each() -> None:
    busy = tuple(running(f"n{i}", elapsed_seconds=50.0 - i) for i in range(12))
    text = drawn(snapshot(running=busy, counts={NodeState.RUNNING: 800}))
    assert [f"n{i} " in text for i in range(12)] == [True] * 10 + [False] * 2
    assert "… and 790 more" in text
    assert "800 running" in text


def test_a_step_that_has_just_begun_has_no_row_yet() -> None:
    text = drawn(snapshot(running=(running("n1", elapsed_seconds=0.1),)))
    assert "n1" not in text


def test_a_row_names_group_and_attempt_and_what_the_step_reports() -> None:
    busy = (
        running("clean", unit="prep", progress=(15, 20, "batch [red]15\x1b[2J\nnext")),
        running("train", attempt=2, progress=(1234567, None, None)),
        running("count", progress=(3, 0, "of none")),
        running("odd", progress=("half", float("nan"), 5)),
        running("more", progress=(7, 5, None)),
    )
    text = drawn(snapshot(running=busy))
    assert "prep › clean" in text
    assert r"15/20 batch [red]15\x1b[2J\nnext" in text
    assert "train (attempt 2)" in text
    for words in ["1,234,567", "3/0 of none", "half/nan 5", "7/5"]:
        assert words in text


def test_a_run_that_stops_says_why() -> None:
    text = drawn(snapshot(stopping="step 'a' failed: \x1b[2J", counts={NodeState.RUNNING: 1}))
    assert r"1 running · stopping: step 'a' failed: \x1b[2J" in text


@pytest.mark.parametrize("width, bars", [(80, True), (40, False)])
def test_names_and_reports_are_cut_before_any_number_is(width: int, bars: bool) -> None:
    report = (8, 10, "page 8 of " + "a rather long message " * 3)
    busy = (
        running("a step with " + "a rather long name " * 3, elapsed_seconds=12, progress=report),
    )
    text = drawn(snapshot(running=busy, done=4, counts={NodeState.RUNNING: 5}), width)
    bar, row = (next(line for line in text.splitlines() if part in line) for part in ("4/", "8/"))
    assert re.search(r"crawl .* 4/10  40 %  1\.0 s  4\.0/s", bar)
    assert re.search(r"a step .*… 12\.0 s .*8/10 page.*…", row)
    assert ("━" in text) is bars


def test_a_narrow_and_low_terminal_is_enough() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=30, height=6, color_system=None)
    painter = LivePainter(console, wants_all_news=False)
    painter.open()
    busy = tuple(running(f"a_rather_long_name_{i}") for i in range(10))
    painter.paint(snapshot(running=busy, counts={NodeState.RUNNING: 10}), [])
    painter.close()
    assert "a_rather_lon" in file.getvalue()
    assert all(len(line) < 60 for line in file.getvalue().splitlines())


async def test_only_one_run_at_a_time_draws_on_a_terminal() -> None:
    files = [io.StringIO(), io.StringIO()]
    go = asyncio.Event()

    @step
    async def waits() -> None:
        await go.wait()

    async def shown_run(file: io.StringIO) -> None:
        async with Pipeline("waiting", steps=[waits]).start() as run:
            await show_progress(run, terminal(file))

    async with asyncio.TaskGroup() as tasks:
        for file in files:
            tasks.create_task(shown_run(file))
        await until(lambda: all(file.getvalue() for file in files))
        go.set()
    assert "\x1b[?25l" in files[0].getvalue()
    assert "\x1b" not in files[1].getvalue()
    assert "waits succeeded in" in files[1].getvalue()


async def until(condition: Any) -> None:
    """Give the loop and other threads turns until something holds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what changes it is another thread
            await asyncio.sleep(0.001)


# -- the run does not suffer -------------------------------------------------------------


class Stuck(io.StringIO):
    """A terminal on which somebody pressed Ctrl-S."""

    def __init__(self) -> None:
        super().__init__()
        self.touched = threading.Event()
        self.released = threading.Event()

    def write(self, text: str) -> int:
        self.touched.set()
        assert self.released.wait(20)
        return super().write(text)


@pytest.mark.parametrize("force_terminal", [True, False])
async def test_a_terminal_that_stands_still_does_not_hold_the_run_up(force_terminal: bool) -> None:
    file = Stuck()

    @step
    async def ends_later() -> None:
        await until(file.touched.is_set)

    async with Pipeline("run", steps=[ends_later, good]).start() as run:
        showing = asyncio.create_task(
            show_progress(run, Console(file=file, force_terminal=force_terminal))
        )
        await run.wait()
        assert run.state is RunState.SUCCEEDED
        assert not showing.done()
        file.released.set()
        await showing
    assert "2" in file.getvalue()


class Gone(io.StringIO):
    """A terminal whose window was closed."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


async def test_a_terminal_that_is_gone_is_said_once_and_the_run_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Pipeline("run", steps=[good]).start() as run:
        await show_progress(run, Console(file=Gone()))
        assert (await run.result()).success
    assert caplog.messages == [
        "the progress display ended, its terminal is gone: [Errno 5] Input/output error"
    ]


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise RuntimeError("a fault of the display")


async def test_a_fault_of_the_display_is_logged_and_the_run_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Pipeline("run", steps=[good]).start() as run:
        await show_progress(run, terminal(Broken()))
        assert (await run.result()).success
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert "the run goes on without it" in record.message


async def test_of_a_large_run_no_event_is_built_once_it_runs() -> None:
    go = asyncio.Event()
    heard: list[bool] = []

    @step
    async def first() -> None:
        await go.wait()

    @step
    async def last(first: None) -> None:
        heard.append(run._record.bus.listening)

    pipeline = Pipeline("large", steps=[first, last])
    for number in range(300):
        pipeline.add_step(good, name=f"good_{number}")
    async with pipeline.start() as run:
        showing = asyncio.create_task(show_progress(run, Console(file=io.StringIO())))
        await until(lambda: run.snapshot(0).done == 300)
        go.set()
        await showing
    assert heard == [False]


async def test_a_display_that_is_cancelled_leaves_the_terminal_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Tty()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    go = asyncio.Event()

    @step
    async def waits() -> None:
        await go.wait()

    async with Pipeline("run", steps=[waits]).start() as run:
        showing = asyncio.create_task(show_progress(run))
        await until(lambda: "0/1" in stream.getvalue())
        assert sys.stderr is not stream
        showing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await showing
        assert sys.stderr is stream
        assert stream.getvalue().endswith("\x1b[?25h")
        assert run.state is RunState.RUNNING
        go.set()


# -- words -------------------------------------------------------------------------------


@given(st.text())
def test_what_is_shown_holds_nothing_that_moves_a_cursor(text: str) -> None:
    assert shown(text).isprintable()
    assert shown(text, lines=True).replace("\n", "").replace("\t", "").isprintable()
    if text.isprintable():
        assert shown(text) == text


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0.0, "0 ms"),
        (0.0456, "46 ms"),
        (0.1, "0.1 s"),
        (59.94, "59.9 s"),
        (60.0, "1:00"),
        (125.9, "2:05"),
        (3600.0, "1:00:00"),
        (100_000.0, "27:46:40"),
    ],
)
def test_a_duration_is_written_as_people_say_it(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_100_percent_means_all() -> None:
    assert percent(snapshot(done=9_999, total=10_000)) == "99 %"
    assert percent(snapshot(done=10_000, total=10_000)) == "100 %"
    assert percent(snapshot(done=0, total=0)) == "0 %"


def test_the_pace_is_that_of_the_last_seconds() -> None:
    pace = Pace()
    assert str(pace) == ""
    for tenth in range(1, 101):
        pace.see(snapshot(elapsed_seconds=tenth / 10, done=tenth))
    assert str(pace) == "10/s"
    for tenth in range(101, 201):
        pace.see(snapshot(elapsed_seconds=tenth / 10, done=100))
    assert str(pace) == ""
