"""The worker's side: reads calls, makes them one after the other, tells what came of them.

The main thread makes the calls. A thread of its own reads the control channel: cancels, recalls
and answers, and the end of that channel, at which the whole process group dies at once, however
busy the main thread is.
"""

from __future__ import annotations

import contextvars
import functools
import gc
import inspect
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from asyncflow.lanes import flow
from asyncflow.lanes.process import wire
from asyncflow.lanes.process.hygiene import Hygiene
from asyncflow.lanes.process.memory import Memory
from asyncflow.lanes.process.payload import Parcel, discard, pack, plain_dumps, unpack
from asyncflow.lanes.process.streams import Streams
from asyncflow.pickling import here

if TYPE_CHECKING:
    import asyncio

    from asyncflow.lanes.process.control import Asked, RemoteControl

__all__ = ["Worker", "die", "main", "run"]

# A call that takes longer may have grown the process.
_LOOK_AT_MEMORY_SECONDS = 0.01


class Worker:
    """Makes the calls that come on one channel.

    Args:
        work, control: see :mod:`asyncflow.lanes.process.wire`.
        word: shared with the host; holds the number of the call that is being made.
        streams: where the output of calls goes.
        collect_at: thresholds of the garbage collector, for when the first function is loaded;
            None for those that it has.
    """

    def __init__(
        self,
        work: wire.Channel,
        control: wire.Channel,
        word: memoryview,
        streams: Streams,
        collect_at: tuple[int, ...] | None = None,
    ) -> None:
        self.work = work
        self._control = control
        self._word = word
        self._streams = streams
        self._collect_at = collect_at
        self._functions: dict[int, Callable[..., Any]] = {}
        self._waiting: deque[wire.HostFrame] = deque()
        self._hygiene = Hygiene()
        self._memory = Memory()
        # Guards what the two threads share: which call is being made, and which must not be.
        self._lock = threading.Lock()
        self._unwanted: set[int] = set()
        self._cancelled: set[int] = set()
        self._broken_chain = 0
        self._current = 0
        self._task: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_dirty = ""

    # -- the main thread -------------------------------------------------------------------

    def serve(self) -> None:
        """Make calls until the host closes the channel."""
        while (frames := self.work.receive()) is not None:
            self._waiting.extend(frames)
            while self._waiting:
                self._handle(self._waiting.popleft())

    def _handle(self, frame: wire.HostFrame) -> None:
        if isinstance(frame, wire.Run):
            for new in frame.new:
                self._learn(new)
            if self._may_begin(frame):
                self._make(frame)
            else:
                discard(frame.args, self.work.next_descriptor)
        elif isinstance(frame, wire.Forget):
            if frame.functions:
                self._functions.clear()
            for number in frame.kept:
                flow.VALUES.pop(number, None)

    def _may_begin(self, frame: wire.Run) -> bool:
        """Whether a call is still wanted; from then on it counts as begun."""
        number = frame.number
        with self._lock:
            if (frame.chain <= self._broken_chain) if frame.chain else self._is_dirty:
                wanted = False
            elif number in self._unwanted:
                self._unwanted.discard(number)
                return False  # it was told of already
            else:
                self._current, wanted = number, True
        if not wanted:
            self.tell(wire.Recalled([number]))
        return wanted

    def _break(self, chain: int) -> None:
        """Do not begin what is left of a chain, nor of one before it; later ones are higher."""
        self._broken_chain = max(self._broken_chain, chain)

    def _learn(self, new: wire.New) -> None:
        is_first = not self._functions
        try:
            self._functions[new.number] = pickle.loads(new.body)
        except BaseException as error:  # noqa: BLE001 - importing runs the user's code
            self._functions[new.number] = _Unloadable(error)
        if is_first:
            self._end_loading()

    def _end_loading(self) -> None:
        # Modules stay: no full collection, that at the end among them, need walk over them.
        gc.freeze()
        if self._collect_at is not None and not gc.get_threshold()[0]:
            gc.set_threshold(*self._collect_at)

    def _make(self, frame: wire.Run) -> None:
        """Make one call and tell what came of it."""
        number = frame.number
        wire.WORD.pack_into(self._word, 0, number)
        self._memory.begin()
        started = time.monotonic()
        parcel, failed = self._outcome(frame)
        finished = time.monotonic()
        try:
            descriptor = parcel.write()
        except OSError as error:
            parcel, descriptor, failed = self._failure(_no_room(parcel, error)), None, True
        if frame.flow is not None:
            for kept in frame.flow.keep if failed else frame.flow.drop:
                flow.VALUES.pop(kept, None)
        with self._lock:
            self._current = 0
            self._cancelled.discard(number)
            if failed:
                self._break(frame.chain)
        self._is_dirty = self._hygiene.changed()
        marks = self._streams.mark()
        kind = wire.Failed if failed else wire.Done
        outcome = kind(number, parcel.packet, started, finished, marks, self._is_dirty)
        if finished - started > _LOOK_AT_MEMORY_SECONDS:
            outcome.resident_bytes = self._memory.resident_bytes()
            outcome.peak_bytes = self._memory.peak_bytes()
        self.tell(outcome, descriptor)
        wire.WORD.pack_into(self._word, 0, 0)

    def _outcome(self, frame: wire.Run) -> tuple[Parcel, bool]:
        """What a call gives, ready to be sent, and whether that is an exception."""
        try:
            value = contextvars.copy_context().run(self._call, frame)
            if frame.flow is not None:
                value = _keep(value, frame.flow, frame.name)
            return self._packed(value, frame.name), False
        except BaseException as error:  # noqa: BLE001 - whatever it raises is its outcome
            error.__traceback__ = _without_own_frames(error)
            return self._failure(error), True

    def _call(self, frame: wire.Run) -> Any:
        args, kwargs = unpack(frame.args, self.work.next_descriptor)
        func = self._functions[frame.function]
        if frame.is_coroutine:
            return self._run_coroutine(frame.number, func, args, kwargs)
        if frame.number in self._cancelled:
            raise _cancelled_error()
        value = func(*args, **kwargs) if kwargs else func(*args)
        if inspect.iscoroutine(value):
            from asyncflow.lanes.lane import refuse_coroutine

            refuse_coroutine(value, frame.name)
        return value

    def _packed(self, value: Any, name: str) -> Parcel:
        try:
            return pack(value, result_dumps)
        except Exception as error:
            from asyncflow.pickling.unsendable import unsendable

            where = unsendable(value, "result", result_dumps, error)
            raise TypeError(
                f"step {name!r} returned what cannot be sent back from its worker: {where}; return "
                "something that can be pickled"
            ) from error

    def _failure(self, error: BaseException) -> Parcel:
        from asyncflow.lanes.process.raised import flatten

        return pack(flatten(error, result_dumps))

    # -- coroutines --------------------------------------------------------------------------

    def _run_coroutine(self, number: int, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run a coroutine function on the worker's own event loop."""
        import asyncio

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        outcome: list[Any] = []

        async def run() -> None:
            # SystemExit and KeyboardInterrupt, let out of a task, would end the loop as such.
            try:
                outcome.append(await func(*args, **(kwargs or {})))
            except BaseException as error:  # noqa: BLE001 - handed on right below
                outcome.append(None)
                outcome.append(error)

        task = self._loop.create_task(run())
        with self._lock:
            self._task = task
            if number in self._cancelled:
                task.cancel()
        try:
            self._loop.run_until_complete(task)
        except asyncio.CancelledError as error:
            outcome[:] = [None, error]
        finally:
            with self._lock:
                self._task = None
            self._end_tasks(self._loop)
        if len(outcome) > 1:
            raise outcome[1]
        return outcome[0]

    def _end_tasks(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel what a coroutine left behind on the loop."""
        import asyncio

        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=1))

    # -- the control thread ------------------------------------------------------------------

    def obey(self) -> None:
        """Read the control channel; at its end the host is gone, and so is this process."""
        try:
            self.obey_until_the_end()
        finally:
            die()

    def obey_until_the_end(self) -> None:
        """Read the control channel to its end."""
        while (frames := self._control.receive()) is not None:
            for frame in frames:
                self._obey_one(frame)

    @property
    def is_busy(self) -> bool:
        """Whether a call is being made."""
        return self._current != 0

    def _obey_one(self, frame: wire.HostFrame) -> None:
        if isinstance(frame, wire.Cancel):
            with self._lock:
                self._cancelled.add(frame.number)
                self._break(frame.chain)
                if self._task is not None and self._current == frame.number:
                    assert self._loop is not None
                    self._loop.call_soon_threadsafe(self._task.cancel)
        elif isinstance(frame, wire.Recall):
            self._recall(frame.numbers)
        elif isinstance(frame, wire.Answer):
            self.asked.answer(frame, self._control)

    def _recall(self, numbers: list[int]) -> None:
        with self._lock:
            recalled = [number for number in numbers if number > self._current]
            self._unwanted.update(recalled)
        self.tell(wire.Recalled(recalled))

    # -- what calls do -------------------------------------------------------------------------

    def tell(self, frame: wire.WorkerFrame, descriptor: int | None = None) -> None:
        """Send a frame to the host; from any thread."""
        try:
            self.work.send(frame, descriptor)
        except ConnectionError:
            die()

    def log(self, fields: dict[str, Any]) -> None:
        """Send a log record to the host."""
        self.tell(wire.LogLine(pickle.dumps(fields)))

    def control(self) -> RemoteControl:
        """What the context of the call that is being made needs."""
        from asyncflow.lanes.process.control import RemoteControl

        return RemoteControl(self, self._current)

    @functools.cached_property
    def asked(self) -> Asked:
        """What calls have asked the host for."""
        from asyncflow.lanes.process.control import Asked

        return Asked(self)

    def dumps(self, value: Any, take: Any = None) -> bytes:
        """Pickle something for the host."""
        return result_dumps(value, take)

    def is_cancelled(self, number: int) -> bool:
        """Whether a call was told to stop."""
        return number in self._cancelled


class _Unloadable:
    """In the place of a function that could not be loaded."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError(
            "the step's function cannot be loaded in a worker: "
            f"{type(self._error).__name__}: {self._error}; its module has to be importable there "
            "from the same sys.path"
        ) from self._error


def result_dumps(value: Any, take: Any = None) -> bytes:
    """Pickle a result: by cloudpickle where pickle fails, as for what lives in ``__main__``."""
    try:
        return plain_dumps(value, take)
    except Exception:  # noqa: BLE001 - cloudpickle says what is wrong, if anything is
        from asyncflow.pickling.by_value import dumps_by_value

        return dumps_by_value(value, take)


def _keep(value: Any, told: flow.Flow, name: str) -> Any:
    """Keep what stays here; what goes back is the rest."""
    parts = [value] if told.parts is None else flow.parts_of(value, told.parts, name)
    for number, part in zip(told.keep, parts, strict=True):
        if number:
            flow.VALUES[number] = part
    back = [part if wanted else None for part, wanted in zip(parts, told.back, strict=True)]
    if flow.GIVE_IF_POSSIBLE in told.back:
        for place, wanted in enumerate(told.back):
            if wanted == flow.GIVE_IF_POSSIBLE and not _can_travel(back[place]):
                back[place] = flow.Stayed()
    return back


def _can_travel(value: Any) -> bool:
    try:
        result_dumps(value, lambda _: False)
    except Exception:  # noqa: BLE001 - pickling calls the user's code
        return False
    return True


def _without_own_frames(error: BaseException) -> Any:
    """The traceback from where the step's own code begins."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
        traceback = traceback.tb_next
    return traceback


def _no_room(parcel: Parcel, error: OSError) -> MemoryError:
    return MemoryError(
        f"a result of {parcel.large_bytes:,} bytes found no room in memory ({error})"
    )


def _cancelled_error() -> BaseException:
    import asyncio

    return asyncio.CancelledError("it was cancelled before it began")


def die() -> None:
    """End this process and all that it has started, at once."""
    with suppress(OSError):
        os.killpg(os.getpgrp(), signal.SIGKILL)
    # The first process of a container cannot be killed from inside; with it go all others.
    os._exit(1)


def _die_with(host: int) -> None:
    """See that the kernel kills this process when its host dies."""
    if sys.platform != "linux":
        return
    import ctypes

    set_death_signal = 1
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    if os.getppid() != host:  # it died before that
        die()


def main(
    work: int,
    control: int,
    word: int,
    host: int,
    mark: bytes,
    levels: dict[str, int],
    cpus: int,
    collect_at: tuple[int, ...],
) -> None:
    """Serve a host until it closes the channel.

    Args:
        work, control, word: descriptors.
        host: the process to die with.
        mark: what stands behind the output of a call.
        levels: of the host's loggers that have one set, by name.
        cpus: how many its calls hold.
        collect_at: thresholds of the garbage collector, which is at rest until all is loaded.
    """
    import mmap

    worker = Worker(
        wire.Channel(socket.socket(fileno=wire.out_of_the_way(work)), wire.HostFrame),
        wire.Channel(socket.socket(fileno=wire.out_of_the_way(control)), wire.HostFrame),
        memoryview(mmap.mmap(word, wire.WORD.size)),
        Streams(mark),
        collect_at,
    )
    os.close(word)

    def obey() -> None:
        _die_with(host)
        worker.obey()

    run(worker, obey, levels, cpus)


def run(worker: Worker, obey: Callable[[], None], levels: dict[str, int], cpus: float) -> None:
    """Have a worker serve until the host closes the channel.

    Args:
        obey: what its control thread does.
        levels: of the host's loggers that have one set, by name.
        cpus: how many its calls hold.
    """
    here.control, here.leased_cpus = worker.control, cpus
    threading.Thread(target=obey, name="asyncflow-control", daemon=True).start()
    from asyncflow.lanes.process import worker_logging

    worker_logging.install(worker.log, levels)
    worker.tell(wire.Hello(os.getpid()))
    worker.serve()
