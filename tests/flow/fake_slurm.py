"""Stand-ins for sbatch and squeue: scripts on the PATH that keep a queue in a folder."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

_SBATCH = """
    import json, pathlib, sys
    queue = pathlib.Path({queue!r})
    script = sys.stdin.read()
    number = len(list(queue.iterdir())) + 1
    lines = [l.split(" ", 1)[1] for l in script.splitlines() if l.startswith("#SBATCH ")]
    name = next(l.split("=", 1)[1].strip("'") for l in lines if l.startswith("--job-name="))
    job = dict(name=name, directives=lines, flags=sys.argv[1:], script=script, state="PENDING")
    (queue / f"{{number:04d}}.json").write_text(json.dumps(job))
    print(number)
"""
_SQUEUE = """
    import json, pathlib
    for file in sorted(pathlib.Path({queue!r}).iterdir()):
        job = json.loads(file.read_text())
        print(f"{{int(file.stem)}}|{{job['state']}}|None|{{job['name']}}")
"""


class FakeSlurm:
    """A scheduler that accepts everything and runs nothing."""

    def __init__(self, directory: Path) -> None:
        self.bin = directory / "bin"
        self.queue = directory / "queue"
        self.bin.mkdir()
        self.queue.mkdir()
        self.set_command("sbatch", _SBATCH.format(queue=str(self.queue)))
        self.set_command("squeue", _SQUEUE.format(queue=str(self.queue)))

    def set_command(self, name: str, body: str) -> None:
        path = self.bin / name
        path.write_text(f"#!{sys.executable}\n{dedent(body)}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    @property
    def jobs(self) -> list[dict[str, Any]]:
        return [json.loads(file.read_text()) for file in sorted(self.queue.iterdir())]

    def set_state(self, number: int, state: str) -> None:
        file = self.queue / f"{number:04d}.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "state": state}))
