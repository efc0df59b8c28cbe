"""The chart of a run: nothing overlaps, and rows, ticks and retries mean what they say."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow import Pipeline, Retry, StepContext, step
from asyncflow.gantt import draw_gantt
from asyncflow.paper import LOOKS
from asyncflow.states import NodeState
from asyncflow.timeline import Bar
from tests.picturing import Box, Picture
from tests.virtual_time import run_virtually

GOOD, BAD = NodeState.SUCCEEDED, NodeState.FAILED


def bar(name: str, start: float, end: float, lane: str = "inline", **facts: Any) -> Bar:
    told: dict[str, Any] = {"step": name, "state": GOOD, **facts}
    return Bar(name=name, start_seconds=start, end_seconds=end, lane=lane, **told)


def svg_of(bars: Sequence[Bar], duration_seconds: float | None = None) -> str:
    last = max((bar.end_seconds for bar in bars), default=0.0)
    return draw_gantt(
        "crawl",
        "run r1 succeeded",
        bars,
        duration_seconds=last if duration_seconds is None else duration_seconds,
        counts=Counter(bar.state for bar in bars),
    )


def drawn(bars: Sequence[Bar], duration_seconds: float | None = None) -> Picture:
    return Picture(svg_of(bars, duration_seconds))


def faults(picture: Picture) -> list[object]:
    """Labels on labels or beyond the paper, bars on bars, and what a picture may not hold."""
    boxes = list(picture.boxes().values())
    piled = [
        (box, other)
        for place, box in enumerate(boxes)
        for other in boxes[:place]
        if box.overlaps(other)
    ]
    return [*picture.overlapping(), *picture.beyond(), *picture.foreign(), *piled]


def rows(picture: Picture) -> list[list[str]]:
    """The names of the bars, row by row."""
    found: dict[float, list[tuple[float, str]]] = {}
    for name, box in picture.boxes().items():
        found.setdefault(box.top, []).append((box.left, name))
    return [[name for _, name in sorted(found[top])] for top in sorted(found)]


# -- rows ----------------------------------------------------------------------------------


def test_bars_that_do_not_overlap_share_a_row() -> None:
    picture = drawn([bar("a", 0, 1), bar("b", 0.5, 2), bar("c", 1.2, 3), bar("d", 2.5, 4)])
    assert rows(picture) == [["a", "c"], ["b", "d"]]


def test_lanes_have_rows_of_their_own_the_event_loop_first() -> None:
    picture = drawn([bar("t", 0, 1, "thread"), bar("c", 2, 3), bar("p", 3, 4, "process")])
    assert rows(picture) == [["c"], ["t"], ["p"]]
    titles = [words for words in picture.words if ": 1 step, " in words]
    assert titles == [
        "event loop: 1 step, up to 1 at once",
        "threads: 1 step, up to 1 at once",
        "worker processes: 1 step, up to 1 at once",
    ]


def test_a_group_keeps_its_row_from_its_first_step_to_its_last() -> None:
    picture = drawn(
        [
            bar("read", 0, 1, "thread", group="g"),
            bar("other", 1.1, 1.9, "thread"),
            bar("write", 2, 3, "thread", group="g"),
        ]
    )
    assert rows(picture) == [["read", "write"], ["other"]]


def test_a_bar_is_as_long_as_its_step_took() -> None:
    boxes = drawn([bar("a", 0, 1), bar("b", 1.5, 3.5)], 4).boxes()
    assert boxes["b"].right - boxes["b"].left == pytest.approx(
        2 * (boxes["a"].right - boxes["a"].left), abs=0.3
    )


def test_how_many_ran_at_once_is_told() -> None:
    words = drawn([bar("a", 0, 2), bar("b", 1, 3), bar("c", 1.5, 1.7, "thread")]).words
    assert "at once: up to 3" in words
    assert "event loop: 2 steps, up to 2 at once" in words


def test_steps_that_follow_each_other_without_a_gap_never_ran_at_once() -> None:
    assert "at once: up to 1" in drawn([bar("a", 0, 1), bar("b", 1, 2)]).words


def test_a_mapped_step_does_not_hide_its_elements() -> None:
    picture = drawn([bar("fetch", 0, 3), bar("fetch[0]", 0, 1), bar("fetch[1]", 1, 3)])
    assert set(picture.boxes()) == {"fetch[0]", "fetch[1]"}


def test_nothing_ran() -> None:
    assert "Nothing ran." in drawn([], 1.0).words


# -- time ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seconds, labels",
    [
        (4e-5, ["0 µs", "20 µs", "40 µs"]),
        (0.25, ["0 ms", "50 ms", "250 ms"]),
        (3, ["0 s", "0.5 s", "3 s"]),
        (100, ["0 s", "10 s", "100 s"]),
        (1800, ["0 min", "5 min", "30 min"]),
        (90_000, ["0 h", "5 h", "25 h"]),
    ],
)
def test_ticks_are_round_and_of_a_fitting_unit(seconds: float, labels: list[str]) -> None:
    picture = drawn([bar("a", 0, seconds)])
    assert set(labels) < set(picture.words)
    units = {words.split()[1] for words in picture.words if words.split()[0][:1].isdigit()}
    assert units == {labels[0].split()[1]}


def test_a_tick_stands_where_its_moment_is() -> None:
    picture = drawn([bar("a", 0, 2), bar("b", 2, 4)])
    (tick,) = (label for label in picture.labels if label.words == "2 s")
    assert (tick.left + tick.right) / 2 == pytest.approx(picture.boxes()["b"].left, abs=0.2)


@given(st.floats(1e-7, 1e7))
def test_any_duration_has_at_least_two_ticks_that_do_not_touch(seconds: float) -> None:
    picture = drawn([bar("a", 0, seconds)])
    ticks = [label for label in picture.labels if label.words.split()[-1] in TICK_UNITS]
    assert len(ticks) >= 2
    assert not picture.overlapping()


TICK_UNITS = frozenset({"µs", "ms", "s", "min", "h"})


# -- states and retries ----------------------------------------------------------------------


def test_what_did_not_succeed_wears_its_badge() -> None:
    svg = svg_of([bar("good", 0, 1), bar("bad", 1, 2, state=BAD)])
    picture = Picture(svg)
    assert list(picture.badges()) == ["bad"]
    assert {"succeeded 1", "failed 1"} < set(picture.words)
    assert LOOKS[BAD].colour in svg


def test_a_retried_step_shows_its_tries() -> None:
    picture = drawn(
        [bar("flaky", 3, 4, attempts=3, earlier=((0.0, 1.0), (1.5, 2.0))), bar("next", 0.5, 0.9)]
    )
    assert "flaky (3 tries)" in picture.words
    assert rows(picture) == [["flaky"], ["next"]]
    hollow = [box for box in picture.rectangles if not box.words and box.bottom - box.top < 16]
    assert [round(box.right - box.left) for box in hollow] == [
        round((picture.boxes()["flaky"].right - picture.boxes()["flaky"].left) * share)
        for share in (1, 0.5)
    ]


def test_without_earlier_tries_a_dotted_line_shows_since_when() -> None:
    svg = svg_of([bar("flaky", 2, 3, attempts=2, queued_seconds=2.0)])
    assert 'stroke-dasharray="0.1 4"' in svg
    assert 'stroke-dasharray="0.1 4"' not in svg_of([bar("steady", 2, 3, queued_seconds=2.0)])


# -- legible at any size -----------------------------------------------------------------


@st.composite
def courses(draw: st.DrawFn) -> list[Bar]:
    """Bars anywhere in time, with names of any length."""
    moments = st.floats(0, 100)
    return [
        bar(
            f"{place}{draw(st.sampled_from(['', ' step', ' with a very much longer name']))}",
            start := draw(moments),
            start + draw(st.sampled_from([0.0, 0.001, 0.3, 5.0, 60.0])),
            draw(st.sampled_from(["inline", "thread"])),
            state=draw(st.sampled_from([GOOD, BAD, NodeState.TIMED_OUT])),
            attempts=draw(st.sampled_from([1, 1, 1, 3])),
            queued_seconds=draw(st.sampled_from([0.0, 20.0])),
            group=draw(st.sampled_from(["", "", "g", "h"])),
        )
        for place in range(draw(st.integers(1, 30)))
    ]


@given(courses())
def test_labels_never_overlap(bars: list[Bar]) -> None:
    # Members of a group follow each other: two that run at once are no course of a run.
    for group in ("g", "h"):
        last = 0.0
        for place, found in enumerate(bars):
            if found.group == group:
                length = found.end_seconds - found.start_seconds
                bars[place] = bar(
                    found.name,
                    last + 1,
                    last + 1 + length,
                    "thread",
                    state=found.state,
                    group=group,
                )
                last += 1 + length
    picture = drawn(bars)
    assert picture.overlapping() == []
    assert picture.beyond() == []
    assert picture.foreign() == []


@pytest.mark.parametrize("at_once", [1, 30, 400])
@pytest.mark.parametrize("count", [5, 50, 500])
def test_every_size_is_legible(count: int, at_once: int) -> None:
    bars = [
        bar(f"step {i}", i // at_once, i // at_once + 0.5 + 0.4 * (i % 7) / 7, "thread")
        for i in range(count)
    ]
    picture = drawn(bars)
    assert len(picture.boxes()) == count
    assert not faults(picture)
    # Bars too short to see are drawn wider, and then two that nearly touch need two rows.
    assert min(count, at_once) <= len(rows(picture)) <= 2 * at_once


def test_above_800_steps_each_kind_is_one_row() -> None:
    bars = [
        bar(f"{kind} {i}", i / 10, i / 10 + 1, step=kind, state=BAD if i == 77 else GOOD)
        for i in range(500)
        for kind in ("fetch", "parse")
    ]
    picture = drawn(bars)
    assert "more than 800 steps: how many of each kind ran at once" in picture.words
    assert {"fetch", "parse"} < set(picture.words)
    assert "event loop: 500 steps, up to 10 at once" in picture.words
    assert not picture.boxes()
    assert not faults(picture)


def test_a_hundred_kinds_are_summed_up_by_lane() -> None:
    names = [f"{chr(97 + i // 26)}{chr(97 + i % 26)}x" for i in range(100)]
    bars = [bar(name, i, i + 1) for i in range(9) for name in names]
    picture = drawn(bars)
    assert picture.words.count("event loop: 900 steps, up to 100 at once") == 1
    assert not faults(picture)


@pytest.mark.parametrize("name", ['<a href="x">&amp;', "]]>", "\x00\u202e", "木" * 40])
def test_a_name_is_text_and_nothing_else(name: str) -> None:
    picture = drawn([bar(name, 0, 1), bar("short", 1, 1.0001)])
    assert not faults(picture)


def test_the_same_course_gives_the_same_chart() -> None:
    bars = [bar(f"s{i}", i / 3, i / 3 + 1) for i in range(9)]
    assert svg_of(bars) == svg_of(bars[::-1])


# -- of a real run ---------------------------------------------------------------------------


def test_a_result_draws_its_run() -> None:
    @step(outputs=["pages"])
    async def find() -> list[int]:
        await asyncio.sleep(1)
        return [1, 2, 3]

    @step(retry=Retry(1, wait_initial=2, wait_jitter=0))
    async def fetch(pages: int, context: StepContext) -> int:
        await asyncio.sleep(pages)
        if pages == 2 and context.attempt == 1:
            raise ConnectionError("again")
        return pages

    @step(condition=lambda: False)
    async def never(fetch: list[int]) -> None: ...

    pipeline = Pipeline("crawl").add_step(find).add_step(fetch, map="pages").add_step(never)
    result = run_virtually(pipeline.run(run_id="r1"))
    picture = Picture(result.gantt())
    assert set(picture.boxes()) == {"find", "fetch[0]", "fetch[1]", "fetch[2]"}
    assert "fetch[1] (2 tries)" in picture.words
    assert {"skipped 1", "run r1 succeeded in 7 s"} < set(picture.words)
    assert not faults(picture)


def test_the_chart_is_well_formed_xml_with_a_view_box() -> None:
    root = ElementTree.fromstring(svg_of([bar("a", 0, 1)]))
    assert root.attrib["viewBox"] == f"0 0 {root.attrib['width']} {root.attrib['height']}"
    assert Box(0, 0, float(root.attrib["width"]), float(root.attrib["height"])).right == 1200
