"""Project scripts that tests run as a user would: ``python project.py run``."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import runpy
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]


class Script:
    """A project script in a directory with a data space.

    Called, it runs in this process under the name ``__main__``, which spares the start of an
    interpreter; :meth:`alone` runs it in a process of its own.
    """

    def __init__(self, directory: Path, body: str) -> None:
        self.directory = directory
        self.path = directory / "project.py"
        self.path.write_text(dedent(body))

    def __call__(self, *words: str) -> Answer:
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.chdir(self.directory),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch.object(sys, "argv", [str(self.path), *words]),
            mock.patch.object(logging.getLogger(), "handlers", []),
        ):
            code = self._run()
        return Answer(code, out.getvalue(), err.getvalue())

    def _run(self) -> int:
        try:
            runpy.run_path(str(self.path), run_name="__main__")
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        return 0

    def alone(self, *words: str, seconds: float = 60, **variables: str) -> Answer:
        """Run it in a process of its own, with these environment variables."""
        done = subprocess.run(
            [sys.executable, str(self.path), *words],
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)


class Answer:
    """What came of a command."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"exit code {self.code}\n{self.out}\n{self.err}"

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()
