"""How the parameters of a step's function get their values.

A :class:`CallTemplate` is worked out once for all nodes that have the same step and the
same shape of inputs; what differs between such nodes is only their ``slots``: which
assets, by number, their inputs are. That keeps 100,000 nodes of one step small.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from asyncflow.context import StepContext
from asyncflow.failure import RunFailure
from asyncflow.functions import Parameter
from asyncflow.graph.node import MISSING

__all__ = ["CallTemplate", "Frame", "Source"]

EMPTY = inspect.Parameter.empty


class Frame(msgspec.Struct):
    """What a binding draws from: the run's values and the node's own."""

    values: Sequence[Any]
    slots: tuple[int, ...]
    params: Mapping[str, Any]
    outside: Mapping[str, Any]
    make_context: Callable[[], StepContext]
    make_failure: Callable[[], RunFailure | None] = lambda: None


class FromAsset(msgspec.Struct, frozen=True):
    """The value of one asset, or the default where it was not produced."""

    position: int
    default: Any = EMPTY

    def fetch(self, frame: Frame) -> Any:
        value = frame.values[frame.slots[self.position]]
        return self.default if value is MISSING else value


class FromAssets(msgspec.Struct, frozen=True):
    """The values of several assets as a list."""

    positions: tuple[int, ...]
    default: Any = EMPTY

    def fetch(self, frame: Frame) -> Any:
        values = [frame.values[frame.slots[position]] for position in self.positions]
        return self.default if any(value is MISSING for value in values) else values


class FromParams(msgspec.Struct, frozen=True):
    """A constant given to ``add_step(params=…)``."""

    name: str

    def fetch(self, frame: Frame) -> Any:
        return frame.params[self.name]


class FromValue(msgspec.Struct, frozen=True):
    """A value given to a nested call."""

    value: Any

    def fetch(self, frame: Frame) -> Any:
        return self.value


class FromOutside(msgspec.Struct, frozen=True):
    """A run input, else the pipeline's context, else the default."""

    name: str
    default: Any = EMPTY

    def fetch(self, frame: Frame) -> Any:
        return frame.outside.get(self.name, self.default)


class FromContext(msgspec.Struct, frozen=True):
    """The attempt's :class:`StepContext`."""

    def fetch(self, frame: Frame) -> Any:
        return frame.make_context()


class FromFailure(msgspec.Struct, frozen=True):
    """What went wrong in the run, for clean-up and alert steps."""

    def fetch(self, frame: Frame) -> Any:
        return frame.make_failure()


Source = FromAsset | FromAssets | FromParams | FromValue | FromOutside | FromContext | FromFailure


class CallTemplate(msgspec.Struct, frozen=True):
    """Where each argument of a call comes from.

    ``plain`` says that the arguments are just the values of the slots in order, so that
    the engine need not ask each source.
    """

    args: tuple[Source, ...] = ()
    kwargs: tuple[tuple[str, Source], ...] = ()
    plain: bool = False

    @property
    def sources(self) -> tuple[Source, ...]:
        return (*self.args, *(source for _, source in self.kwargs))

    def bind(self, frame: Frame) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of the call."""
        args = [source.fetch(frame) for source in self.args]
        return args, {name: source.fetch(frame) for name, source in self.kwargs}

    def required_positions(self) -> set[int]:
        """The slots without whose value the call cannot be made."""
        required: set[int] = set()
        for source in self.sources:
            if isinstance(source, FromAsset) and source.default is EMPTY:
                required.add(source.position)
            elif isinstance(source, FromAssets) and source.default is EMPTY:
                required.update(source.positions)
        return required

    def outside(self) -> tuple[FromOutside, ...]:
        """The sources that run inputs or context fill."""
        return tuple(source for source in self.sources if isinstance(source, FromOutside))


def make_template(
    parameters: Sequence[Parameter],
    named: Mapping[str, Source],
    spare_args: Sequence[Source],
    spare_kwargs: Mapping[str, Source],
) -> CallTemplate:
    """The template of a call, from what each parameter is filled with.

    Every positional parameter is passed by position (its default explicitly where
    nothing else fills it), so that what goes to ``*args`` stands behind them.
    """
    args: list[Source] = []
    kwargs: list[tuple[str, Source]] = []
    for parameter in parameters:
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            args.extend(spare_args)
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            kwargs.extend(spare_kwargs.items())
        elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            kwargs.append((parameter.name, named[parameter.name]))
        else:
            args.append(named[parameter.name])
    return CallTemplate(tuple(args), tuple(kwargs), plain=_is_plain(args) and not kwargs)


def _is_plain(args: Sequence[Source]) -> bool:
    return all(
        isinstance(source, FromAsset) and source.position == place and source.default is EMPTY
        for place, source in enumerate(args)
    )
