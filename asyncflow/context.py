"""What a running step may know about itself, and say."""

from __future__ import annotations

import logging
from typing import Protocol

import msgspec

from asyncflow.errors import StepCancelled

__all__ = ["GrantedLease", "StepContext"]


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
