"""Running ``asyncflow`` commands, as processes of their own or within the test's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import typer.testing

from asyncflow.cli import app

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 30.0

# A shell that runs the tests in the background has SIGINT ignored, and children inherit that.
_LAUNCHER = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from asyncflow.cli import main
main()
"""


class Commands:
    """Runs ``asyncflow`` in a folder, as a process of its own or within the test's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, source: str) -> None:
        """Put a module of pipelines into the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")

    def here(self, *arguments: str) -> typer.testing.Result:
        """Run a command within this process."""
        return typer.testing.CliRunner().invoke(app, arguments)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [sys.executable, "-c", _LAUNCHER, *arguments],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    def start(
        self,
        *arguments: str,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
    ) -> subprocess.Popen[str]:
        """Start a command whose output is read while it runs."""
        return subprocess.Popen(
            [sys.executable, "-c", _LAUNCHER, *arguments],
            cwd=self.folder,
            env=self.environment(),
            text=True,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )

    def environment(self) -> dict[str, str]:
        left_out = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"}
        inherited = {name: value for name, value in os.environ.items() if name not in left_out}
        return {**inherited, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
