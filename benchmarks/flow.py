"""Operations over a data space, beside signac-flow where it is installed (extra ``[bench]``)."""

from __future__ import annotations

import importlib.metadata
import json
from statistics import median

from benchmarks.fresh_process import output_of
from benchmarks.report import Goal, Row
from benchmarks.sampling import Scale

__all__ = ["measure_flow"]

Case = tuple[str, str, int, int]
_SMALL, _LARGE = 1_000, 4_000


def _seconds(case: Case) -> dict[str, float]:
    words = [str(word) for word in case]
    found: dict[str, float] = json.loads(output_of(["-m", "benchmarks.flow_script", *words]))
    return found


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def measure_flow(scale: Scale) -> list[Row]:
    """Two trivial operations on 1,000 and 4,000 jobs, beside signac-flow."""
    small, large = scale.of(_SMALL), scale.of(_LARGE)
    cases: list[Case] = [
        ("ours", "plain", small, 1),
        ("ours", "plain", large, 1),
        ("ours", "conditions", small, 1),
        ("ours", "coroutines", small, 1),
        ("ours", "plain", large, 2),
        ("ours", "plain", 4 * large, 1),
        ("ours", "stragglers", 4, 4),
    ]
    if _is_installed("signac-flow"):
        # It awaits no coroutines: its functions stand for them.
        cases += [("theirs", kind, small, 1) for kind in ("plain", "conditions")]
        cases += [("theirs", "plain", large, 1)]
    samples: dict[Case, list[dict[str, float]]] = {case: [] for case in cases}
    for _ in range(scale.samples):
        for case in cases:
            samples[case].append(_seconds(case))

    def found(what: str, *case: object) -> float | None:
        taken = samples.get(case)
        return None if taken is None else median(one[what] for one in taken)

    def row(name: str, what: str, ours: Case, reference: Case, most: float) -> Row:
        figure = found(what, *ours)
        assert figure is not None
        other = found(what, *reference)
        goal = None if other is None else Goal("ratio", most)
        return Row(name, figure, other, goal=goal)

    def theirs(kind: str, jobs: int) -> Case:
        return "theirs", kind, jobs, 1

    return [
        row("project run, 2k operations", "run", cases[0], theirs("plain", small), 1.0),
        row("project run, 8k operations", "run", cases[1], theirs("plain", large), 1.0),
        row("the same with conditions", "run", cases[2], theirs("conditions", small), 1.0),
        row("2k coroutine operations", "run", cases[3], theirs("plain", small), 0.5),
        row("8k operations, two at once (by one)", "run", cases[4], cases[1], 1.0),
        Row(
            "2 s stragglers in both stages, 4 jobs at once",
            found("run", *cases[6]) or 0.0,
            goal=Goal("limit", 1.1 * 2.1),
        ),
        row("project status, 4k jobs", "status", cases[1], theirs("plain", large), 0.5),
        row("project status, 16k jobs (by four times 4k)", "status", cases[5], cases[1], 4.4),
    ]
