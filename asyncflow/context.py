"""What a running step may know about itself, and say."""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

import msgspec

from asyncflow.errors import StepCancelled
from asyncflow.nested_map import NestedMap, OnError
from asyncflow.pickling import here

__all__ = ["GrantedLease", "StepContext"]

T = TypeVar("T")


class GrantedLease(msgspec.Struct, frozen=True):
    """The capacity a step holds while it runs.

    ``cpus`` counts cores (0 where it asked for none), ``gpu_ids`` names the devices that
    are its own, as ``CUDA_VISIBLE_DEVICES`` would.
    """

    cpus: float = 0.0
    memory_bytes: int = 0
    gpu_ids: tuple[str, ...] = ()


class AttemptControl(Protocol):
    """What a context needs of the attempt behind it; safe to use from any thread."""

    @property
    def cancel_requested(self) -> bool: ...

    def report(self, done: float, total: float | None, message: str | None) -> None: ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    async def call_nested(
        self, step: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], key: Any
    ) -> Any: ...

    async def run_nested(self, pipeline: Any, inputs: Any, key: Any) -> Any: ...


def _arrived(run_id: str, node: str, attempt: int, lease: GrantedLease, logger: str) -> StepContext:
    """A context in the worker process that runs its step."""
    if here.control is None:
        raise pickle.UnpicklingError(
            f"the StepContext of {node!r} was unpickled outside a worker; it is of use only to the "
            "step it was given to"
        )
    return StepContext(
        run_id=run_id,
        node=node,
        attempt=attempt,
        lease=lease,
        logger=logging.getLogger(logger),
        control=here.control(),
    )


class StepContext:
    """Received by the parameter of a step that is annotated ``StepContext``.

    Attributes:
        run_id: the run this attempt belongs to.
        node: the step's name in the pipeline.
        attempt: which try this is, from 1.
        idempotency_key: the same text for every attempt of this node in this run.
        lease: the CPUs, memory and devices it holds.
        logger: a logger named after pipeline and node, below ``asyncflow.step``.

    Example:
        >>> from asyncflow import step
        >>> @step
        ... def count(context: StepContext) -> int:
        ...     for done in range(3):
        ...         context.raise_if_cancelled()
        ...         context.report(done, total=3)
        ...     return 3
    """

    __slots__ = ("_control", "attempt", "idempotency_key", "lease", "logger", "node", "run_id")

    def __init__(
        self,
        *,
        run_id: str,
        node: str,
        attempt: int,
        lease: GrantedLease,
        logger: logging.Logger,
        control: AttemptControl,
    ) -> None:
        self.run_id = run_id
        self.node = node
        self.attempt = attempt
        self.idempotency_key = f"{run_id}/{node}"
        self.lease = lease
        self.logger = logger
        self._control = control

    def __reduce__(self) -> tuple[Any, ...]:
        """For the worker process that runs the step; it is of no use anywhere else."""
        return _arrived, (self.run_id, self.node, self.attempt, self.lease, self.logger.name)

    @property
    def cancelled(self) -> bool:
        """Whether this attempt was told to stop (a timeout, a cancel); true in threads too."""
        return self._control.cancel_requested

    def raise_if_cancelled(self) -> None:
        """Leave the step early once it was told to stop.

        Raises:
            StepCancelled: :attr:`cancelled` is true.
        """
        if self._control.cancel_requested:
            raise StepCancelled(
                f"step {self.node!r} was told to stop", step=self.node, attempt=self.attempt
            )

    def report(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Tell how far the step is; seen as :class:`NodeProgress` and in progress displays.

        Cheap, and safe from any thread; of reports in quick succession the latest is shown.
        """
        self._control.report(done, total, message)

    # -- nested work ---------------------------------------------------------------------

    async def call(self, step: Any, *args: Any, key: Any = None, **kwargs: Any) -> Any:
        """Run a step as a node of its own, below this one, and give its value.

        It has its own retries, timeout, resources and events; while this step waits, its
        CPUs are free for it. Its name is ``node/step`` or ``node/step[key]``.

        Args:
            step: a :class:`Step`.
            args, kwargs: for its parameters; those left out are found by name.
            key: tells calls of the same step apart; each needs one of its own.

        Raises:
            GraphError: the key was used already, or an argument is missing.
            StepCancelled: this step was told to stop, or has ended: then it gets no more.
            NestedDepthError: deeper than ``Runtime(max_nested_depth=…)``.
            Exception: whatever the step raised in its last attempt.
        """
        return await self._control.call_nested(step, args, kwargs, key)

    async def run(self, pipeline: Any, inputs: Any = None, *, key: Any = None) -> Any:
        """Run a pipeline on this run's runtime and give its result."""
        return await self._control.run_nested(pipeline, inputs, key)

    def map(
        self,
        step: Any,
        items: Iterable[Any],
        *,
        key: Callable[[Any], Any] | None = None,
        concurrency: int | None = None,
        ordered: bool = True,
        on_error: OnError = "raise",
        **constant: Any,
    ) -> NestedMap:
        """Call a step (or run a pipeline) for every item, several at a time.

        Await it for the list of values in input order, or iterate over it (``async for``)
        for ``(key, value)`` as they come.

        Args:
            step: a step, called with the item; or a pipeline, given the item as its inputs. The
                value is then the result of that run; one that failed counts as an error.
            items: read one by one, as calls come free.
            key: gives each item its key; left out, items that are text or whole numbers are
                their own.
            concurrency: how many calls at once; None for 100.
            ordered: whether iterating gives them in input order.
            on_error: ``"raise"`` cancels the others and raises the first error;
                ``"yield"`` puts the exception in the value's place.
            constant: further arguments (or inputs), the same for all.
        """
        return NestedMap(self, step, items, key, concurrency, ordered, on_error, constant)

    def call_sync(self, step: Any, *args: Any, key: Any = None, **kwargs: Any) -> Any:
        """The blocking twin of :meth:`call`, for sync steps."""
        return self._wait(self.call(step, *args, key=key, **kwargs))

    def run_sync(self, pipeline: Any, inputs: Any = None, *, key: Any = None) -> Any:
        """The blocking twin of :meth:`run`, for sync steps."""
        return self._wait(self.run(pipeline, inputs, key=key))

    def map_sync(self, step: Any, items: Iterable[Any], **options: Any) -> list[Any]:
        """The blocking twin of awaiting :meth:`map`, for sync steps.

        The items are all read first, in the step's own thread.
        """
        return self._wait(self.map(step, list(items), **options).values())

    def _wait(self, nested: Coroutine[Any, Any, T]) -> T:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self._begin(nested).result()
        nested.close()
        raise RuntimeError(
            f"step {self.node!r} runs on the event loop and would wait for itself; await call(), "
            "run() or map() there"
        )

    def _begin(self, nested: Coroutine[Any, Any, T]) -> Future[T]:
        try:
            return asyncio.run_coroutine_threadsafe(nested, self._control.loop)
        except RuntimeError:  # that loop is closed
            nested.close()
            raise StepCancelled(
                f"step {self.node!r} has outlived its event loop, so it gets no nested work",
                step=self.node,
                attempt=self.attempt,
            ) from None
