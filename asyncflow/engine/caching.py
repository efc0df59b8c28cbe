"""The cache, as the scheduler uses it: a look before a node starts, and a save after it.

Both are calls of their own in the inline lane that wait for a thread: hashing, reading and
writing never hold the loop. A node that is being looked up waits, as one whose condition is being
evaluated does; it asks for capacity and a worker only if there is nothing. A result is saved
before those below may start, so that nobody changes it meanwhile.

Whatever goes wrong here, the step runs and its result counts: a fault of the cache is a warning.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from asyncflow import events
from asyncflow.engine.attempt import Attempt, Phase, Stop
from asyncflow.engine.outcome import store
from asyncflow.errors import NotReadable, NotRecordable, StorageError, text_of
from asyncflow.graph.binding import Frame, FromContext, FromFailure, FromOutside, Source
from asyncflow.states import RUNNING, SUCCEEDED
from asyncflow.step import Step

if TYPE_CHECKING:
    from asyncflow.engine.scheduler import Scheduler
    from asyncflow.storage.cache import CacheStore, Hit
    from asyncflow.storage.cache_keys import Argument
    from asyncflow.storage.codec import Codec

__all__ = ["Caching", "Looked", "OpenCache"]

_THREADS: Final = 2


class OpenCache(msgspec.Struct, frozen=True):
    """A store and the user's codecs, which also make digests."""

    store: CacheStore
    codecs: tuple[Codec, ...] = ()


class Looked(msgspec.Struct):
    """That a node was looked up, and under which key; ``result`` is what is being saved, with
    the times and the lane of the attempt that made it."""

    key: bytes | None = None
    result: tuple[Any, float, float, Any] | None = None


class Caching:
    """The cache of one scheduler.

    Args:
        scheduler: whose.
        open_cache: opens it when first a step asks for it; None where nothing is cached.
    """

    def __init__(self, scheduler: Scheduler, open_cache: Callable[[], OpenCache] | None) -> None:
        self._scheduler = scheduler
        self._open_cache = open_cache
        self._opened: OpenCache | None = None
        self._threads: ThreadPoolExecutor | None = None

    def wants(self, attempt: Attempt) -> bool:
        """Whether the node of an attempt is to be looked up before it starts."""
        if attempt.looked is not None or self._open_cache is None:
            return False
        return attempt.run.graph.nodes[attempt.node].step.cache is not False

    @property
    def _cache(self) -> OpenCache:
        if self._opened is None:
            assert self._open_cache is not None
            self._opened = self._open_cache()
        return self._opened

    # -- looking -------------------------------------------------------------------------

    def look_up(self, attempt: Attempt) -> None:
        """See whether the result of an attempt is there already."""
        attempt.looked = Looked()
        step = attempt.run.graph.nodes[attempt.node].step
        self._call(attempt, Phase.LOOKUP, self._look, [step, list(_arguments(self, attempt))])

    async def _look(
        self, step: Step[..., Any], arguments: list[Argument]
    ) -> tuple[bytes | None, Hit | None, str]:
        found = await self._in_thread(_look, self._cache, step, arguments)
        return cast("tuple[bytes | None, Hit | None, str]", found)

    def looked(self, attempt: Attempt) -> None:
        """A look is over: go on with what was found, or run the step."""
        run, settlement = attempt.run, self._scheduler.settlement
        if attempt.stop is Stop.CANCEL or run.bars(attempt.node):
            settlement.end_unstarted(attempt)
            return
        assert attempt.looked is not None
        found: Any = attempt.value
        error = attempt.error
        _make_ready(attempt)
        if error is not None:
            self._warn(attempt, f"the cache could not be asked: {text_of(error)}; the step runs")
            self._scheduler.starting.advance(attempt)
            return
        attempt.looked.key, hit, warning = found
        if warning:
            self._warn(attempt, f"{warning}; the step runs")
        if hit is not None and store(run, attempt.node, hit.value) is None:
            run.cached.add(attempt.node)
            run.states[attempt.node] = RUNNING
            run.finished[attempt.node] = self._scheduler.clock()
            settlement.reach(run, attempt.node, SUCCEEDED)
            settlement.next_member(attempt)
        else:
            self._scheduler.starting.advance(attempt)

    # -- saving --------------------------------------------------------------------------

    def save(self, attempt: Attempt) -> bool:
        """Begin to save the result of an attempt; false if there is no need."""
        looked = attempt.looked
        if looked is None or looked.key is None or attempt.run.bars(attempt.node):
            return False
        looked.result = (attempt.value, attempt.started, attempt.finished, attempt.lane)
        step = attempt.run.graph.nodes[attempt.node].step
        _make_ready(attempt)
        self._call(attempt, Phase.SAVING, self._save, [step, looked.key, looked.result[0]])
        return True

    async def _save(self, step: Step[..., Any], key: bytes, value: Any) -> str:
        return cast("str", await self._in_thread(_save, self._cache, step, key, value))

    def saved(self, attempt: Attempt) -> None:
        """Saving is over, one way or the other: the attempt counts as what it was."""
        looked = attempt.looked
        assert looked is not None
        assert looked.result is not None
        warning = attempt.value if attempt.error is None else text_of(attempt.error)
        if warning and attempt.stop is not Stop.CANCEL:
            self._warn(attempt, f"its result is not cached: {warning}")
        attempt.value, attempt.started, attempt.finished, attempt.lane = looked.result
        attempt.error = looked.result = looked.key = None
        attempt.phase = Phase.RUNNING
        attempt.stop = Stop.NONE

    # -- threads -------------------------------------------------------------------------

    def _call(
        self, attempt: Attempt, phase: Phase, func: Callable[..., Any], args: list[Any]
    ) -> None:
        attempt.func, attempt.args, attempt.kwargs = func, args, None
        attempt.is_coroutine = True
        attempt.phase = phase
        self._scheduler.starting.start_in(attempt, self._scheduler.inline)

    async def _in_thread(self, func: Callable[..., Any], *args: Any) -> Any:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, "asyncflow-cache")
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, context.run, func, *args)

    async def aclose(self) -> None:
        """Wait for what is being written, beside the loop, and end the threads."""
        threads, self._threads = self._threads, None
        if threads is not None:
            await asyncio.to_thread(threads.shutdown)

    def _warn(self, attempt: Attempt, message: str) -> None:
        run, name = attempt.run, attempt.name
        run.bus.publish(events.Warned, node=name, message=f"step {name!r}: {message}")


def _make_ready(attempt: Attempt) -> None:
    """As it was before the call that has just ended."""
    attempt.phase = Phase.READY
    attempt.started = attempt.finished = 0.0
    attempt.value = attempt.error = attempt.handle = None


def _arguments(caching: Caching, attempt: Attempt) -> Iterator[Argument]:
    """What a step is called with, as far as it counts: services and contexts do not."""
    from asyncflow.storage.cache_keys import Argument

    run, node = attempt.run, attempt.node
    step, template = run.graph.nodes[node].step, run.graph.templates[node]
    frame: Frame = caching._scheduler.starting.frame(attempt)
    names = [parameter.name for parameter in step.parameters]
    last = len(names) - 1
    for place, source in enumerate(template.args):
        if _counts(source, run.services):
            yield Argument(names[min(place, last)], source.fetch(frame))
    for name, source in template.kwargs:
        if _counts(source, run.services):
            yield Argument(name, source.fetch(frame))


def _counts(source: Source, services: frozenset[str]) -> bool:
    if isinstance(source, FromOutside):
        return source.name not in services
    return not isinstance(source, FromContext | FromFailure)


# -- in the thread -----------------------------------------------------------------------


def _look(
    cache: OpenCache, step: Step[..., Any], arguments: list[Argument]
) -> tuple[bytes | None, Hit | None, str]:
    from asyncflow.storage.cache_keys import key_of
    from asyncflow.storage.typed import annotation_of

    try:
        key = key_of(step, arguments, cache.codecs)
    except NotRecordable as refused:
        return None, None, f"it cannot be cached: {refused}"
    except Exception as error:  # noqa: BLE001 - the callable that makes the key is the user's
        return None, None, f"it cannot be cached: its cache= callable raised {text_of(error)}"
    try:
        return key, cache.store.load(key, annotation_of(step.func)), ""
    except NotReadable as damaged:
        return key, None, f"its entry in the cache is damaged ({damaged})"
    except (StorageError, OSError) as error:
        return key, None, f"the cache cannot be read ({text_of(error)})"


def _save(cache: OpenCache, step: Step[..., Any], key: bytes, value: Any) -> str:
    """Why a result was not saved; empty if it was."""
    from asyncflow.storage.typed import annotation_of

    try:
        cache.store.save(key, value, annotation_of(step.func))
    except NotRecordable as refused:
        return str(refused)
    except (StorageError, OSError) as error:
        return text_of(error)
    return ""
