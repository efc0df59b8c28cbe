"""What connects the host with one worker, whichever way that was started."""

from __future__ import annotations

import mmap
import os
import subprocess
from typing import NamedTuple

from asyncflow.lanes.process import wire
from asyncflow.lanes.process.output import OutputReader, Take
from asyncflow.lanes.process.spawning import spawn
from asyncflow.lanes.worker_kind import WorkerKind

__all__ = ["Link", "connect"]


class Link(NamedTuple):
    """The host's ends.

    Attributes:
        work, control: the channels; they may be one and the same.
        word: memory that worker and host share; None where they share none.
        outputs: readers of stdout and of stderr.
    """

    process: subprocess.Popen[bytes]
    work: wire.Channel
    control: wire.Channel
    word: mmap.mmap | None
    outputs: tuple[OutputReader, OutputReader]


def connect(kind: WorkerKind, name: str, mark: bytes, take: Take) -> Link:
    """Start a worker of a kind.

    Args:
        mark: what stands behind the output of a call.
        take: is given the lines that it prints.

    Raises:
        OSError: the system gives no process, descriptor or memory for it.
    """
    if kind.environment is not None:
        from asyncflow.lanes.process.behind import FedOutput, launch

        launched = launch(kind, name, mark)
        channel, errors = launched.channel, OutputReader(launched.stderr, 2, mark, take)
        outputs = (FedOutput(mark, take), errors)
        return Link(launched.process, channel, channel, None, outputs)
    spawned = spawn(kind, name, mark)
    word = mmap.mmap(spawned.word, wire.WORD.size)
    os.close(spawned.word)
    return Link(
        spawned.process,
        wire.Channel(spawned.work, wire.WorkerFrame),
        wire.Channel(spawned.control, wire.WorkerFrame),
        word,
        (
            OutputReader(spawned.stdout, 1, mark, take),
            OutputReader(spawned.stderr, 2, mark, take),
        ),
    )
