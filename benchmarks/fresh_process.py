"""Measuring in a fresh interpreter, where nothing is warm and nothing is left over."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["output_of"]

ROOT = Path(__file__).resolve().parents[1]


def output_of(arguments: Sequence[str]) -> str:
    """What this Python prints when started with these arguments beside the package.

    It may write compiled modules, as an installer does for the libraries that are compared with.

    Raises:
        RuntimeError: it failed; the message has its error stream.
    """
    variables = {**os.environ}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**variables, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise RuntimeError(f"python {' '.join(arguments)} failed:\n{ended.stderr}")
    return ended.stdout
