"""A worker as the host sees it: its process, its channels, its calls, its end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from asyncflow.lanes.process import wire
from asyncflow.lanes.process.deaths import Reaper
from asyncflow.lanes.process.links import connect
from asyncflow.lanes.process.output import OutputReader
from asyncflow.lanes.process.sender import Sender
from asyncflow.lanes.worker_kind import WorkerKind

if TYPE_CHECKING:
    from asyncflow.lanes.lane import Call
    from asyncflow.lanes.process.deaths import Death
    from asyncflow.lanes.process.early import Early

__all__ = ["WorkerHandle"]

_LOOK_AGAIN_SECONDS = 0.005
# A worker that closed its channel and lives on is of no use.
_PATIENCE_LOOKS = 200
_END_SECONDS = 1.0
_LAST_LINES = 20


class WorkerHandle:
    """One worker process.

    Args:
        loop: the running event loop.
        name, kind: what it is called and started with.
        told: is given each frame that comes from it.
        died: is told of its end, once all it had sent was told.

    Attributes:
        calls: what it has been given and has not reported, in order, by number.
        ahead: what it has been given before its turn, and goes on with by itself; by number.
        known: the functions that it has.
        reserved: whether it is kept for a group.
        killed: whether the host ended it.
        worn: whether it should be replaced once it is free.
        chain: stands for the group that it is kept for; a higher one after each failure, which
            begins with the call of the number ``chain_begins``.
        has_slot: whether calls may be sent on behind the one that it is making.
        seen_at: the call that it was making when last looked at.
        kept: the numbers of the values that it keeps.
        retiring: whether it is given nothing more.
        units: how many calls it has made.

    Raises:
        OSError: the system gives no process, descriptor or memory for it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str,
        kind: WorkerKind,
        told: Callable[[WorkerHandle, Any], None],
        died: Callable[[WorkerHandle, Death], None],
    ) -> None:
        self.name = name
        self.kind = kind
        self.calls: dict[int, Call] = {}
        self.ahead: dict[int, Early] = {}
        self.known: set[int] = set()
        self.reserved = self.killed = self.retiring = self.lost = self.started = False
        self.is_gone = self.worn = self.has_slot = False
        self.seen_at = 0
        self.chain = self.chain_begins = 0
        self.kept: set[int] = set()
        self.units = 0
        self._loop, self._told, self._died = loop, told, died
        mark = b"\0" + os.urandom(12).hex().encode() + b"\0"
        link = connect(kind, name, mark, self._take_output)
        self._process, self._word, self._outputs = link.process, link.word, link.outputs
        self.pid = link.process.pid
        self._reaper = Reaper(self.pid)
        self._work, self._control = link.work, link.control
        self.work = Sender(loop, self._work)
        one_channel = self._work is self._control
        self.control = self.work if one_channel else Sender(loop, self._control)
        self._timer: asyncio.TimerHandle | None = None
        self._looks = 0
        self._pidfd = _pidfd_of(self.pid)
        self._watch()

    def __repr__(self) -> str:
        return f"<worker {self.name} {self.pid}>"

    def _watch(self) -> None:
        loop = self._loop
        loop.add_reader(self._work.fileno(), self._read_work)
        for output in self._outputs:
            if output.descriptor >= 0:
                loop.add_reader(output.descriptor, self._read_output, output)
        if self._pidfd is not None:
            loop.add_reader(self._pidfd, self._look)

    @property
    def next_descriptor(self) -> Callable[[], int]:
        """Gives the descriptor of the frame that is being told."""
        return self._work.next_descriptor

    @property
    def current(self) -> int:
        """The number of the call that it is making, 0 for none."""
        if self._word is None:
            # It makes them in their order.
            return next(iter(self.calls), 0) or next(iter(self._ahead_and_not_over()), 0)
        number: int = wire.WORD.unpack_from(self._word, 0)[0]
        return number

    @property
    def is_free(self) -> bool:
        """Whether it has nothing to do and may be given something."""
        return not (
            self.calls or self.ahead or self.reserved or self.retiring or self.is_gone or self.lost
        )

    def _ahead_and_not_over(self) -> dict[int, Early]:
        return {number: early for number, early in self.ahead.items() if not early.call.over}

    def number_ahead(self, call: Call) -> int:
        """The number of a call whose turn has not come; 0 if it is none of those."""
        return next((number for number, early in self.ahead.items() if early.call is call), 0)

    # -- reading ---------------------------------------------------------------------------

    def _read_work(self) -> None:
        frames = self._work.receive()
        if frames is None:
            self._loop.remove_reader(self._work.fileno())
            self._look()
            return
        for frame in frames:
            self._told(self, frame)

    def _read_output(self, output: OutputReader) -> None:
        if not output.read():
            self._loop.remove_reader(output.descriptor)

    def _take_output(self, stream: str, lines: tuple[str, ...]) -> None:
        taker: Call | Early | None = next(iter(self.calls.values()), None)
        taker = taker or next(iter(self._ahead_and_not_over().values()), None)
        if taker is not None:
            taker.take_output(stream, lines)

    def feed_output(self, stream: int, data: bytes) -> None:
        """What it has printed came in a frame."""
        self._outputs[stream - 1].feed(data)

    def end_output(self, marks: int) -> None:
        """The first call has ended; what it printed is told before anything follows from that."""
        for output in self._outputs:
            output.end_call(bool(marks & (1 if output is self._outputs[0] else 2)))

    def resume_output(self) -> None:
        """What is printed from now on belongs to the call that is the first one now."""
        for output in self._outputs:
            output.resume()

    @property
    def takes_no_files(self) -> bool:
        """Whether values have to travel in the stream itself."""
        return self._word is None

    @property
    def printed(self) -> tuple[str, ...]:
        """All that came from it before it was up."""
        return (*self._work.printed, *self.last_output)

    @property
    def never_was_up(self) -> bool:
        """Whether it has ended in its environment before it could be used, by itself."""
        ended_by_itself = bool(self.refusal) or not self.killed
        return self.kind.environment is not None and not self.started and ended_by_itself

    @property
    def refusal(self) -> str:
        """Why it cannot be used, as its handshake tells."""
        return self._work.refusal

    @property
    def last_output(self) -> tuple[str, ...]:
        """The last lines that it wrote, those on stderr last."""
        lines = [line for output in self._outputs for line in output.last_lines]
        return tuple(lines[-_LAST_LINES:])

    # -- its end ---------------------------------------------------------------------------

    def retire(self) -> None:
        """Give it nothing more and let it end in peace; killed if it takes long, or if it has
        not even loaded: it has nothing to tidy up."""
        if self.retiring or self.is_gone:
            return
        self.retiring = True
        if not self.started and self.kind.environment is None:
            self.kill()
            return
        self.work.close()
        self._work.end_sending()  # the worker reads on to here, and leaves
        self._timer = self._loop.call_later(_END_SECONDS, self.kill)

    def kill(self) -> None:
        """End it at once, with all that it has started."""
        if not self.is_gone:
            self.killed = True
            _kill_group(self.pid)

    def kill_if_busy(self, numbers: set[int]) -> None:
        """End it if it goes on with what was sent ahead though nobody wants that."""
        if not self.is_gone and self.current in numbers.intersection(self.ahead):
            self.kill()

    def _look(self) -> None:
        """See whether it has ended: its channel has, or the kernel says so."""
        if self.is_gone:
            return
        if not self._reaper.has_ended():
            self._looks += 1
            if self._looks > _PATIENCE_LOOKS:
                self.kill()
            self._loop.call_later(_LOOK_AGAIN_SECONDS, self._look)
            return
        self._read_the_rest()
        _kill_group(self.pid)  # what it leaves behind; its number cannot be another's yet
        self._let_go()
        self._died(self, self._reaper.reap())

    def _read_the_rest(self) -> None:
        """Whatever it said before it ended counts."""
        while True:
            try:
                frames = self._work.receive()
            except BlockingIOError:
                break
            if frames is None:
                break
            for frame in frames:
                self._told(self, frame)
        for output in self._outputs:
            output.read_all()
            output.end_call(False)

    def end_now(self) -> None:
        """Kill it and wait for that, which takes a moment at most."""
        if self.is_gone:
            return
        self.kill()
        self._let_go()
        self._reaper.reap()

    def _let_go(self) -> None:
        """Close all that was open for it."""
        loop = self._loop
        self.is_gone = True
        if self._timer is not None:
            self._timer.cancel()
        self.work.close()
        self.control.close()
        if not loop.is_closed():
            loop.remove_reader(self._work.fileno())
            for output in self._outputs:
                if output.descriptor >= 0:
                    loop.remove_reader(output.descriptor)
            if self._pidfd is not None:
                loop.remove_reader(self._pidfd)
        self.last_number = self.current
        for closing in (self._work, self._control, *self._outputs):
            closing.close()
        if self._word is not None:
            self._word.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
        # It was waited for here, so that its Popen need not.
        self._process.returncode = 0


def _pidfd_of(pid: int) -> int | None:
    """A descriptor that tells of the end of a process; without one, that of its channel does."""
    try:
        return os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    except OSError:
        return None


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
