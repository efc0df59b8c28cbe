"""Starting a worker: a fresh interpreter with the host's ``sys.path``, never a fork."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from typing import NamedTuple

from asyncflow.lanes.process import wire
from asyncflow.lanes.worker_kind import WorkerKind

__all__ = ["Spawned", "interpreter_flags", "log_levels", "spawn"]

# The front of the package loads all of it, which takes longer than most first calls. In a worker
# it is loaded when something first asks for one of its names; "from asyncflow import events" asks
# for a module, which is found without it. The module step has the name of the decorator, whose
# place it must not take: it may be imported before the front is loaded, and is not looked up there.
#
# What is loaded stays, so that a collector that walks over it again and again finds nothing.
_BOOT = """
import gc, sys
collect_at = gc.get_threshold()
gc.set_threshold(0)
sys.path[:] = {path!r}
import importlib.util as util, types
spec = util.find_spec("asyncflow")
front = util.module_from_spec(spec)
class Front(types.ModuleType):
    def __setattr__(self, name, value):
        if name != "step" or not isinstance(value, types.ModuleType):
            super().__setattr__(name, value)
front.__class__ = Front
def load(name):
    # A module of the package is no reason; "step" is one and a public name as well.
    if name not in ("step", "__all__") and (
        name.startswith("__") or util.find_spec("asyncflow." + name)
    ):
        raise AttributeError(name)
    del front.__getattr__
    spec.loader.exec_module(front)
    return getattr(front, name)
front.__getattr__ = load
sys.modules["asyncflow"] = front
from asyncflow.lanes.process.worker import main
main({work}, {control}, {word}, {host}, {mark!r}, {levels!r}, {cpus}, collect_at)
"""


class Spawned(NamedTuple):
    """The host's ends of a process that was started."""

    process: subprocess.Popen[bytes]
    work: socket.socket
    control: socket.socket
    word: int
    stdout: int
    stderr: int


def spawn(kind: WorkerKind, name: str, mark: bytes) -> Spawned:
    """Start a worker.

    Raises:
        OSError: the system starts no more processes, or has no more descriptors.
    """
    mine: list[int] = []
    theirs: list[int] = []
    try:
        for _ in range(2):
            near, far = socket.socketpair()
            near.setblocking(False)
            mine.append(near.detach())
            theirs.append(far.detach())
        for _ in range(2):
            near_end, far_end = os.pipe()
            os.set_blocking(near_end, False)
            mine.append(near_end)
            theirs.append(far_end)
        mine.append(_word_file())
        process = _start(kind, name, mark, theirs, mine[4])
    except BaseException:
        for descriptor in mine:
            os.close(descriptor)
        raise
    finally:
        for descriptor in theirs:
            os.close(descriptor)
    work, control, stdout, stderr, word = mine
    return Spawned(
        process, socket.socket(fileno=work), socket.socket(fileno=control), word, stdout, stderr
    )


def _start(
    kind: WorkerKind, name: str, mark: bytes, ends: list[int], word: int
) -> subprocess.Popen[bytes]:
    if not sys.executable:
        raise OSError("this program does not know of a Python interpreter to start")
    work, control, stdout, stderr = ends
    boot = _BOOT.format(
        path=[entry or os.getcwd() for entry in sys.path],
        work=work,
        control=control,
        word=word,
        host=os.getpid(),
        mark=mark,
        levels=log_levels(),
        cpus=kind.threads,
    )
    return subprocess.Popen(
        [
            sys.executable,
            *interpreter_flags(),
            "-P",
            "-X",
            "faulthandler",
            "-c",
            boot,
            f"asyncflow-{name}",
        ],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        pass_fds=(work, control, word),
        env={**os.environ, **kind.variables()},
        start_new_session=True,
    )


def _word_file() -> int:
    if hasattr(os, "memfd_create"):
        word = os.memfd_create("asyncflow-word", os.MFD_CLOEXEC)
    else:
        import tempfile

        word, path = tempfile.mkstemp(prefix="asyncflow-word-")
        os.unlink(path)
    os.ftruncate(word, wire.WORD.size)
    return word


def interpreter_flags() -> list[str]:
    """The options of this interpreter that its workers should share."""
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return flags


def log_levels() -> dict[str, int]:
    """The levels that are set on this process's loggers, by name; the root's is ``""``."""
    levels = {"": logging.getLogger().level}
    for name, logger in list(logging.Logger.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and logger.level:
            levels[name] = logger.level
    return levels
