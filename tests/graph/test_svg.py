"""A graph as SVG: everything is there, nothing stands in the way of anything, at any size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow import Pipeline, step
from asyncflow.errors import GraphError
from asyncflow.graph.drawing import draw
from asyncflow.graph.graph import Graph
from asyncflow.graph.layering import Block, Wire, lay_out_columns
from asyncflow.graph.layout import lay_out
from asyncflow.graph.node import Node
from asyncflow.paper import LOOKS, shortened, text_width
from asyncflow.states import NODE_STATES, NodeState
from examples.replay import load_graph, pipeline_of
from tests.graph.building import ODD_NAMES, build, graphs, node, report
from tests.picturing import Box, Picture
from tests.test_workflows import FILES

ROOT = Path(__file__).resolve().parents[2]
LONG = "a step whose name is far too long to be shown in the box of any picture whatsoever"


def drawn(graph: Graph, states: dict[str, NodeState] | None = None) -> Picture:
    return Picture(draw(graph, "svg", states))


def all_in(graph: Graph, state: NodeState) -> dict[str, NodeState]:
    return {node.name: state for node in graph.nodes}


def faults(picture: Picture) -> list[object]:
    """What no picture may have: labels on labels, on the rim, or on a box of others."""
    return [*picture.overlapping(), *picture.beyond(), *picture.foreign(), *_collisions(picture)]


def _collisions(picture: Picture) -> list[tuple[str, str]]:
    """Boxes of steps that overlap, and labels that stand half on a box."""
    boxes = list(picture.boxes().values())
    found = []
    for place, box in enumerate(boxes):
        found += [("box", "box") for other in boxes[:place] if box.overlaps(other)]
        found += [
            ("box", label.words)
            for label in picture.labels
            if box.overlaps(label) and not box.holds(label)
        ]
    return found


# -- what is there -----------------------------------------------------------------------


def test_steps_groups_assets_and_conditions_are_written() -> None:
    words = drawn(report()).words
    assert words[:2] == ["p", "6 steps, 1 group"]
    assert {"load", "clean", "scale", "report ?", "notify", "audit"} < set(words)
    assert {"raw", "config", "prep · inline"} < set(words)


def test_an_asset_named_as_its_producer_is_not_written_twice() -> None:
    assert drawn(build(node("a"), node("b", "a"))).words.count("a") == 1


def test_steps_stand_right_of_what_they_wait_for() -> None:
    boxes = drawn(report()).boxes()
    assert boxes["load"].right < boxes["audit"].left
    assert boxes["scale"].right < boxes["report"].left
    assert boxes["report"].right < boxes["notify"].left


def test_a_group_is_a_frame_around_its_steps_in_their_order() -> None:
    picture = drawn(report())
    boxes = picture.boxes()
    (frame,) = (rect for rect in picture.rectangles if rect.words == "prep · inline")
    assert {name for name, box in boxes.items() if frame.holds(box)} == {"clean", "scale"}
    assert boxes["clean"].bottom < boxes["scale"].top
    assert not any(frame.overlaps(boxes[name]) for name in ("load", "report", "audit"))


def test_an_arrow_ends_at_every_step_that_takes_something() -> None:
    picture = drawn(report())
    tips = " ".join(path for path in picture.paths if "l-7 -3.5v7z" in path)
    ends = {name: (box.left, (box.top + box.bottom) / 2) for name, box in picture.boxes().items()}
    for name in ("clean", "scale", "report", "notify", "audit"):
        assert f"M{ends[name][0]:g} {ends[name][1]:g}l-7" in tips
    assert f"M{ends['load'][0]:g} {ends['load'][1]:g}l-7" not in tips


def test_order_without_a_value_is_dashed() -> None:
    assert 'stroke-dasharray="4 4"' in draw(build(node("a"), node("b", after=["a"])), "svg")
    assert 'stroke-dasharray="4 4"' not in draw(build(node("a"), node("b", "a")), "svg")


def test_a_long_name_is_shortened_and_kept_whole_in_its_hint() -> None:
    picture = drawn(build(node(LONG), node("use", LONG)))
    (shown,) = (words for words in picture.words if "…" in words)
    start, _, end = shown.partition("…")
    assert LONG.startswith(start)
    assert LONG.endswith(end)
    assert any(hint.startswith(LONG) for hint in picture.hints)
    assert not faults(picture)


def test_a_long_asset_is_shortened_and_kept_whole_in_its_hint() -> None:
    picture = drawn(build(node("make", outputs=[LONG]), node("use", LONG)))
    assert LONG in picture.hints
    assert not faults(picture)


def test_what_every_name_begins_with_is_left_out() -> None:
    graph = build(*(node(f"NFCORE.RNASEQ.{name}") for name in ("ALIGN", "SORT", "INDEX")))
    assert {"…ALIGN", "…SORT", "…INDEX"} < set(drawn(graph).words)


@pytest.mark.parametrize(
    "name", [*ODD_NAMES, "]]>", "<script>alert(1)</script>", "\x00\x1b\ud800\u202e"]
)
def test_a_name_is_text_and_nothing_else(name: str) -> None:
    svg = draw(build(node(name, execution_group="g"), node("use", name)), "svg")
    picture = Picture(svg)
    assert not faults(picture)
    svg.encode("utf-8")
    if name.isprintable():
        assert name in picture.words


# -- states ------------------------------------------------------------------------------


def test_states_have_a_colour_a_badge_and_a_place_in_the_legend() -> None:
    chain = build(node("n0"), *(node(f"n{i}", f"n{i - 1}") for i in range(1, len(NODE_STATES))))
    states = {f"n{place}": state for place, state in enumerate(NODE_STATES)}
    svg = draw(chain, "svg", states, "run r1 failed")
    picture = Picture(svg)
    for state in NODE_STATES:
        assert f"{state.replace('_', ' ')} 1" in picture.words
        assert LOOKS[state].colour in svg
    assert len(set(picture.badges().values())) == len(NODE_STATES)
    assert "10 steps, run r1 failed" in picture.words
    assert not faults(picture)


def test_colours_are_not_needed_to_tell_states_apart() -> None:
    assert len({(look.outline, look.sign) for look in LOOKS.values()}) == len(NodeState)
    assert set(LOOKS) == set(NodeState)


def test_a_step_that_is_not_part_of_the_run_stays_plain() -> None:
    picture = drawn(report(), {"load": NodeState.SUCCEEDED})
    assert list(picture.badges()) == ["load"]
    assert any(hint.endswith("not part of the run") for hint in picture.hints)


def test_a_mapped_step_counts_its_elements() -> None:
    @step
    async def pages() -> list[int]:
        return [1, 2, 3]

    @step
    async def fetch(pages: int) -> int:
        return pages

    pipeline = Pipeline("crawl").add_step(pages).add_step(fetch, map="pages")
    assert any("once for each of pages" in hint for hint in drawn(pipeline.build()).hints)
    states = {f"fetch[{place}]": NodeState.SUCCEEDED for place in range(2)}
    states |= {"fetch[2]": NodeState.FAILED, "pages": NodeState.SUCCEEDED}
    picture = drawn(pipeline.build(), {**states, "fetch": NodeState.FAILED})
    assert {"fetch × 3", "succeeded 3", "failed 1"} < set(picture.words)
    assert {"2 succeeded", "1 failed"} < set(picture.hints)


def test_a_run_colours_the_picture() -> None:
    @step
    async def good() -> int:
        return 1

    @step
    async def bad(good: int) -> int:
        raise ValueError(good)

    pipeline = Pipeline("p", steps=[good, bad])
    result = pipeline.run_sync(run_id="r1")
    assert {"succeeded 1", "failed 1", "2 steps, run r1 failed"} < set(
        Picture(pipeline.visualize("svg", run=result)).words
    )
    other = Pipeline("other", steps=[good.with_options(name="lonely")])
    with pytest.raises(GraphError, match="not its own"):
        other.visualize("svg", run=result)
    with pytest.raises(GraphError, match="'svg' only, not 'dot'"):
        pipeline.visualize("dot", run=result)


async def test_a_run_in_progress_colours_the_picture() -> None:
    @step
    async def look(pictures: list[str]) -> None:
        async with pipeline.start({"pictures": []}, run_id="nested") as other:
            pictures.append(pipeline.visualize("svg", run=other))
            await other.cancel()

    pipeline = Pipeline("p", steps=[look])
    pictures: list[str] = []
    async with pipeline.start({"pictures": pictures}, run_id="r1") as run:
        drawing = Picture(pipeline.visualize("svg", run=run))
        await run.cancel()
    assert "1 step, run r1 running" in drawing.words
    assert "waiting 1" in drawing.words


# -- legible at any size -----------------------------------------------------------------


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("with_states", [False, True])
def test_no_labels_overlap_in_recorded_workflows(
    shared_workflows: Path, file: str, with_states: bool
) -> None:
    graph = pipeline_of(load_graph(shared_workflows / file)).build()
    states = all_in(graph, NodeState.UPSTREAM_FAILED) if with_states else None
    assert not faults(drawn(graph, states))


def test_no_labels_overlap_in_the_census() -> None:
    from examples.census.pipeline import pipeline

    graph = pipeline.build()
    picture = drawn(graph, all_in(graph, NodeState.SUCCEEDED))
    assert len(picture.boxes()) == len(graph)
    assert not faults(picture)


@given(graphs())
def test_no_labels_overlap_in_any_graph(nodes: list[Node]) -> None:
    picture = drawn(build(*nodes))
    assert set(picture.boxes()) == {node.name for node in nodes}
    assert not faults(picture)


def chain(count: int) -> Graph:
    return build(node("n0"), *(node(f"n{i}", f"n{i - 1}") for i in range(1, count)))


def fan(count: int) -> Graph:
    names = [f"w{i}" for i in range(count - 2)]
    return build(node("split"), *(node(name, "split") for name in names), node("join", *names))


def apart(count: int) -> Graph:
    return build(*(node(f"n{i}") for i in range(count)))


@pytest.mark.parametrize("shape", [chain, fan, apart])
@pytest.mark.parametrize("count", [5, 50, 500])
def test_every_size_is_legible_and_neither_a_tower_nor_a_thread(shape: object, count: int) -> None:
    assert callable(shape)
    picture = drawn(shape(count))
    assert len(picture.boxes()) == count
    assert not faults(picture)
    width, height = picture.size
    assert count == 5 or 1 / 4 < width / height < 20


def test_a_chain_goes_on_in_the_next_row() -> None:
    boxes = drawn(chain(500)).boxes()
    order = [(boxes[f"n{i}"].top, boxes[f"n{i}"].left) for i in range(500)]
    assert order == sorted(order)
    assert len({top for top, _ in order}) > 5


# -- more than anybody can look at -------------------------------------------------------


def test_above_800_steps_those_of_one_level_and_kind_are_one_box() -> None:
    names = [f"w{i}" for i in range(1000)]
    graph = build(node("split"), *(node(name, "split") for name in names), node("join", *names))
    states = all_in(graph, NodeState.SUCCEEDED) | {"w17": NodeState.FAILED}
    picture = drawn(graph, states)
    assert {"split", "w × 1,000", "join"} < set(picture.words)
    assert "more than 800 steps: those of one level and kind are one box" in picture.words
    assert {"999 succeeded", "1 failed"} < set(picture.hints)
    assert picture.badges()["1,000 steps: w0, w1, w2, …"].startswith(
        LOOKS[NodeState.FAILED].outline
    )
    assert not faults(picture)


def test_a_summary_says_that_groups_are_left_out() -> None:
    names = [f"w{i}" for i in range(801)]
    words = drawn(build(*(node(name, execution_group="g") for name in names))).words
    assert any(line.endswith("groups are left out") for line in words)


def test_too_many_edges_are_summarised_too() -> None:
    upper = [f"a{i}" for i in range(70)]
    graph = build(*map(node, upper), *(node(f"b{i}", *upper) for i in range(70)))
    assert {"a × 70", "b × 70"} < set(drawn(graph).words)


def test_a_chain_of_thousands_is_drawn_by_bands_of_levels() -> None:
    picture = drawn(chain(5000))
    assert "more than 800 steps: 84 levels are one box" in picture.words
    assert len(picture.boxes()) == 60
    assert not faults(picture)


# -- always the same ---------------------------------------------------------------------


def test_the_same_graph_gives_the_same_picture_in_another_process() -> None:
    program = (
        "import sys; from tests.graph.test_svg import report; from asyncflow.graph.drawing import "
        "draw; sys.stdout.buffer.write(draw(report(), 'svg').encode())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PATH": "", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            timeout=30,
            check=True,
        ).stdout.decode()
        for seed in ("1", "2")
    }
    assert seen == {draw(report(), "svg")}


# -- the layout itself -------------------------------------------------------------------


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[Block], list[Wire]]:
    """Blocks of any size, and wires from earlier ones to later ones."""
    pixels = st.floats(10, 300)
    blocks = [
        Block(draw(pixels), draw(pixels), draw(st.sampled_from([0.0, 50.0])))
        for _ in range(draw(st.integers(1, 25)))
    ]
    wires = []
    for end in range(1, len(blocks)):
        for start in draw(st.sets(st.integers(0, end - 1), max_size=4)):
            out = blocks[start].height * draw(st.sampled_from([0.3, 0.5]))
            kind = draw(st.sampled_from(["value", "after"]))
            wires.append(Wire((start, out), (end, blocks[end].height / 2), kind))
    return blocks, wires


@given(layouts())
def test_blocks_never_overlap_and_lie_within_the_layout(
    given_layout: tuple[list[Block], list[Wire]],
) -> None:
    blocks, wires = given_layout
    found = lay_out(blocks, wires)
    whole = Box(0, 0, found.width, found.height)
    rooms = [
        Box(x, y, x + width + block.tail, y + block.height)
        for block, (x, y), width in zip(blocks, found.places, found.widths, strict=True)
    ]
    for place, room in enumerate(rooms):
        assert whole.holds(Box(room.left, room.top, room.right - blocks[place].tail, room.bottom))
        assert not any(room.overlaps(other) for other in rooms[:place])
    assert all(w >= b.width - 0.01 for w, b in zip(found.widths, blocks, strict=True))


@given(layouts())
def test_lines_go_from_column_to_column_and_reach_every_end(
    given_layout: tuple[list[Block], list[Wire]],
) -> None:
    blocks, wires = given_layout
    layered = lay_out_columns(blocks, wires)
    assert sorted(v for column in layered.columns for v in column) == list(
        range(len(layered.column_of))
    )
    follows: dict[tuple[int, tuple[int, float]], set[tuple[int, float]]] = {}
    for piece in layered.segments:
        assert layered.column_of[piece.end[0]] == layered.column_of[piece.start[0]] + 1
        follows.setdefault((piece.net, piece.start), set()).add(piece.end)
    for wire in wires:
        assert any(
            wire.end in _reached(follows, net, wire.start)
            for net, found in enumerate(layered.nets)
            if found.kind == wire.kind and found.anchor in (wire.start, wire.end)
        )


def _reached(
    follows: dict[tuple[int, tuple[int, float]], set[tuple[int, float]]],
    net: int,
    start: tuple[int, float],
) -> set[tuple[int, float]]:
    reached, left = set(), [start]
    while left:
        for end in follows.get((net, left.pop()), ()):
            if end not in reached:
                reached.add(end)
                left.append(end)
    return reached


# -- text --------------------------------------------------------------------------------


def test_the_last_parts_of_a_long_name_stay_whole_where_they_fit() -> None:
    name = "NFCORE_RNASEQ.RNASEQ.BAM_RSEQC.RSEQC_BAMSTAT_128"
    assert shortened(name, 250, 12) == "…BAM_RSEQC.RSEQC_BAMSTAT_128"
    assert shortened(name, 170, 12) == "…RSEQC_BAMSTAT_128"
    assert shortened("…RSEQC_BAMSTAT_128", 60, 12) == "…_128"
    assert shortened("imports_of_customers_of_the_north/fetch", 150, 12) == "imports…e_north/fetch"


def test_the_tasks_of_a_recorded_workflow_are_told_apart_by_their_last_parts(
    shared_workflows: Path,
) -> None:
    workflow = load_graph(shared_workflows / "rnaseq-nextflow.json")
    shown = set(Picture(pipeline_of(workflow).visualize("svg")).words)
    last_parts = {task.id.rpartition(".")[2] for task in workflow.tasks}
    cut = {part for part in last_parts if not any(words.endswith(part) for words in shown)}
    assert len(cut) <= 0.05 * len(last_parts), cut


@given(st.text(max_size=60), st.floats(0, 400), st.booleans())
def test_shortened_words_fit_and_keep_both_ends(words: str, width: float, bold: bool) -> None:
    shown = shortened(words, width, 12, bold=bold)
    assert text_width(shown, 12, bold=bold) <= width
    if shown != words and shown:
        start, _, end = shown.partition("…") if "…" not in words else (shown[:0], "", "")
        assert words.startswith(start)
        assert words.endswith(end)
