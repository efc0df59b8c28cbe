"""``python -m examples.census``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from examples.census.pipeline import census_pipeline
from examples.census.sources import standard_library


def main(arguments: Sequence[str] | None = None) -> int:
    """Take the census and say where the report is."""
    parser = argparse.ArgumentParser(prog="census", description=__doc__)
    parser.add_argument("--out", default="census-report", help="folder for report and charts")
    parser.add_argument("--quick", action="store_true", help="count lines only, parse nothing")
    parser.add_argument(
        "--root", type=Path, default=standard_library(), help="another tree of Python files"
    )
    options = parser.parse_args(arguments)
    result = census_pipeline(options.root).run_sync(
        {"out": options.out, "quick": options.quick}, progress=sys.stderr.isatty()
    )
    print(result.summary())
    if not result.success:
        return 1
    print(f"the report is {result['report']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
