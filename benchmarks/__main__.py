"""``python -m benchmarks``: measure and print one table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.building import measure_building
from benchmarks.coroutines import (
    measure_chain,
    measure_fan_out_10k,
    measure_fan_out_100k,
    measure_layers,
    measure_sleeps,
)
from benchmarks.flow import measure_flow
from benchmarks.hold_up import measure_hold_up
from benchmarks.importing import measure_import
from benchmarks.limits import measure_limits
from benchmarks.makespan import measure_makespan
from benchmarks.maps import measure_maps
from benchmarks.process_lane import (
    measure_process_lane,
    measure_process_start,
    measure_process_values,
)
from benchmarks.recording import measure_recording, measure_recording_large, measure_resume
from benchmarks.report import Row, as_json, as_table
from benchmarks.resident import measure_resident
from benchmarks.sampling import FULL, QUICK, Scale
from benchmarks.streams import measure_stream
from benchmarks.thread_lane import measure_thread_lane
from benchmarks.values import (
    measure_cache,
    measure_fingerprints,
    measure_large_value,
    measure_small_values,
)

MEASURES: dict[str, Callable[[Scale], list[Row]]] = {
    "fan-out-10k": measure_fan_out_10k,
    "fan-out-100k": measure_fan_out_100k,
    "chain": measure_chain,
    "layers": measure_layers,
    "hold-up": measure_hold_up,
    "sleeps": measure_sleeps,
    "limits": measure_limits,
    "thread-lane": measure_thread_lane,
    "process-lane": measure_process_lane,
    "process-values": measure_process_values,
    "process-start": measure_process_start,
    "stream": measure_stream,
    "maps": measure_maps,
    "recording": measure_recording,
    "resume": measure_resume,
    "recording-large": measure_recording_large,
    "resident": measure_resident,
    "building": measure_building,
    "makespan": measure_makespan,
    "flow": measure_flow,
    "small-values": measure_small_values,
    "fingerprints": measure_fingerprints,
    "large-value": measure_large_value,
    "cache": measure_cache,
    "import": measure_import,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for; the table goes to stdout, progress to stderr."""
    options = _parser().parse_args(arguments)
    if options.list:
        for name, measure in MEASURES.items():
            print(f"{name:<{max(map(len, MEASURES)) + 2}}{measure.__doc__}")
        return 0
    scale = QUICK if options.quick else FULL
    rows: list[Row] = []
    for name in options.only or MEASURES:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        rows += MEASURES[name](scale)
    # Wide enough that a pipe or a log keeps every figure on one line.
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(as_table(rows, quick=options.quick))
    if options.json:
        text = json.dumps(as_json(rows, quick=options.quick), indent=1, ensure_ascii=False)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks", description="Measure asyncflow.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows here")
    parser.add_argument(
        "--only", nargs="+", choices=list(MEASURES), metavar="NAME", help="some measures only"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, one sample each")
    parser.add_argument("--list", action="store_true", help="name the measures and stop")
    return parser


if __name__ == "__main__":
    sys.exit(main())
