"""What a lane is: one page for everyone who writes one.

A lane runs :class:`Call` objects. The engine gives it a call with :meth:`Lane.start`; the
lane runs the function somewhere, fills in ``started``, ``finished`` and ``value`` or
``error``, and calls ``done(call)`` *on the event loop's thread*, exactly once, however the
function ends: whatever it raises, SystemExit and KeyboardInterrupt included, is a result.

The engine decides when: it never starts a call while :meth:`Lane.has_room` is false, and
it enforces timeouts by :meth:`Lane.cancel` and, when that was ignored for long enough,
:meth:`Lane.abandon`. An abandoned call still reports by ``done`` if it ever ends.
"""

from __future__ import annotations

import contextvars
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, ClassVar, NoReturn

import msgspec

__all__ = [
    "CURRENT",
    "Call",
    "Lane",
    "LaneStatistics",
    "invoke",
    "refuse_coroutine",
    "without_lane_frames",
]


# The call that is being made, for what a step does to find out whose it is.
CURRENT: contextvars.ContextVar[Any] = contextvars.ContextVar("asyncflow_call", default=None)


class Call(msgspec.Struct, eq=False):
    """A function to run once, and what came of it.

    ``started`` and ``finished`` are seconds on the event loop's clock, 0.0 while it has not
    come to that. ``worker`` is what members of one group share, see :meth:`Lane.reserve`: a
    lane that finds one runs the call there, else it takes any and sets it;
    ``keep_worker`` asks that it stays reserved afterwards; ``worker_kind`` says what it has to
    be like, where a lane has several kinds. ``flow``: which parts of the value stay with the
    worker, where a lane can do that. ``over``: it was sent ahead of its turn, and has ended.
    """

    func: Callable[..., Any]
    args: list[Any]
    kwargs: dict[str, Any] | None
    context: contextvars.Context
    name: str
    done: Callable[[Any], None]
    is_coroutine: bool = False
    worker: Any = None
    keep_worker: bool = False
    started: float = 0.0
    finished: float = 0.0
    value: Any = None
    error: BaseException | None = None
    cancel_requested: bool = False
    handle: Any = None
    worker_kind: Any = None
    flow: Any = None
    over: bool = False

    def unbegun(self) -> bool:
        """The call was not begun by the worker it was sent to; true if that is all, false if it
        is to be made by another."""
        return False

    def began(self) -> None:
        """The call begins now, from a lane that tells so."""

    def take_output(self, stream: str, lines: tuple[str, ...]) -> None:
        """Lines that the call has printed, from a lane that captures them."""

    def take_peak(self, memory_bytes: int) -> None:
        """The most memory that its worker held meanwhile, from a lane that measures that."""

    def report(self, done: float, total: float | None, message: str | None) -> None:
        """How far the call is."""

    def ends(self) -> None:
        """The call has ended; its times are not set yet, and what it reported last may be told."""

    def take_parts(self, parts: list[Any], worker: Any) -> Any:
        """The value of a call with a ``flow``, some of whose parts stayed with the worker."""
        return parts

    def dropped(self, worker: Any) -> None:
        """The worker of a call with a ``flow`` has let go of what that drops."""

    def __repr__(self) -> str:
        # What waits for capacity is told in sentences that name it; its fields may hold
        # arguments of any length.
        return repr(self.name)


class LaneStatistics(msgspec.Struct, frozen=True):
    """A lane at one moment: workers that live, of these busy, and workers lost to calls
    that were abandoned and have not ended."""

    workers: int
    busy: int
    lost: int


class Lane(ABC):
    """Runs calls somewhere.

    All methods are called on the event loop's thread and return at once.
    """

    name: ClassVar[str]
    # Workers whose calls wait for their nests are replaced, so that the nests find one; so many
    # of them also for work outside nests. Without a bound 10,000 steps that all nest would need
    # as many workers.
    most_replaced: ClassVar[int] = 64
    # Whether calls may begin some time after their start, and the lane calls began() then.
    tells_begin: ClassVar[bool] = False
    # Whether calls may be started on a worker that is busy, and wait there for their turn.
    queues: ClassVar[bool] = False

    @abstractmethod
    def start(self, call: Call) -> None:
        """Begin to run a call; never raises for what the function does."""

    @abstractmethod
    def cancel(self, call: Call) -> None:
        """Ask a running call to stop; ``call.cancel_requested`` is already set."""

    def kill(self, call: Call) -> bool:
        """End a call that ignored its cancel by force; false where nothing can.

        The call reports soon.
        """
        return False

    @abstractmethod
    def abandon(self, call: Call) -> None:
        """Stop counting on a call that ignored its cancel; its worker is lost."""

    def recall(self, call: Call) -> None:
        """Have a call come back that has been started and has not begun, if it still can."""
        return

    def send_ahead(self, calls: list[Any], worker: Any) -> int:
        """Send calls to a worker that is kept for their group, before it is their turn: the
        worker goes on with them by itself. Gives how many of them, from the first, were sent.

        Called right behind the start of a call of that group, also with no calls: what goes to
        the worker then is one message.
        """
        return 0

    def drop_ahead(self, worker: Any) -> None:
        """What was sent ahead shall not be made."""
        return

    def is_open(self, worker: Any, call: Call) -> bool:
        """Whether further calls that are like this one may be sent to its worker."""
        return False

    def prepare(self, count: int, kind: Any = None) -> None:
        """Have idle workers (of a kind), where starting one takes a while; more are not started
        than the lane may have."""
        return

    @abstractmethod
    def has_room(self) -> bool:
        """Whether a call without a worker could start now."""

    @abstractmethod
    def reserve(self, kind: Any = None) -> Any:
        """A worker (of a kind, where a lane has several) for all members of a group, kept until
        :meth:`release`.

        Called only while :meth:`has_room` is true. None if there is none to be had; the
        next :meth:`start` will report that as its call's error.
        """

    @abstractmethod
    def release(self, worker: Any) -> None:
        """A worker that was kept for a group is free again."""

    def spoil(self, worker: Any) -> None:
        """A worker is not to be used again once it is released, where that could matter."""
        return

    @abstractmethod
    def lend(self, worker: Any) -> None:
        """A worker's call only waits for its nest: do not count it for a while."""

    @abstractmethod
    def take_back(self, worker: Any) -> None:
        """Count a worker again that was lent."""

    @abstractmethod
    def statistics(self) -> LaneStatistics:
        """The lane at this moment."""

    def pids(self) -> list[int]:
        """The processes that are the lane's own."""
        return []

    async def finish(self) -> None:
        """Let idle workers end in peace, before :meth:`close` ends them all."""
        return

    @abstractmethod
    def close(self) -> None:
        """End all idle workers; nothing may be running but abandoned calls."""


def invoke(call: Call) -> Any:
    """Call a sync function; a coroutine that it returns was forgotten, not asked for."""
    CURRENT.set(call)
    try:
        value = call.func(*call.args, **(call.kwargs or {}))
    finally:
        CURRENT.set(None)
    if inspect.iscoroutine(value):
        refuse_coroutine(value, call.name)
    return value


def refuse_coroutine(value: Coroutine[Any, Any, Any], name: str) -> NoReturn:
    """Close a coroutine that a sync function returned.

    Raises:
        TypeError: always; it says what to do.
    """
    value.close()
    raise TypeError(
        f"the sync function of step {name!r} returned a coroutine; "
        "declare it with 'async def', or await the coroutine in it"
    )


def without_lane_frames(error: BaseException) -> BaseException:
    """The error with the frames of the lane cut from the top: its own, and that of ``invoke``."""
    traceback: TracebackType | None = error.__traceback__
    if traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
        if traceback.tb_frame.f_code is invoke.__code__ and traceback.tb_next is not None:
            traceback = traceback.tb_next
    error.__traceback__ = traceback
    return error
