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
        ("ours", "conditions", large, 1),
        ("ours", "coroutines", small, 1),
        ("ours", "plain", large, 2),
        ("ours", "plain", 4 * large, 1),
        ("ours", "stragglers", 4, 4),
    ]
    if _is_installed("signac-flow"):
        # It awaits no coroutines: its functions stand for them.
        kinds = ("plain", "conditions")
        cases += [("theirs", kind, jobs, 1) for kind in kinds for jobs in (small, large)]
    samples: dict[Case, list[dict[str, float]]] = {case: [] for case in cases}
    for case in cases:
        _seconds(case)  # so that no sample has to compile
    for _ in range(scale.samples):
        for case in cases:
            samples[case].append(_seconds(case))

    def found(what: str, case: Case) -> float | None:
        return median(one[what] for one in samples[case]) if case in samples else None

    def row(name: str, what: str, ours: Case, reference: Case, most: float) -> Row:
        figure, other = found(what, ours), found(what, reference)
        assert figure is not None
        goal = None if other is None else Goal("ratio", most)
        return Row(name, figure, other, goal=goal)

    def beside(name: str, what: str, kind: str, jobs: int, most: float) -> Row:
        return row(name, what, ("ours", kind, jobs, 1), ("theirs", kind, jobs, 1), most)

    coroutines, by_one = ("ours", "coroutines", small, 1), ("ours", "plain", large, 1)
    stragglers = found("run", ("ours", "stragglers", 4, 4))
    assert stragglers is not None
    return [
        beside("project run, 2k operations", "run", "plain", small, 1.0),
        beside("project run, 8k operations", "run", "plain", large, 1.0),
        beside("2k operations with conditions", "run", "conditions", small, 1.0),
        beside("8k operations with conditions", "run", "conditions", large, 1.0),
        row("2k coroutine operations", "run", coroutines, ("theirs", "plain", small, 1), 0.5),
        row("8k operations, two at once (by one)", "run", ("ours", "plain", large, 2), by_one, 1.0),
        Row(
            "2 s stragglers in both stages, 4 jobs at once",
            stragglers,
            goal=Goal("limit", 1.1 * 2.1),
        ),
        beside("project status, 4k jobs", "status", "plain", large, 0.5),
        beside("project status with conditions, 4k jobs", "status", "conditions", large, 0.5),
        row(
            "project status, 16k jobs (by four times 4k)",
            "status",
            ("ours", "plain", 4 * large, 1),
            by_one,
            4.4,
        ),
    ]
