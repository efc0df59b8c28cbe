"""The census: what it counts, which charts it draws, and that its ways to start all work."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow import NodeState
from examples.census.charts import CHARTS, draw_all
from examples.census.facts import LineCounts, count_lines, parse_file
from examples.census.pipeline import census_pipeline
from examples.census.sources import FILES_PER_BATCH, SINGLE_MODULES, batches_of
from examples.census.svg import Drawing, mixed, round_ticks
from examples.census.totals import Census, add_up
from examples.census.treemap import Box, squarify

ROOT = Path(__file__).resolve().parents[2]
WORK = '''\
    """Work."""
    import os
    import os.path, sys
    from collections import abc
    from . import other

    # one comment
    class Worker:
        def work(self, items):
            for item in items:
                if item:
                    yield item

    def outer():
        def inner():
            return [x for x in () if x]
        return inner if inner else None
'''


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small library: two packages, a single module, tests, and files that do not count."""
    root = tmp_path / "library"
    sources = {
        "alone.py": "import re\n\n\ndef one(): return re\n",
        "pack/__init__.py": "",
        "pack/work.py": dedent(WORK),
        "pack/tests/test_work.py": "import unittest\nimport pack\n\n\ndef test_it():\n    pass\n",
        "wrong/broken.py": "def (:\n",
        "site-packages/installed.py": "x = 1\n",
        "pack/__pycache__/left.py": "x = 1\n",
        "pack/notes.txt": "no Python\n",
    }
    for name, source in sources.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source, encoding="utf-8")
    return root


def _run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )


# -- the pipeline ----------------------------------------------------------------------------


async def test_every_file_is_counted_once_and_installed_ones_are_left_out(
    tree: Path, tmp_path: Path
) -> None:
    result = await census_pipeline(tree).run({"out": str(tmp_path / "out")})
    census: Census = result["census"]
    found = {str(file.path) for package in census.packages for file in package.files}
    assert found == {
        "alone.py",
        "pack/__init__.py",
        "pack/work.py",
        "pack/tests/test_work.py",
        "wrong/broken.py",
    }
    assert census.files == 5
    assert [file.module for file in census.refused] == ["wrong.broken"]


async def test_the_report_shows_every_chart(tree: Path, tmp_path: Path) -> None:
    result = await census_pipeline(tree).run({"out": str(tmp_path / "out")})
    _check_report(result["report"])


def _check_report(path: Path) -> None:
    written = path.read_text(encoding="utf-8")
    for name in CHARTS:
        assert f"]({name})" in written
        ElementTree.parse(path.parent / name)
    assert "# A census of library" in written
    assert "`pack.work.work`" in written
    assert "`wrong/broken.py`" in written


async def test_a_quick_census_skips_parsing_and_still_reports(tree: Path, tmp_path: Path) -> None:
    result = await census_pipeline(tree).run({"out": str(tmp_path), "quick": True})
    assert result.success
    states = {name: step.status for name, step in result.step_results.items()}
    assert {state for name, state in states.items() if name.startswith("parse ")} == {
        NodeState.SKIPPED
    }
    assert states["write"] is NodeState.SUCCEEDED
    assert {name for name in CHARTS if (tmp_path / name).exists()} == {
        "lines-by-package.svg",
        "map-of-lines.svg",
    }


async def test_charts_of_an_earlier_census_do_not_stay(tree: Path, tmp_path: Path) -> None:
    pipeline = census_pipeline(tree)
    await pipeline.run({"out": str(tmp_path)})
    assert (tmp_path / "branching.svg").exists()
    await pipeline.run({"out": str(tmp_path), "quick": True})
    assert not (tmp_path / "branching.svg").exists()


async def test_a_file_system_that_hiccups_is_asked_again(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_bytes = Path.read_bytes
    failures = [OSError("stale file handle")]

    def hiccup(path: Path) -> bytes:
        if path.name == "broken.py" and failures:
            raise failures.pop()
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", hiccup)
    result = await census_pipeline(tree).run({"out": str(tmp_path), "quick": True})
    assert result.success
    assert result.step_results["read wrong"].attempts == 2
    assert result.step_results["read pack"].attempts == 1


async def test_sources_are_let_go_once_they_are_parsed(tree: Path, tmp_path: Path) -> None:
    result = await census_pipeline(tree).run({"out": str(tmp_path)})
    assert result.get("sources of pack") is None
    assert set(result.outputs) >= {"report", "census"}


def test_the_report_is_one_group(tree: Path) -> None:
    groups = census_pipeline(tree).step_groups
    assert [group.execution_order for group in groups] == [["add_up", "draw", "write"]]


def test_large_packages_come_in_several_batches(tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    for number in range(FILES_PER_BATCH + 1):
        (tmp_path / "big" / f"m{number:04}.py").touch()
    (tmp_path / "one.py").touch()
    batches = batches_of(tmp_path)
    assert [(batch.name, batch.package, len(batch.paths)) for batch in batches] == [
        ("big 1", "big", FILES_PER_BATCH),
        ("big 2", "big", 1),
        (SINGLE_MODULES, SINGLE_MODULES, 1),
    ]


def test_a_folder_without_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no Python files"):
        batches_of(tmp_path)


# -- the ways to start it --------------------------------------------------------------------


def test_the_module_runs_as_a_program(tree: Path, tmp_path: Path) -> None:
    ended = _run("-m", "examples.census", "--root", str(tree), cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "the report is census-report/README.md" in ended.stdout
    assert (tmp_path / "census-report" / "branching.svg").exists()


def test_the_pipeline_is_found_by_its_file(tmp_path: Path) -> None:
    target = f"{ROOT / 'examples' / 'census' / 'pipeline.py'}:pipeline"
    options = ["--input", "quick=true", "--input", f"out={tmp_path / 'here'}"]
    ended = _run("-m", "asyncflow", "run", target, *options, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "quick census" in (tmp_path / "here" / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_whole_standard_library_is_counted(tmp_path: Path) -> None:
    ended = _run("-W", "error", "-m", "examples.census", "--out", "all", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    report = (tmp_path / "all" / "README.md").read_text(encoding="utf-8")
    assert "standard library" in report
    assert "| asyncio |" in report


# -- facts -----------------------------------------------------------------------------------


def test_lines_are_code_comments_or_blank() -> None:
    found = count_lines(Path("a.py"), "p", b"# one\n\nx = 1  # not a comment line\n   \n\t# two")
    assert (found.code, found.comments, found.blank, found.lines) == (1, 2, 2, 5)


def test_a_branch_counts_for_the_innermost_function() -> None:
    found = parse_file(Path("pack/work.py"), "pack", dedent(WORK).encode())
    assert {f.name: (f.lines, f.branches) for f in found.functions} == {
        "work": (4, 2),
        "inner": (2, 1),
        "outer": (4, 1),
    }
    assert found.classes == 1
    assert found.module == "pack.work"


def test_only_absolute_imports_are_counted_by_their_first_name() -> None:
    found = parse_file(Path("pack/work.py"), "pack", dedent(WORK).encode())
    assert found.imports == {"os", "sys", "collections"}


def test_what_the_parser_refuses_is_a_fact_with_a_reason() -> None:
    found = parse_file(Path("bad.py"), "p", b"def (:\n")
    assert "invalid syntax" in found.fault
    assert found.functions == ()


def test_odd_escapes_in_parsed_files_warn_nobody(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text("x = '\\d'\n", encoding="utf-8")
    ended = _run("-W", "error", "-m", "examples.census", "--root", ".", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    report = (tmp_path / "census-report" / "README.md").read_text(encoding="utf-8")
    assert "Refused" not in report
    assert ended.stderr == ""


# -- charts ----------------------------------------------------------------------------------


def test_names_with_markup_in_them_are_escaped() -> None:
    counts = LineCounts(Path("<&>/a.py"), "<&>", 5, 1, 1)
    for name, drawing in draw_all(add_up("<script>", [counts], None)).items():
        text = "".join(ElementTree.fromstring(drawing).itertext())
        assert "<&>" in text, name


def test_a_census_of_empty_files_can_be_drawn() -> None:
    counts = LineCounts(Path("a.py"), "single", 0, 0, 0)
    facts = parse_file(Path("a.py"), "single", b"")
    for drawing in draw_all(add_up("nothing", [counts], [facts])).values():
        ElementTree.fromstring(drawing)


def test_a_hint_becomes_the_title_of_its_shape() -> None:
    drawing = Drawing("t", "s")
    drawing.circle(1, 2, 3, "#000000", hint="a & b")
    names = {"svg": "http://www.w3.org/2000/svg"}
    circle = ElementTree.fromstring(str(drawing)).find("svg:circle/svg:title", names)
    assert circle is not None
    assert circle.text == "a & b"


@given(
    st.lists(st.integers(1, 100_000), min_size=1, max_size=60),
    st.floats(20, 1000),
    st.floats(20, 1000),
)
def test_a_treemap_divides_its_box_by_weight(
    weights: list[int], width: float, height: float
) -> None:
    weights.sort(reverse=True)
    boxes = squarify(weights, Box(10, 20, width, height))
    per_weight = width * height / sum(weights)
    for weight, box in zip(weights, boxes, strict=True):
        assert math.isclose(box.width * box.height, weight * per_weight, rel_tol=1e-6)
        assert box.x >= 10 - 1e-6
        assert box.y >= 20 - 1e-6
        assert box.x + box.width <= 10 + width + 1e-6
        assert box.y + box.height <= 20 + height + 1e-6


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=20))
def test_the_boxes_of_a_treemap_do_not_overlap(weights: list[int]) -> None:
    boxes = squarify(sorted(weights, reverse=True), Box(0, 0, 400, 300))
    for number, one in enumerate(boxes):
        for other in boxes[number + 1 :]:
            width = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
            height = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
            assert width < 1e-6 or height < 1e-6


@given(st.floats(1e-3, 1e9), st.integers(3, 10))
def test_ticks_are_few_round_and_reach_far(high: float, at_most: int) -> None:
    ticks = list(round_ticks(high, at_most))
    assert ticks[0] == 0
    assert ticks[-1] <= high * (1 + 1e-9)
    assert 1 < len(ticks) <= at_most + 1


def test_colours_are_mixed_along_their_row() -> None:
    row = ["#000000", "#808080", "#ffffff"]
    assert [mixed(row, share) for share in (0, 0.5, 1)] == row
    assert mixed(row, 0.25) == "#404040"
