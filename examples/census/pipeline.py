"""The pipeline of the census: read, count and parse side by side, then report as a group.

For each batch of files::

    read ──┬─▶ count ───────────────┐
           └─▶ parse (not if quick) ┴─▶ ⟦ report: add up ─▶ draw ─▶ write ⟧
    prepare ──────────────────────────────────────────────▲

The batches are known when the pipeline is built, so each has nodes of its own. Counting and
parsing start after the last file is read: threads that parse keep the interpreter busy, and a
read that has to ask for it again and again takes a hundred times as long beside them.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from asyncflow import Pipeline, ResourceRequirements, Retry, StepContext, step

if not __package__:
    # Loaded as a file, this module has no package around it that could find the others.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.census import charts, report, totals
from examples.census.facts import FileFacts, LineCounts, count_lines, parse_file
from examples.census.sources import Batch, batches_of, name_of, standard_library
from examples.census.totals import Census

__all__ = ["census_pipeline", "pipeline"]

Sources = dict[Path, bytes]


# -- for each batch --------------------------------------------------------------------------


@step(retry=Retry(2, on=OSError), timeout=30)
async def read(batch: Batch) -> Sources:
    """Read the files of a batch at once; a file system that hiccups is asked again."""
    found = await asyncio.gather(
        *(asyncio.to_thread((batch.root / path).read_bytes) for path in batch.paths)
    )
    return dict(zip(batch.paths, found, strict=True))


@step
def count(sources: Sources, batch: Batch) -> list[LineCounts]:
    """Count lines of code, comments and blank lines."""
    return [count_lines(path, batch.package, source) for path, source in sources.items()]


def is_thorough(quick: bool = False) -> bool:
    """A quick census does not parse."""
    return not quick


@step(condition=is_thorough, resources=ResourceRequirements(cpu=1, memory="200Mi"))
def parse(sources: Sources, batch: Batch, context: StepContext) -> list[FileFacts]:
    """Parse the files one by one; it ends early when it is cancelled."""
    found: list[FileFacts] = []
    for path, source in sources.items():
        context.raise_if_cancelled()
        found.append(parse_file(path, batch.package, source))
        context.report(len(found), total=len(sources), message=path.name)
    return found


# -- once ------------------------------------------------------------------------------------


@step
async def all_read() -> None:
    """Where reading ends and work that keeps the interpreter busy begins."""


@step
def prepare(out: str = "census-report") -> None:
    """Make the folder of the report and clear it of an earlier one's charts."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for name in charts.CHARTS:
        (folder / name).unlink(missing_ok=True)


@step(outputs=["census"], execution_group="report")
def add_up(
    lines: list[list[LineCounts]], about: str, parsed: list[list[FileFacts]] | None = None
) -> Census:
    """Bring all batches together; without the parser's part when that was skipped."""
    flat = None if parsed is None else [found for batch in parsed for found in batch]
    return totals.add_up(about, (found for batch in lines for found in batch), flat)


@step(outputs=["drawn"], execution_group="report")
def draw(census: Census, out: str = "census-report") -> list[str]:
    """Draw the charts that there are figures for."""
    drawings = charts.draw_all(census)
    for name, drawing in drawings.items():
        (Path(out) / name).write_text(drawing, encoding="utf-8")
    return list(drawings)


@step(outputs=["report"], execution_group="report")
def write(
    census: Census, drawn: list[str], context: StepContext, out: str = "census-report"
) -> Path:
    """Write the report around the charts."""
    path = Path(out) / "README.md"
    path.write_text(report.as_markdown(census, drawn), encoding="utf-8")
    context.logger.info("wrote %s with %d charts", path, len(drawn))
    return path


# -- the graph -------------------------------------------------------------------------------


def census_pipeline(root: Path) -> Pipeline:
    """The census of all Python files below ``root``.

    A run takes two inputs, both with defaults: ``out``, the folder of the report, and
    ``quick``, true to count lines and parse nothing.

    Raises:
        FileNotFoundError: there are no Python files.
    """
    batches = batches_of(root)
    # Only what is named here is kept: the sources go once a batch is counted and parsed.
    census = Pipeline("census", outputs=["report", "census"])
    for batch in batches:
        name, params = batch.name, {"batch": batch}
        sources = {"sources": f"sources of {name}"}
        census.add_step(read, f"read {name}", params, outputs=[f"sources of {name}"])
        for work, made in ((count, "lines"), (parse, "facts")):
            census.add_step(
                work,
                f"{work.name} {name}",
                params,
                after=[all_read],
                inputs=sources,
                outputs=[f"{made} of {name}"],
            )
    census.add_step(all_read, after=[f"read {batch.name}" for batch in batches])
    census.add_step(prepare)
    census.add_step(
        add_up,
        params={"about": name_of(root)},
        inputs={
            "lines": [f"lines of {batch.name}" for batch in batches],
            "parsed": [f"facts of {batch.name}" for batch in batches],
        },
    )
    return census.add_step(draw, after=[prepare]).add_step(write)


pipeline = census_pipeline(standard_library())
