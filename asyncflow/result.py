"""What came of a run, for people and programs."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec

from asyncflow.errors import (
    AsyncflowError,
    StepCancelled,
    StepFailed,
    StepSkipped,
    StorageError,
    text_of,
)
from asyncflow.graph.names import nearest
from asyncflow.quantities import format_seconds
from asyncflow.states import NodeState, RunState
from asyncflow.step import Step

if TYPE_CHECKING:
    from asyncflow.timeline import Bar

__all__ = ["PipelineResult", "StepResult"]

T = TypeVar("T")
D = TypeVar("D")
_GOOD = frozenset({NodeState.SUCCEEDED, NodeState.SKIPPED})


class StepResult(msgspec.Struct, frozen=True):
    """What came of one node.

    ``duration_seconds`` is that of the last attempt, ``queued_seconds`` the time between
    the end of the last parent and its start. ``error`` is the exception object. ``worker``
    names the thread or process that ran it, "" on the event loop. ``stdout`` is what it printed
    in a process, the last megabyte of it. ``peak_memory_bytes`` is the most that its worker
    process held while it ran, measured where that took more than 10 ms, else 0. ``cached``: the
    output was taken from the cache, and there was no attempt. ``resumed``: it ended in an earlier
    life of the run, and was not run again. A skip counts as success.
    """

    step_name: str
    status: NodeState
    output: Any = None
    error: BaseException | None = None
    attempts: int = 0
    duration_seconds: float = 0.0
    queued_seconds: float = 0.0
    lane: str = ""
    worker: str = ""
    stdout: str = ""
    peak_memory_bytes: int = 0
    cached: bool = False
    resumed: bool = False

    @property
    def success(self) -> bool:
        """Whether it succeeded or was skipped."""
        return self.status in _GOOD

    @property
    def skipped(self) -> bool:
        """Whether its condition, or that of a step above it, was false."""
        return self.status is NodeState.SKIPPED


class StepResults(Mapping[str, StepResult]):
    """Results by node name, made when looked at: 100,000 of them cost nothing until then."""

    def __init__(self, names: Mapping[str, int], make: Callable[[int], StepResult]) -> None:
        self._names = names
        self._make = make

    def __getitem__(self, name: str | Step[..., Any]) -> StepResult:
        return self._make(self._names[name.name if isinstance(name, Step) else name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"<results of {len(self)} steps>"


class ResultSource(msgspec.Struct, frozen=True):
    """What a :class:`PipelineResult` reads from, so that it need not know the engine.

    The first ``size`` nodes are those of the pipeline itself; elements of mapped nodes and
    nested calls come after them.
    """

    names: Mapping[str, int]
    assets: Mapping[str, int]
    step_of: Callable[[int], Step[..., Any]]
    make: Callable[[int], StepResult]
    value_of_node: Callable[[int], Any]
    value_of_asset: Callable[[int], Any]
    producers_of: Callable[[int], tuple[int, ...]]
    kept: Callable[[Any], bool]
    stayed: Callable[[Any], bool]
    counts: Callable[[], dict[NodeState, int]]
    failed: Callable[[], list[int]]
    durations: Callable[[], Iterable[tuple[float, int]]]
    is_part: bool
    states: Callable[[], dict[str, NodeState]]
    size: int
    bars: Callable[[], Iterable[Bar]]


def _told_first(result: StepResult) -> int:
    """Of the steps that may produce an asset: one that failed, then one that succeeded."""
    return 0 if not result.success else 2 if result.skipped else 1


def _let_go(name: str, result: StepResult, *, stayed: bool) -> StepFailed:
    """The value was made, and is not here."""
    why = (
        "stayed in the worker of its group, where only other members took it; name it in "
        "the pipeline's outputs= to have it"
        if stayed
        else "was not kept: it is not among the pipeline's outputs="
    )
    return StepFailed(
        f"the value of {name!r} {why}", step=result.step_name, attempt=result.attempts
    )


def _not_made(name: str, result: StepResult, reason: str) -> StepFailed:
    """The value was never made; the cause is what the step raised, if it did."""
    step, error = result.step_name, result.error
    told: StepFailed
    if result.skipped:
        return StepSkipped(f"{name!r} has no value: step {step!r} was skipped", step=step)
    if result.status is NodeState.CANCELLED and not isinstance(error, StepCancelled):
        why = f" ({reason})" if reason else ""
        told = StepCancelled(
            f"{name!r} has no value: step {step!r} was cancelled{why}",
            step=step,
            attempt=result.attempts,
        )
    elif isinstance(error, AsyncflowError) and isinstance(error, StepFailed):
        return error
    else:
        what = "" if name == step else f"{name!r} has no value: "
        told = StepFailed(
            f"{what}step {step!r} {result.status} at attempt {result.attempts}: {text_of(error)}",
            step=step,
            attempt=result.attempts,
        )
    if error is not None:
        told.__cause__ = error
    return told


class PipelineResult:
    """The outcome of a run.

    Example:
        >>> from asyncflow import Pipeline, step
        >>> @step
        ... def one() -> int:
        ...     return 1
        >>> result = Pipeline("count", steps=[one]).run_sync()
        >>> result.success, result["one"], result.step_results["one"].attempts
        (True, 1, 1)
    """

    def __init__(
        self,
        *,
        run_id: str,
        pipeline_name: str,
        state: RunState,
        duration_seconds: float,
        reason: str,
        source: ResultSource,
        resumed: bool = False,
        recording_error: StorageError | None = None,
    ) -> None:
        self.run_id = run_id
        self.pipeline_name = pipeline_name
        self.state = state
        self.duration_seconds = duration_seconds
        self.reason = reason
        # Whether the run was recorded before, and went on or was given back as it was.
        self.resumed = resumed
        # Why the run could not be recorded to its end.
        self.recording_error = recording_error
        self._source = source
        self.step_results = StepResults(source.names, source.make)

    def __reduce__(self) -> tuple[Any, ...]:
        """As it is now, for another process; what it was made from stays behind."""
        told = {
            "run_id": self.run_id,
            "pipeline_name": self.pipeline_name,
            "state": self.state,
            "duration_seconds": self.duration_seconds,
            "reason": self.reason,
            "resumed": self.resumed,
        }
        return _restored, (told, _Copy.of(self._source))

    def __repr__(self) -> str:
        return f"<PipelineResult {self.pipeline_name!r} {self.state} run_id={self.run_id!r}>"

    @property
    def success(self) -> bool:
        """Whether every step succeeded or was skipped."""
        return self.state is RunState.SUCCEEDED

    @cached_property
    def outputs(self) -> dict[str, Any]:
        """All values that were produced and kept, by asset and by node.

        Elements of mapped nodes and nested calls are in ``step_results``, not in here.
        """
        source = self._source
        found: dict[str, Any] = {}
        for name, index in islice(source.names.items(), source.size):
            value = source.value_of_node(index)
            if source.kept(value):
                found[name] = value
        for name, number in source.assets.items():
            value = source.value_of_asset(number)
            if source.kept(value):
                found[name] = value
        return found

    @overload
    def __getitem__(self, key: Step[..., Coroutine[Any, Any, T]]) -> T: ...
    @overload
    def __getitem__(self, key: Step[..., T]) -> T: ...
    @overload
    def __getitem__(self, key: str) -> Any: ...
    def __getitem__(self, key: Any) -> Any:
        """The value of an asset, node or step.

        Raises:
            StepSkipped: its step was skipped.
            StepFailed: its step did not succeed; the cause is what it raised.
            KeyError: the pipeline has nothing of that name.
        """
        value, nodes = self._look_up(key)
        if self._source.kept(value):
            return value
        raise self._absence(self._name_of(key), nodes, value)

    @overload
    def get(self, key: str | Step[..., Any]) -> Any: ...
    @overload
    def get(self, key: str | Step[..., Any], default: D) -> Any | D: ...
    def get(self, key: Any, default: Any = None) -> Any:
        """The value, or ``default`` where it was not produced."""
        value, _ = self._look_up(key)
        return value if self._source.kept(value) else default

    def _look_up(self, key: str | Step[..., Any]) -> tuple[Any, tuple[int, ...]]:
        source, name = self._source, self._name_of(key)
        # A step may have the name of an asset that another one produces.
        if name in source.assets and isinstance(key, str):
            number = source.assets[name]
            value = source.value_of_asset(number)
            if source.kept(value) or name not in source.names:
                return value, source.producers_of(number)
        if name not in source.names:
            known = [*source.assets, *source.names]
            raise KeyError(
                f"{self._whole_or_part} has no asset or step {name!r}{nearest(name, known)}"
            )
        index = source.names[name]
        return source.value_of_node(index), (index,)

    def _name_of(self, key: str | Step[..., Any]) -> str:
        if isinstance(key, str):
            return key
        source = self._source
        placed = source.names.get(key.name)
        if placed is not None and source.step_of(placed) is key:
            return key.name
        names = [name for name, index in source.names.items() if source.step_of(index) is key]
        if len(names) == 1:
            return names[0]
        if names:
            raise KeyError(f"{key!r} stands under {len(names)} names; ask for one of {names[:5]}")
        raise KeyError(f"{key!r} is no step of {self._whole_or_part}")

    @property
    def _whole_or_part(self) -> str:
        part = "the part that was run of " if self._source.is_part else ""
        return f"{part}pipeline {self.pipeline_name!r}"

    def _absence(self, name: str, nodes: tuple[int, ...], value: Any = None) -> StepFailed:
        """Why there is no value of that name, told by the step that says most."""
        worst = min(map(self._source.make, nodes), key=_told_first)
        if worst.status is NodeState.SUCCEEDED:
            return _let_go(name, worst, stayed=self._source.stayed(value))
        return _not_made(name, worst, self.reason)

    def raise_for_failure(self) -> None:
        """Do nothing after a success; else raise what went wrong.

        Raises:
            StepFailed: one step failed; the cause is what it raised.
            ExceptionGroup: several steps failed; one StepFailed for each.
            StepCancelled: the run was cancelled.
        """
        if self.success:
            return
        failed = [self._source.make(index) for index in self._source.failed()]
        errors = [
            self._absence(result.step_name, (self._source.names[result.step_name],))
            for result in failed
        ]
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise ExceptionGroup(
                f"{len(errors)} steps of pipeline {self.pipeline_name!r} failed", errors
            )
        raise StepCancelled(
            f"run {self.run_id} of pipeline {self.pipeline_name!r} ended as {self.state}: "
            f"{self.reason or 'no reason given'}"
        )

    def counts(self) -> dict[NodeState, int]:
        """How many nodes ended in each state."""
        return self._source.counts()

    def states(self) -> dict[str, NodeState]:
        """The state each node ended in, by name."""
        return self._source.states()

    def gantt(self) -> str:
        """The course of the run as SVG: what ran when, in which lane, and how it ended."""
        # Here, because few programs draw.
        from asyncflow.gantt import draw_gantt

        return draw_gantt(
            self.pipeline_name,
            f"run {self.run_id} {self.state} in {format_seconds(self.duration_seconds)}",
            self._source.bars(),
            duration_seconds=self.duration_seconds,
            counts=self.counts(),
        )

    def summary(self) -> str:
        """A few lines for people: the counts, the slowest steps, and what went wrong."""
        lines = self.failures().splitlines()
        longest = heapq.nlargest(3, self._source.durations())
        spent = [
            f"{self._source.make(index).step_name} {format_seconds(seconds)}"
            for seconds, index in longest
            if seconds
        ]
        if spent:
            lines.insert(1, f"  slowest: {', '.join(spent)}")
        return "\n".join(lines)

    def failures(self, limit: int = 10) -> str:
        """The counts and what went wrong, for at most ``limit`` steps."""
        counts = ", ".join(f"{count} {state}" for state, count in self.counts().items())
        took = format_seconds(self.duration_seconds)
        lines = [f"{self.pipeline_name}: {self.state} in {took} ({counts})"]
        failed = self._source.failed()
        if not failed and self.state is RunState.FAILED and self.reason:
            lines.append(f"  {self.reason}")
        for result in map(self._source.make, failed[:limit]):
            lines.append(
                f"  {result.step_name}: {result.status} at attempt {result.attempts}: "
                f"{text_of(result.error)}"
            )
        if len(failed) > limit:
            lines.append(f"  … and {len(failed) - limit} more")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: everything but the outputs themselves."""
        return {
            "run_id": self.run_id,
            "pipeline_name": self.pipeline_name,
            "success": self.success,
            "state": str(self.state),
            "reason": self.reason,
            "resumed": self.resumed,
            "duration_seconds": self.duration_seconds,
            "steps": {
                name: {
                    "status": str(result.status),
                    "success": result.success,
                    "attempts": result.attempts,
                    "duration_seconds": result.duration_seconds,
                    "queued_seconds": result.queued_seconds,
                    "lane": result.lane,
                    "worker": result.worker,
                    "cached": result.cached,
                    "resumed": result.resumed,
                    "peak_memory_bytes": result.peak_memory_bytes,
                    "error": text_of(result.error) or None,
                }
                for name, result in self.step_results.items()
            },
        }


class _Absent:
    """In the place of a value that a copy does not have."""


_ABSENT = _Absent()


class _Copy(msgspec.Struct):
    """What a result can tell without the run that it is the result of."""

    names: dict[str, int]
    assets: dict[str, int]
    steps: dict[int, Any]
    results: dict[int, StepResult]
    of_nodes: dict[int, Any]
    of_assets: dict[int, Any]
    producers: dict[int, tuple[int, ...]]
    counts: dict[NodeState, int]
    failed: list[int]
    durations: list[tuple[float, int]]
    is_part: bool
    size: int
    bars: list[Any]

    @classmethod
    def of(cls, source: ResultSource) -> _Copy:
        nodes, assets = source.names.values(), source.assets.values()
        of_nodes = {index: source.value_of_node(index) for index in nodes}
        of_assets = {number: source.value_of_asset(number) for number in assets}
        return cls(
            names=dict(source.names),
            assets=dict(source.assets),
            steps={index: source.step_of(index) for index in nodes},
            results={index: source.make(index) for index in nodes},
            of_nodes={index: value for index, value in of_nodes.items() if source.kept(value)},
            of_assets={at: value for at, value in of_assets.items() if source.kept(value)},
            producers={number: source.producers_of(number) for number in assets},
            counts=source.counts(),
            failed=source.failed(),
            durations=list(source.durations()),
            is_part=source.is_part,
            size=source.size,
            bars=list(source.bars()),
        )

    def source(self) -> ResultSource:
        return ResultSource(
            names=self.names,
            assets=self.assets,
            step_of=self.steps.__getitem__,
            make=self.results.__getitem__,
            value_of_node=lambda index: self.of_nodes.get(index, _ABSENT),
            value_of_asset=lambda number: self.of_assets.get(number, _ABSENT),
            producers_of=self.producers.__getitem__,
            kept=lambda value: value is not _ABSENT,
            stayed=lambda value: False,
            counts=lambda: dict(self.counts),
            failed=lambda: list(self.failed),
            durations=lambda: list(self.durations),
            is_part=self.is_part,
            states=lambda: {name: self.results[at].status for name, at in self.names.items()},
            size=self.size,
            bars=lambda: list(self.bars),
        )


def _restored(told: dict[str, Any], copy: _Copy) -> PipelineResult:
    return PipelineResult(**told, source=copy.source())
