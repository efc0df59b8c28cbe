"""Pictures of graphs: rails in a terminal, Mermaid, and DOT that Graphviz can read."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from hypothesis import given

from asyncflow.errors import GraphError
from asyncflow.graph.drawing import draw
from asyncflow.graph.node import Node
from tests.graph.building import ODD_NAMES, build, graphs, node, report


def test_an_unknown_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(GraphError) as caught:
        draw(report(), "pdf")
    assert str(caught.value) == (
        "there is no drawing format 'pdf'; the formats are 'text', 'mermaid', 'dot', 'svg'"
    )


# -- text ----------------------------------------------------------------------------


def test_a_terminal_shows_a_rail_from_each_step_to_its_children() -> None:
    graph = build(
        node("a"), node("b", "a"), node("c", "a"), node("d", "b", "c"), node("e", "d"), node("x")
    )
    assert draw(graph, "text").splitlines() == [
        "p: 6 steps",
        "○    a",
        "├─●  b",
        "● │  c",
        "●─┘  d",
        "●    e",
        "○    x",
    ]


def test_leaves_hang_off_the_rail_of_their_parent() -> None:
    graph = build(node("a"), node("b", "a"), node("c", "a"))
    assert draw(graph, "text").splitlines()[1:] == ["○    a", "├─●  b", "└─●  c"]


def test_rails_that_have_nothing_to_do_with_a_step_pass_by() -> None:
    graph = build(
        node("a"), node("b"), node("c"), node("use", "a", "c"), node("all", "a", "b", "c")
    )
    assert draw(graph, "text").splitlines()[1:] == [
        "○        a",
        "│ ○      b",
        "│ │ ○    c",
        "├─│─┼─●  use",
        "●─┴─┘    all",
    ]


def test_groups_are_framed() -> None:
    assert draw(report(), "text").splitlines() == [
        "p: 6 steps",
        "○      load → raw, config",
        "│    ╭─ prep, inline ─╮",
        "├─●  │ clean          │",
        "├─●  │ scale          │",
        "│ │  ╰────────────────╯",
        "│ ●    report ?",
        "│ ●    notify (after report)",
        "└─●    audit",
    ]


@given(graphs())
def test_the_picture_has_one_line_for_each_step_in_order(nodes: list[Node]) -> None:
    graph = build(*nodes)
    marked = [line for line in draw(graph, "text").splitlines() if re.match(r"^[^\w]*[○●]", line)]
    shown = [re.findall(r"n\d+", line)[0] for line in marked]
    assert shown == [graph.nodes[index].name for index in graph.order]
    roots = [bool(graph.parents[index]) for index in graph.order]
    assert ["●" in line for line in marked] == roots


def test_above_200_steps_each_level_is_one_line() -> None:
    wide = [f"w{i}" for i in range(1000)]
    graph = build(node("split"), *(node(name, "split") for name in wide), node("join", *wide))
    assert draw(graph, "text").splitlines() == [
        "p: 1,002 steps, summarised by level (it has more than 200)",
        "   1. split",
        "   2. 1,000 steps: w0, w1, w2, … 996 more …, w999  (1,000 edges from above)",
        "   3. join  (1,000 edges from above)",
    ]


def test_a_long_chain_is_cut_in_the_middle() -> None:
    graph = build(node("n0"), *(node(f"n{i}", f"n{i - 1}") for i in range(1, 1000)))
    lines = draw(graph, "text").splitlines()
    assert len(lines) == 1 + 61
    assert lines[50:53] == ["  50. n49", "      … 940 more levels …", " 991. n990"]
    assert lines[-1] == "1000. n999"


def test_a_picture_too_wide_to_follow_is_summarised() -> None:
    wide = [f"w{i}" for i in range(60)]
    assert "summarised by level (too wide to draw)" in draw(
        build(*map(node, wide), node("join", *wide)), "text"
    )


# -- mermaid -------------------------------------------------------------------------


def test_mermaid_has_groups_labels_dots_and_conditions() -> None:
    assert draw(report(), "mermaid").splitlines() == [
        "flowchart LR",
        '    subgraph g0["prep"]',
        '        n1["clean"]',
        '        n2["scale"]',
        "    end",
        '    n0["load"]',
        '    n3{"report ?"}',
        '    n4["notify"]',
        '    n5["audit"]',
        '    n0 -->|"raw"| n1',
        "    n1 --> n2",
        '    n0 -->|"config"| n2',
        "    n2 --> n3",
        "    n3 -.-> n4",
        '    n0 -->|"raw"| n5',
    ]


def test_assets_on_one_edge_share_a_label() -> None:
    graph = build(node("load", outputs=["raw", "config"]), node("use", "raw", "config"))
    assert '    n0 -->|"raw, config"| n1' in draw(graph, "mermaid").splitlines()


@pytest.mark.parametrize("name", ODD_NAMES)
def test_mermaid_gets_no_character_that_it_would_read_as_its_own(name: str) -> None:
    graph = build(node(name, execution_group="g"), node("use", name))
    for line in draw(graph, "mermaid").splitlines():
        for text in re.findall(r'"(.*?)"', line):
            assert not re.search(r'["<>\[\]{}()|\\]|#(?!\d+;)|&', text)
    text = draw(graph, "mermaid").splitlines()[2].strip().removeprefix('n0["').removesuffix('"]')
    assert re.sub(r"#(\d+);", lambda found: chr(int(found[1])), text) == name


# -- dot -----------------------------------------------------------------------------


def test_dot_has_clusters_labels_dots_and_diamonds() -> None:
    lines = [line.strip() for line in draw(report(), "dot").splitlines()]
    assert lines[0] == "digraph pipeline {"
    assert lines[-1] == "}"
    for line in [
        "rankdir=LR;",
        "subgraph cluster_0 {",
        'label="prep";',
        'n3 [label="report ?", shape=diamond, style=solid];',
        'n0 -> n1 [label="raw"];',
        "n1 -> n2;",
        "n3 -> n4 [style=dotted];",
    ]:
        assert line in lines


def graphviz(text: str) -> str:
    program = shutil.which("dot")
    if program is None:
        pytest.skip("Graphviz is not installed: nothing here can read the DOT text")
    return subprocess.run(
        [program, "-Tsvg"], input=text, capture_output=True, text=True, timeout=30, check=True
    ).stdout


def test_graphviz_reads_a_picture_with_groups() -> None:
    assert graphviz(draw(report(), "dot")).count('class="node"') == 6


def test_graphviz_shows_odd_names_as_they_are() -> None:
    graph = build(*(node(name) for name in ODD_NAMES))
    shown = graphviz(draw(graph, "dot"))
    assert shown.count('class="node"') == len(ODD_NAMES)
    for text in ["say &quot;hi&quot;", "a&lt;b&gt;&amp;amp;c", "back\\slash\\", ">two<", ">lines<"]:
        assert text in shown


@given(graphs())
def test_pictures_of_one_graph_are_always_the_same(nodes: list[Node]) -> None:
    for format in ("text", "mermaid", "dot", "svg"):
        assert draw(build(*nodes), format) == draw(build(*nodes), format)
