"""One run of a project: a step that asks for operations as their conditions come true."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from asyncflow.context import StepContext
from asyncflow.errors import WorkerDied
from asyncflow.flow.admitting import admit
from asyncflow.flow.agenda import Agenda, Entry
from asyncflow.flow.circles import Circles
from asyncflow.flow.errors import UserOperationError
from asyncflow.flow.forecast import Forecast
from asyncflow.flow.groups import FlowGroup
from asyncflow.flow.judging import FAILURES, Judge
from asyncflow.flow.selecting import Selection
from asyncflow.flow.steps import BatchPace, Settings, StepMaker, runs_on_loop
from asyncflow.flow.working import Errand, ErrandFailed

if TYPE_CHECKING:
    from asyncflow.runtime import Runtime

__all__ = ["Session"]

_LOGGER = logging.getLogger("asyncflow")

_AT_ONCE = 1000  # coroutine operations
_JUDGED_AT_ONCE = 200
# Of what takes time on the event loop, so much without letting others have a turn.
_STARTED_AT_ONCE = 50
_ADDED_AT_ONCE = 1000


class Session:
    """Runs a selection of groups on their aggregates, each as soon as its conditions allow."""

    def __init__(self, selection: Selection, settings: Settings) -> None:
        self._settings = settings
        self._places = settings.np or 1
        self._agenda = Agenda(settings.order, settings.num, settings.num_passes)
        self._judge = Judge()
        groups = {group.name: group for group, _, _ in selection}
        self._steps = StepMaker(groups.values(), settings)
        self._pace = BatchPace(self._places == 1)
        self._under_way: dict[asyncio.Task[None], bool] = {}
        self._over: deque[asyncio.Task[None]] = deque()
        self._something_ended = asyncio.Event()
        self._workers_busy = 0
        # Told to the judge before it judges next, for it works in a thread.
        self._changed: list[Any] = []
        self._rounds: dict[tuple[str, str], int] = {}
        self.failures: list[UserOperationError] = []
        self.executed = 0
        self._selection = selection
        self._on_loop = {name: runs_on_loop(group) for name, group in groups.items()}
        self._circles = Circles(groups.values())

    def start_workers(self, runtime: Runtime) -> None:
        """Have workers load while conditions are asked."""
        cpus = self._steps.cpus_of_workers()
        if self._selection and cpus is not None:
            runtime.start_workers(min(self._places, len(self._selection)), cpus=cpus)

    async def admit(self, runtime: Runtime) -> None:
        """Refuse what the runtime can never grant, before anything is executed.

        Not so where that is to be a failure beside which the rest goes on, or where ``num`` may
        end the run before.

        Raises:
            CapacityError, UserConditionError: as :func:`asyncflow.flow.admitting.admit`.
        """
        if not self._settings.keep_going and self._settings.num is None:
            forecast = Forecast(self._selection, self._judge, self._settings.ignore)
            await admit(runtime, self._selection, self._steps, forecast)

    async def conduct(self, context: StepContext) -> int:
        """Execute all there is to execute; returns how many operations were executed.

        Raises:
            UserOperationError, UserConditionError: the first failure, once all others ended.
        """
        await self._fill_agenda()
        try:
            while not self._is_to_stop():
                # What may start does so first: conditions are asked while it runs.
                more = self._start_some(context)
                more = await self._judge_some() or more
                if more:
                    await asyncio.sleep(0)
                elif self._under_way:
                    await self._something_ended.wait()
                elif self._agenda.idle and not self._agenda.look_once_more():
                    break
                self._take_note_of_ends()
        finally:
            await self._cancel_all()
            self._steps.close()
        if self.failures:
            raise self._failure()
        if self._agenda.cut_short:
            _LOGGER.warning("num (-n) ended the run; there is more to do")
        if self._circles:
            await asyncio.to_thread(
                self._circles.warn, self._selection, self._judge_now(), self._settings.ignore
            )
        return self.executed

    async def _fill_agenda(self) -> None:
        for count, (group, aggregate_id, jobs) in enumerate(self._selection, start=1):
            self._agenda.add(group, aggregate_id, jobs, self._on_loop[group.name])
            if not count % _ADDED_AT_ONCE:
                await asyncio.sleep(0)

    def _is_to_stop(self) -> bool:
        return bool(self.failures) and not self._settings.keep_going

    def _failure(self) -> UserOperationError:
        first, *others = self.failures
        for other in others[:20]:
            first.add_note(f"also: {other}")
        if len(others) > 20:
            first.add_note(f"and {len(others) - 20} more")
        return first

    # -- conditions ----------------------------------------------------------------------

    async def _judge_some(self) -> bool:
        """Ask the conditions of some entries; false if there were none to ask about."""
        entries = self._agenda.to_judge(_JUDGED_AT_ONCE)
        if not entries:
            return False
        if all(_asks_nothing(entry.group) for entry in entries):
            verdicts = [True] * len(entries)
        else:
            self._judge_now()
            # Conditions are the project's own code and read files: not on the event loop.
            verdicts = await asyncio.to_thread(self._verdicts, entries)
        for entry, eligible in zip(entries, verdicts, strict=True):
            self._agenda.judged(entry, eligible)
        return True

    def _judge_now(self) -> Judge:
        self._judge.changed(self._changed)
        self._changed.clear()
        return self._judge

    def _verdicts(self, entries: Iterable[Entry]) -> list[bool]:
        ignore = self._settings.ignore
        return [
            any(
                self._judge.eligible(entry.group.operations[name], entry.jobs, ignore)
                for name in self._agenda.allowed(entry)
            )
            for entry in entries
        ]

    # -- execution -----------------------------------------------------------------------

    def _start_some(self, context: StepContext) -> bool:
        """Start what may start; returns whether there may be more of it."""
        more = self._start_on_loop(context)
        while self._workers_busy < self._places and (batch := self._take_batch()):
            self._workers_busy += 1
            self._start(context, batch)
        return more

    def _start_on_loop(self, context: StepContext) -> bool:
        for _ in range(_STARTED_AT_ONCE):
            if len(self._under_way) >= _AT_ONCE or not (entry := self._agenda.take(True)):
                return False
            self._start(context, [entry])
        return True

    def _take_batch(self) -> list[Entry]:
        """What goes to a worker at once: one entry, or several of those that take no time."""
        first = self._agenda.take(False)
        if first is None:
            return []
        crew = self._steps.crew_of(first)
        batch = [first]
        share = self._agenda.count_waiting(False) // self._places
        while len(batch) <= min(share, self._pace.size(crew) - 1):
            entry = self._agenda.take(False, lambda other: self._steps.crew_of(other) == crew)
            if entry is None:
                break
            batch.append(entry)
        return batch

    def _start(self, context: StepContext, batch: list[Entry]) -> None:
        task = asyncio.ensure_future(self._perform(context, batch))
        self._under_way[task] = batch[0].is_concurrent
        task.add_done_callback(self._note_end)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._over.append(task)
        self._something_ended.set()

    def _take_note_of_ends(self) -> None:
        self._something_ended.clear()
        while self._over:
            task = self._over.popleft()
            if not self._under_way.pop(task):
                self._workers_busy -= 1
            task.result()

    async def _cancel_all(self) -> None:
        for task in self._under_way:
            task.cancel()
        if self._under_way:
            await asyncio.wait(self._under_way)
        self._under_way.clear()
        self._over.clear()

    async def _perform(self, context: StepContext, batch: list[Entry]) -> None:
        crew = self._steps.crew_of(batch[0])
        try:
            step, by_ids = self._steps.step_for(batch[0])
            errands = tuple(
                Errand(
                    entry.group.name,
                    tuple(job.id for job in entry.jobs) if by_ids else entry.jobs,
                    self._agenda.allowed(entry),
                )
                for entry in batch
            )
            ignore = int(self._settings.ignore)
            report = await context.call(step, errands, ignore, key=self._key(batch))
        except ErrandFailed as failed:
            self._ended(batch, failed.executed)
            self._failed(batch[len(failed.executed)], failed.__cause__ or failed)
            self._put_back(batch[len(failed.executed) + 1 :])
        except WorkerDied as error:
            if len(batch) == 1:
                self._failed(batch[0], error)
            else:
                # It is not known which of them it was: each is tried by itself.
                self._pace.one_by_one(crew)
                self._put_back(batch)
        except FAILURES as error:  # told at the end
            self._failed(batch[0], error)
        else:
            self._pace.took(crew, len(batch), report.seconds)
            self._ended(batch, report.executed)

    def _ended(self, batch: list[Entry], executed: list[tuple[str, ...]]) -> None:
        for entry, names in zip(batch, executed, strict=False):
            self._changed.extend(entry.jobs)
            self._agenda.ended(entry, names)
            self.executed += len(names)

    def _failed(self, entry: Entry, error: BaseException) -> None:
        self._changed.extend(entry.jobs)
        self._agenda.failed(entry)
        self.failures.append(_told(entry, error))

    def _put_back(self, batch: list[Entry]) -> None:
        for entry in batch:
            self._changed.extend(entry.jobs)
            self._agenda.put_back(entry)

    def _key(self, batch: list[Entry]) -> str:
        """Tells calls apart: an entry may be executed again, or found not eligible."""
        first = batch[0]
        place = first.group.name, first.aggregate_id
        again = self._rounds[place] = self._rounds.get(place, 0) + 1
        key = first.aggregate_id if again == 1 else f"{first.aggregate_id}#{again}"
        return key if len(batch) == 1 else f"{key}+{len(batch) - 1}"


def _asks_nothing(group: FlowGroup) -> bool:
    return not any(op.pre or op.post for op in group.operations.values())


def _told(entry: Entry, error: BaseException) -> UserOperationError:
    if isinstance(error, UserOperationError):
        return error
    failed = UserOperationError(
        f"{entry.group.name!r} failed on {entry.aggregate_id}: {type(error).__name__}: {error}",
        operation=entry.group.name,
        aggregate_id=entry.aggregate_id,
    )
    failed.__cause__ = error
    return failed
