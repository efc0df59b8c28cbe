"""Attempts that take named keys: which ones, when they start, and when to ask for them again."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from math import inf
from typing import TYPE_CHECKING

from asyncflow import events
from asyncflow.engine.attempt import Attempt, Phase, parent_of
from asyncflow.engine.capacity import Lease
from asyncflow.engine.item_limits import ItemLimits
from asyncflow.errors import CapacityError, StepFailed, text_of
from asyncflow.limits import Keys, keys_of
from asyncflow.states import FAILED

if TYPE_CHECKING:
    from asyncflow.engine.items import ItemCall
    from asyncflow.engine.scheduler import Scheduler

__all__ = ["Limited", "leases_above"]


class Limited:
    """The named keys of one scheduler's attempts.

    A key is taken for each attempt and held while it runs; while it waits for its nest, too. In
    a group each member takes its own.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._timer: asyncio.TimerHandle | None = None
        # Those whose lanes have not told yet when they began.
        self._starting: list[Attempt | ItemCall] = []
        self.streams: set[ItemLimits] = set()
        self.items_waiting = 0

    # -- which keys ----------------------------------------------------------------------

    def keys_of(self, attempt: Attempt) -> Keys | None:
        """The keys that an attempt takes; None if it was refused, which fails its node."""
        if attempt.keys is None:
            try:
                attempt.keys = self._evaluated(attempt)
            except BaseException as error:  # noqa: BLE001 - the function is the user's
                self._refuse(attempt, _broken(attempt, error))
                return None
            why = self._why_never(attempt, attempt.keys)
            if why is not None:
                self._refuse(
                    attempt, CapacityError(f"step {attempt.name!r} can never start: {why}")
                )
                return None
        return attempt.keys

    def _evaluated(self, attempt: Attempt) -> Keys:
        step = attempt.run.graph.nodes[attempt.node].step
        template = attempt.run.graph.limits[attempt.node]
        if template is None:
            return step.static_keys
        args, kwargs = template.bind(self._scheduler.starting.frame(attempt))
        assert callable(step.limits)
        return keys_of(step.limits(*args, **kwargs))

    def _why_never(self, attempt: Attempt, keys: Keys) -> str | None:
        """Why these can never be had, or not while those wait that this one is nested in."""
        run, limiter = attempt.run, self._scheduler.limiter
        # Those of a graph that do not depend on anything were checked before it began; if a
        # limit has become smaller since, they get all there is.
        if run.graph.limits[attempt.node] is not None or attempt.node in run.nested:
            why = limiter.refusal_of_keys(keys)
            if why is not None:
                return why
        above = leases_above(parent_of(attempt))
        return limiter.refusal_within(keys, above) if above else None

    def _refuse(self, attempt: Attempt, error: BaseException) -> None:
        attempt.error = error
        self._scheduler.settlement.refuse(attempt, FAILED)

    # -- when they start -----------------------------------------------------------------

    def note_start(self, attempt: Attempt | ItemCall) -> None:
        """What was counted by a rate was handed to its lane."""
        if not self._tell(attempt):
            self._starting.append(attempt)

    def look(self) -> None:
        """Have rates count attempts from when they began; those that have not, from now."""
        if self._starting:
            self._starting = [attempt for attempt in self._starting if not self._tell(attempt)]

    def _tell(self, attempt: Attempt | ItemCall) -> bool:
        lease = attempt.lease
        if lease is None or lease.released:
            return True
        at = attempt.started or self._scheduler.clock()
        self._scheduler.limiter.started(lease, at)
        return bool(attempt.started)

    # -- when to ask again ---------------------------------------------------------------

    def set_timer(self) -> None:
        """See that the limiter is asked again when a token that somebody waits for is there.

        While that timer is set, nothing is stuck.
        """
        scheduler = self._scheduler
        at = scheduler.limiter.wake_at()
        if scheduler.in_flight >= scheduler.max_concurrency and not self.items_waiting:
            at = inf  # nothing could start before something else ends
        if self._timer is not None:
            if self._timer.when() == at:
                return
            self._drop_timer()
        if at < inf:
            self._timer = scheduler.loop.call_at(at, self._ask_again, context=scheduler.context)
            scheduler.timers += 1

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._scheduler.timers -= 1

    def _ask_again(self) -> None:
        self._drop_timer()
        self._scheduler.ask_again()

    def close(self) -> None:
        """Ask no more."""
        for stream in list(self.streams):
            stream.runtime_closed()
        self._drop_timer()

    # -- streams -------------------------------------------------------------------------

    def grant_to_streams(self, most: int) -> bool:
        """Grant what streams wait for while no attempt may start: they have windows of their own.

        Returns:
            Whether there may be more to grant.
        """
        limiter = self._scheduler.limiter
        for _ in range(most if self.items_waiting else 0):
            granted = limiter.grant(self._scheduler.clock(), to=_is_stream)
            if granted is None:
                return limiter.has_more
            self._scheduler.take(*granted)
        return self.items_waiting > 0

    # -- limits of 0 ---------------------------------------------------------------------

    def is_paused(self) -> bool:
        """Whether somebody waits for a key that was set to 0, and told so.

        That is no reason to fail anything: it ends when the limit is changed.
        """
        paused = False
        for run in self._scheduler.runs.values():
            for attempt in run.parked.values():
                if attempt.phase is not Phase.CAPACITY:
                    continue
                key = self._scheduler.limiter.paused_key(attempt)
                paused = paused or key is not None
                if key is not None and key not in run.told_of_pause:
                    run.told_of_pause.add(key)
                    message = (
                        f"step {attempt.name!r} waits for the limit {key!r}, which is 0 until "
                        "Runtime.set_limit() changes it"
                    )
                    run.bus.publish(events.Warned, message=message)
        return paused


def _is_stream(owner: Hashable) -> bool:
    return isinstance(owner, ItemLimits)


def _broken(attempt: Attempt, error: BaseException) -> StepFailed:
    failed = StepFailed(
        f"the limits of step {attempt.name!r} raised {text_of(error)}; the function takes inputs "
        "by name and returns a key, several, or a mapping from keys to weights",
        step=attempt.name,
        attempt=attempt.number,
    )
    failed.__cause__ = error
    return failed


def leases_above(attempt: Attempt | None) -> list[Lease]:
    """The leases of an attempt and those that it is nested in, the nearest first."""
    above: list[Lease] = []
    while attempt is not None:
        if attempt.lease is not None:
            above.append(attempt.lease)
        attempt = parent_of(attempt)
    return above
