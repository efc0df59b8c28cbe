"""Programs that tests run in an interpreter of their own, with this repository on its path."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["ROOT", "output_of", "outputs_of_hash_seeds", "run_program"]

ROOT = Path(__file__).resolve().parents[1]
_PATIENCE_SECONDS = 55.0  # less than a test may take, so that this is what is told


def run_program(
    source: str, *arguments: str, cwd: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run ``python -c SOURCE`` to its end, with these environment variables besides ours."""
    return subprocess.run(
        [sys.executable, "-c", source, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=_PATIENCE_SECONDS,
        check=False,
    )


def output_of(source: str, **variables: str) -> str:
    """What a program prints, stripped; it must not fail."""
    ended = run_program(source, cwd=ROOT, **variables)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def outputs_of_hash_seeds(source: str) -> set[str]:
    """What a program prints, with two seeds of Python's hashes: one text if they do not matter."""
    return {output_of(source, PYTHONHASHSEED=seed) for seed in ("1", "2")}
