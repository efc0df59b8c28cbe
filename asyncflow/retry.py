"""When a failed attempt is tried again, and how long to wait before."""

from __future__ import annotations

import sys
from collections.abc import Callable
from random import Random

import msgspec

from asyncflow.errors import GraphError

__all__ = ["Retry", "RetryAfter"]

RetryOn = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]

# 2**64 times any sensible first wait is beyond every wait_max; a larger exponent only
# risks an OverflowError after a thousand attempts.
_LARGEST_EXPONENT = 64


class RetryAfter(Exception):
    """Raised by a step: try me again in ``seconds``, whatever the back-off says.

    It counts as one of the step's retries. A step without retries left fails with it.
    """

    def __init__(self, seconds: float, reason: str = "") -> None:
        if not _is_wait(seconds):
            raise ValueError(f"RetryAfter takes finite seconds of 0 or more, got {seconds!r}")
        super().__init__(reason or f"try again in {seconds:g} s")
        self.seconds = float(seconds)

    def __reduce__(self) -> tuple[type[RetryAfter], tuple[float, str]]:
        return type(self), (self.seconds, str(self))


class Retry(msgspec.Struct, frozen=True):
    """A retry policy: exponential back-off with jitter, clamped.

    The wait before retry *n* (from 1) is ``wait_initial * 2**(n - 1)`` plus a uniform
    random part of up to ``wait_jitter``, never above ``wait_max``; the recipe is that of
    "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).

    Args:
        retries: how many more tries after the first one.
        wait_initial: seconds before the first retry.
        wait_max: seconds that no wait exceeds.
        wait_jitter: seconds of randomness added to each wait.
        on: which exceptions are retried: a type, a tuple of types, or a predicate.

    Raises:
        GraphError: a number is negative, NaN or infinite, or ``on`` is neither.
    """

    retries: int
    wait_initial: float = 0.1
    wait_max: float = 30.0
    wait_jitter: float = 0.1
    on: RetryOn = Exception

    def __post_init__(self) -> None:
        if not _is_count(self.retries):
            raise GraphError(f"retry takes a whole number of 0 or more, got {self.retries!r}")
        for name in ("wait_initial", "wait_max", "wait_jitter"):
            if not _is_wait(value := getattr(self, name)):
                raise GraphError(
                    f"Retry({name}=…) takes finite seconds of 0 or more, got {value!r}"
                )
        if not _says_which(self.on):
            raise GraphError(f"Retry(on=…) takes exception types or a predicate, got {self.on!r}")

    @classmethod
    def of(cls, value: int | Retry) -> Retry:
        """A policy from what ``@step(retry=…)`` accepts: ``3`` equals ``Retry(3)``."""
        return value if isinstance(value, Retry) else cls(value)

    def wants(self, error: BaseException, attempt: int) -> bool:
        """Whether attempt number ``attempt`` (from 1), ended by ``error``, is tried again."""
        if attempt > self.retries:
            return False
        if isinstance(error, RetryAfter):
            return True
        if isinstance(self.on, tuple | type):
            return isinstance(error, self.on)
        return bool(self.on(error))

    def delay_seconds(self, error: BaseException, attempt: int, random: Random) -> float:
        """Seconds to wait after attempt number ``attempt`` (from 1) ended by ``error``."""
        if isinstance(error, RetryAfter):
            return error.seconds
        backoff = self.wait_initial * 2.0 ** min(attempt - 1, _LARGEST_EXPONENT)
        return min(self.wait_max, backoff + random.uniform(0.0, self.wait_jitter))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_wait(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        # Rules out infinity and NaN, and whole numbers too large for a float.
        and 0 <= value <= sys.float_info.max
    )


def _says_which(on: object) -> bool:
    """Whether ``on`` is a predicate or names exceptions; other types are callable as well."""
    if isinstance(on, tuple | type):
        kinds = on if isinstance(on, tuple) else (on,)
        return all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds)
    return callable(on)


NEVER = Retry(0)
