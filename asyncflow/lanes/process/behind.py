"""Workers behind a command: started in their environment, spoken to over their standard streams.

What the command prints before the worker is up is skipped, and told if the worker never is. Then
comes the handshake: a line with a token that nobody prints by chance, and what the worker is. From
there on its standard output carries frames, as its standard input does from the start. Values
travel in them: a memory file would not get through to a container.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from asyncflow.environment import Environment
from asyncflow.lanes.process import wire
from asyncflow.lanes.process.output import OutputReader, Take
from asyncflow.lanes.process.spawning import interpreter_flags, log_levels
from asyncflow.lanes.worker_kind import WorkerKind

__all__ = ["FedOutput", "Launched", "PipeChannel", "launch", "visible_command"]

_READ_BYTES = 1 << 16
_MOST_NOISE = 1 << 14

# Runs in whatever Python the environment has, so it must not count on anything of ours.
_BOOT = """
import sys, os, json, fcntl
token, spec = sys.argv[1], json.loads(sys.argv[2])
ends = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 200) for number in (0, 1)]
nothing = os.open(os.devnull, os.O_RDONLY)
os.dup2(nothing, 0)
os.dup2(2, 1)
os.close(nothing)
found = {"python": sys.version.split()[0], "fault": ""}
main = None
try:
    os.environ.update(spec["variables"])
    if spec["cwd"] is not None:
        os.chdir(spec["cwd"])
    if spec["replace_path"]:
        sys.path[:] = spec["path"]
    else:
        sys.path[:] = [entry for entry in sys.path if entry]
        sys.path += [entry for entry in spec["path"] if entry not in sys.path]
    import importlib.util as util, re
    place = util.find_spec("asyncflow")
    if place is None:
        raise ImportError("asyncflow is not installed there")
    with open(place.origin, encoding="utf-8") as file:
        found["asyncflow"] = re.search('__version__ = "(.*)"', file.read()).group(1)
    if sys.version_info[:2] == tuple(spec["python"]) and found["asyncflow"] == spec["asyncflow"]:
        from asyncflow.lanes.process.stdio import main
except Exception as error:
    found["fault"] = "%s: %s" % (type(error).__name__, error)
os.write(ends[1], ("\\n%s%s\\n" % (token, json.dumps(found))).encode())
if main is not None:
    main(ends[0], ends[1], spec["mark"].encode(), spec["levels"], spec["cpus"])
"""


class Launched(NamedTuple):
    """A process that was started behind a command, and the host's ends of its streams."""

    process: subprocess.Popen[bytes]
    channel: PipeChannel
    stderr: int


def launch(kind: WorkerKind, name: str, mark: bytes) -> Launched:
    """Start a worker in its environment.

    Raises:
        OSError: the command is not there or cannot be run, or the system has no more processes.
    """
    environment = kind.environment
    assert environment is not None
    token = f"asyncflow-{os.urandom(16).hex()} "
    spec = _spec_of(environment, kind, mark)
    command = [*visible_command(environment), _BOOT, token, json.dumps(spec), f"asyncflow-{name}"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env={**os.environ, **kind.variables()},
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    ends = [os.dup(end.fileno()) for end in (process.stdin, process.stdout, process.stderr)]
    for stream, end in zip((process.stdin, process.stdout, process.stderr), ends, strict=True):
        stream.close()
        os.set_blocking(end, False)
    return Launched(process, PipeChannel(ends[0], ends[1], token.encode()), ends[2])


def visible_command(environment: Environment) -> list[str]:
    """The command up to the program text, which nobody wants to read."""
    python = environment.python or sys.executable
    # Another interpreter may be so old that it does not know -P; the boot program sees to that.
    flags = [*interpreter_flags(), "-P"] if environment.python is None else []
    return [*environment.launch, python, *flags, "-X", "faulthandler", "-c"]


def _spec_of(environment: Environment, kind: WorkerKind, mark: bytes) -> dict[str, object]:
    same = environment.python is None
    path = [entry or os.getcwd() for entry in sys.path]
    return {
        "variables": kind.variables(),
        "cwd": environment.cwd,
        "path": path if same else [entry for entry in path if not _is_of_python(entry)],
        "replace_path": same,
        "python": sys.version_info[:2],
        "asyncflow": sys.modules["asyncflow"].__version__,
        "mark": mark.decode(),
        "levels": log_levels(),
        "cpus": kind.threads,
    }


def _is_of_python(entry: str) -> bool:
    """Whether a folder belongs to this Python and not to the user's own code."""
    parts = os.path.normpath(entry).split(os.sep)
    roots = {sys.prefix, sys.base_prefix, sys.exec_prefix}
    return (
        any(entry.startswith(os.path.join(root, "lib")) for root in roots)
        or "site-packages" in parts
        or "dist-packages" in parts
    )


class PipeChannel(wire.Channel):
    """The host's end of a worker's standard input and output.

    Args:
        writing, reading: pipes that do not block.
        token: what the line of the handshake begins with.

    Attributes:
        refusal: why the worker cannot be used, in words; "" if it can, or is not up yet.
    """

    def __init__(self, writing: int, reading: int, token: bytes) -> None:
        self._writing: int | None = writing
        self._reading = reading
        self._token = b"\n" + token
        self._noise: bytearray | None = bytearray()
        self.refusal = ""
        self._prepare(wire.WorkerFrame)

    def fileno(self) -> int:
        return self._reading

    def write_fileno(self) -> int:
        return -1 if self._writing is None else self._writing

    @property
    def printed(self) -> tuple[str, ...]:
        """What came before the handshake, while there was none."""
        text = bytes(self._noise or b"").decode("utf-8", "backslashreplace")
        return tuple(line for line in text.splitlines() if line)

    def receive(self) -> list[wire.WorkerFrame] | None:
        data = os.read(self._reading, _READ_BYTES)
        if not data:
            return None
        if self._noise is None:
            return self.take_in(data)
        self._noise += data
        found = self._noise.find(self._token)
        end = self._noise.find(b"\n", found + 1) if found >= 0 else -1
        if end < 0:
            if found < 0:
                del self._noise[:-_MOST_NOISE]
            return []
        line = bytes(self._noise[found + len(self._token) : end])
        rest = bytes(self._noise[end + 1 :])
        self.refusal = _refusal(json.loads(line))
        if self.refusal:
            del self._noise[found:]
            return []
        self._noise = None
        return [wire.Hello(0), *(self.take_in(rest) if rest else [])]

    def send_some(self, data: bytes | memoryview, descriptors: Sequence[int]) -> int:
        assert not descriptors, "no descriptor gets through a pipe"
        if self._writing is None:
            raise BrokenPipeError("nothing more can be sent")
        return os.write(self._writing, data)

    def end_sending(self) -> None:
        if self._writing is not None:
            os.close(self._writing)
            self._writing = None

    def close(self) -> None:
        self.end_sending()
        if self._reading >= 0:
            os.close(self._reading)
            self._reading = -1


def _refusal(found: dict[str, str]) -> str:
    """Why a worker cannot be used that says this of itself; "" if it can."""
    here = ".".join(map(str, sys.version_info[:3]))
    own = sys.modules["asyncflow"].__version__
    if found["fault"]:
        return f"{found['fault']} (Python {found['python']} there)"
    if found["python"].split(".")[:2] != here.split(".")[:2]:
        return f"it has Python {found['python']}, and here runs {here}; both need the same version"
    if found["asyncflow"] != own:
        return (
            f"it has asyncflow {found['asyncflow']}, and here runs {own}; install the same version"
        )
    return ""


class FedOutput(OutputReader):
    """The standard output of such a worker, which comes in frames."""

    def __init__(self, mark: bytes, take: Take) -> None:
        super().__init__(-1, 1, mark, take)

    def read(self) -> bool:
        """Nothing to read: it is fed."""
        return True

    def close(self) -> None:
        """Nothing is open."""
