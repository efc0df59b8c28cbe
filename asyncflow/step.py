"""Steps: a function together with what it needs and how it may fail."""

from __future__ import annotations

import functools
import importlib
import inspect
import pickle
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Generic, Literal, ParamSpec, TypedDict, TypeVar, Unpack, cast, overload

from asyncflow.environment import Environment
from asyncflow.errors import GraphError
from asyncflow.functions import Parameter, innermost, is_coroutine_function, parameters_of
from asyncflow.limits import Keys, StepLimits, keys_of, limits_of
from asyncflow.quantities import seconds_of
from asyncflow.resources import ResourceRequirements
from asyncflow.retry import NEVER, Retry

__all__ = [
    "Inputs",
    "Parameter",
    "Step",
    "StepOptions",
    "inputs_of",
    "is_coroutine_function",
    "outputs_of",
    "parameters_of",
    "step",
]

VAR_KEYWORD = inspect.Parameter.VAR_KEYWORD
P = ParamSpec("P")
R = TypeVar("R")

LaneName = Literal["inline", "thread", "process"]
When = Literal["success", "failure", "always"]
LANES: tuple[str, ...] = ("inline", "thread", "process")

Inputs = Iterable[str] | Mapping[str, str | Iterable[str]]
Condition = Callable[..., Any]
Cache = Literal[False, "code_hash", "input_hash"] | Callable[..., Any]


class StepOptions(TypedDict, total=False):
    """The keywords of :func:`step` and :meth:`Step.with_options`."""

    name: str | None
    inputs: Inputs | None
    outputs: Iterable[str] | None
    execution_group: str | None
    resources: ResourceRequirements | Mapping[str, Any] | None
    environment: Environment | Mapping[str, Any] | None
    retry: int | Retry
    timeout: float | timedelta | None
    condition: Condition | None
    cache: Cache
    when: When
    limits: StepLimits
    lane: LaneName | None
    tags: Iterable[str]


class Step(Generic[P, R]):
    """A function with its policy; made by :func:`step`, immutable, callable as before.

    It pickles as module and qualified name. :meth:`with_options` gives a changed copy.
    """

    __slots__ = (
        "__dict__",
        "__weakref__",
        "cache",
        "condition",
        "environment",
        "execution_group",
        "func",
        "inputs",
        "lane",
        "limits",
        "name",
        "outputs",
        "resources",
        "retry",
        "tags",
        "timeout",
        "when",
    )

    def __init__(self, func: Callable[P, R], **options: Unpack[StepOptions]) -> None:
        if not callable(func):
            raise GraphError(f"@step takes a function, got {func!r}")
        if isinstance(func, Step):
            raise GraphError(f"{func!r} is a step already; with_options(…) gives a changed copy")
        unknown = set(options) - StepOptions.__annotations__.keys()
        if unknown:
            raise TypeError(f"step() got an unexpected keyword argument {sorted(unknown)[0]!r}")
        self.func = func
        name = options.get("name")
        self.name = check_name(_name_of(func) if name is None else name, "step")
        self.inputs = self._checked("inputs", inputs_of, options.get("inputs"))
        self.outputs = self._checked("outputs", outputs_of, options.get("outputs"))
        self.execution_group = self._checked(
            "execution_group", _group_of, options.get("execution_group")
        )
        self.resources = self._checked(
            "resources", ResourceRequirements.of, options.get("resources")
        )
        self.environment = self._checked("environment", Environment.of, options.get("environment"))
        self.retry = self._checked("retry", Retry.of, options.get("retry", NEVER))
        self.timeout = self._checked("timeout", seconds_of, options.get("timeout"))
        self.condition = self._checked("condition", _condition_of, options.get("condition"))
        self.cache = self._checked("cache", self._cache_of, options.get("cache", False))
        self.when = self._checked("when", _when_of, options.get("when", "success"))
        self.limits = self._checked("limits", limits_of, options.get("limits"))
        self.lane = self._checked("lane", self._lane_of, options.get("lane"))
        self.tags = self._checked("tags", _tags_of, options.get("tags", ()))
        functools.update_wrapper(self, func, updated=())

    def _checked(self, option: str, convert: Callable[[Any], Any], value: Any) -> Any:
        try:
            return convert(value)
        except (TypeError, ValueError) as error:
            raise GraphError(f"step {self.name!r}: {option}: {error}") from error

    def _lane_of(self, value: Any) -> str | None:
        if value is not None and value not in LANES:
            raise ValueError(f"there is no lane {value!r}; the lanes are {lane_names()}")
        if self.environment is None or value == "process":
            return cast("str | None", value)
        if value is not None:
            raise ValueError(f"is {value!r}, but an environment is that of a process")
        return "process"

    def _cache_of(self, value: Any) -> Cache:
        if value is False or (isinstance(value, str) and value in ("code_hash", "input_hash")):
            return cast("Cache", value)
        if not callable(value) or is_coroutine_function(value):
            raise ValueError(
                "is 'code_hash', 'input_hash', False, or a plain function of the inputs that makes "
                f"the key, not {value!r}"
            )
        takes_any = any(parameter.kind is VAR_KEYWORD for parameter in self.parameters)
        for parameter in parameters_of(value):
            known = parameter.name in {"inputs", *self.parameter_names} or parameter.is_variadic
            if not known and not takes_any and not parameter.has_default:
                raise ValueError(
                    f"its function asks for {parameter.name!r}, which is no parameter of the step"
                )
        return cast("Cache", value)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.func(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Step {self.name!r}>"

    def with_options(self, **changes: Unpack[StepOptions]) -> Step[P, R]:
        """A copy with other options; those not named stay.

        Example:
            >>> @step(retry=3)
            ... def fetch() -> str: ...
            >>> fetch.with_options(timeout=5).retry.retries
            3
        """
        return Step(self.func, **cast(StepOptions, {**self.options, **changes}))

    @property
    def options(self) -> dict[str, Any]:
        """What :func:`step` was given, defaults included."""
        return {name: getattr(self, name) for name in StepOptions.__annotations__}

    @functools.cached_property
    def is_coroutine(self) -> bool:
        """Whether calling the function gives a coroutine."""
        return is_coroutine_function(self.func)

    @functools.cached_property
    def is_generator(self) -> bool:
        func = innermost(self.func)
        return inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func)

    @functools.cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """The function's parameters in order."""
        return parameters_of(self.func)

    @functools.cached_property
    def parameter_names(self) -> frozenset[str]:
        """The names of all parameters, ``args`` and ``kwargs`` included."""
        return frozenset(parameter.name for parameter in self.parameters)

    @functools.cached_property
    def condition_parameters(self) -> tuple[Parameter, ...]:
        """The condition's parameters in order; none without a condition."""
        return () if self.condition is None else parameters_of(self.condition)

    @functools.cached_property
    def limits_parameters(self) -> tuple[Parameter, ...]:
        """The parameters of the function that works its limits out; none without one."""
        return parameters_of(self.limits) if callable(self.limits) else ()

    @functools.cached_property
    def static_keys(self) -> Keys:
        """The named keys that it always takes."""
        return () if callable(self.limits) else keys_of(self.limits)

    def __reduce__(self) -> tuple[Any, ...]:
        module = getattr(self.func, "__module__", None)
        qualname = getattr(self.func, "__qualname__", None)
        try:
            base = _find(module, qualname)
        except (ImportError, AttributeError, TypeError) as error:
            raise pickle.PicklingError(_not_found(self)) from error
        if base.func is not self.func:
            raise pickle.PicklingError(_not_found(self))
        # Only what differs travels, so that a condition that is a lambda does no harm.
        changed = {
            name: value for name, value in self.options.items() if value != base.options[name]
        }
        return _restore, (module, qualname, changed)


def _not_found(step: Step[..., Any]) -> str:
    return (
        f"{step!r} cannot be pickled: its function is not found by its name; define it at the top "
        "level of a module"
    )


def _find(module: Any, qualname: Any) -> Step[..., Any]:
    """The step of that place; a function found there counts as a step without options."""
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found if isinstance(found, Step) else Step(found, name="unnamed")


def _restore(module: str, qualname: str, changed: dict[str, Any]) -> Step[..., Any]:
    found = _find(module, qualname)
    return found.with_options(**changed) if changed else found


# -- pickling by value ---------------------------------------------------------------


def reduced_by_value(step: Step[..., Any]) -> tuple[Any, ...]:
    """How a step pickles for a process that may not find it by its name."""
    if getattr(step.func, "__module__", None) != "__main__":
        try:
            return step.__reduce__()
        except pickle.PicklingError:
            return _made, (step.func, step.options)
    return _made, (step.func, step.options)


def _made(func: Callable[..., Any], options: StepOptions) -> Step[..., Any]:
    return Step(func, **options)


def place_behind_a_step(func: Any) -> tuple[str, str] | None:
    """Module and name of the step whose function this is: ``@step`` stands in its place."""
    found: Any = sys.modules.get(func.__module__)
    if found is None or func.__module__ == "__main__":
        return None
    for part in func.__qualname__.split("."):
        found = getattr(found, part, None)
    is_behind = isinstance(found, Step) and found.func is func
    return (func.__module__, func.__qualname__) if is_behind else None


def func_at(module: str, qualname: str) -> Callable[..., Any]:
    """The function of the step of that place."""
    return _find(module, qualname).func


@overload
def step(func: Callable[P, R], /) -> Step[P, R]: ...
@overload
def step(
    func: None = None, /, **options: Unpack[StepOptions]
) -> Callable[[Callable[P, R]], Step[P, R]]: ...
@overload
def step(func: Callable[P, R], /, **options: Unpack[StepOptions]) -> Step[P, R]: ...
def step(func: Any = None, /, **options: Any) -> Any:
    """Make a step of a function; works bare or with arguments.

    Args:
        func: a function or coroutine function.
        name: the step's name; left out, that of the function.
        inputs: names of assets, or parameter → asset (or → list of assets, which makes
            the parameter a list). Left out, they are inferred from the parameters.
        outputs: names of the assets it produces; left out, one named after the node.
        execution_group: neighbours with the same group run one after the other in one
            worker and pass values by reference.
        resources: what it holds while it runs, as :class:`ResourceRequirements` or a dict.
        retry: more tries after a failure: a number, or a :class:`Retry`.
        timeout: seconds (or a timedelta) that one attempt may take, from its start.
        condition: a callable, sync or async, that takes by name any inputs, params and
            context; when it gives false the node is skipped.
        cache: where its result may be taken from that of an earlier call: ``"code_hash"`` if the
            code and the inputs are the same, ``"input_hash"`` if the inputs are, or a function
            that takes any of the inputs by name (or all of them as ``inputs``, a dict) and makes
            the key. False for never.
        when: ``"success"``; or ``"failure"`` or ``"always"`` for clean-up and alert steps, which
            run when all above them is over, also when the run has failed or was cancelled;
            without inputs and ``after`` they come at the end.
        limits: the named keys that each attempt takes, of those that ``Runtime(limits=…)``
            defines: ``["api"]``, ``{"api": 2}``, or a function that takes by name any inputs,
            params and context and returns such, or one key as a text.
        environment: how the worker process is started (an :class:`Environment` or a mapping of
            its fields); the step runs in a process then.
        lane: ``"inline"`` (on the event loop), ``"thread"`` or ``"process"``. Left out,
            coroutine functions run inline and others in a thread, or in a process if they ask
            for a GPU.
        tags: words of your own, shown in plans.

    Raises:
        GraphError: an option makes no sense; the message names the step and the option.

    Example:
        >>> @step(outputs=["page"], retry=3, timeout=10)
        ... async def fetch(url: str) -> str:
        ...     return f"<p>{url}</p>"
        >>> fetch.name
        'fetch'
    """
    if func is None:
        return lambda function: Step(function, **options)
    return Step(func, **options)


# -- options -------------------------------------------------------------------------


def check_name(name: Any, what: str) -> str:
    """A name that can stand in a graph, in file names and in events.

    Raises:
        GraphError: it is no text, is empty, or holds ``/``, ``[``, ``]`` or control characters.
    """
    if not isinstance(name, str):
        raise GraphError(f"a {what} name is a text, got {name!r}")
    if not name or not name.strip():
        raise GraphError(f"a {what} name must not be empty")
    bad = next((char for char in name if char in "/[]" or not char.isprintable()), None)
    if bad is not None:
        raise GraphError(f"{what} name {name!r} holds {bad!r}; '/', '[' and ']' are reserved")
    return name


def names_of(value: Any, example: str) -> tuple[str, ...]:
    if isinstance(value, str):
        raise TypeError(f"takes a list of names, got the text {value!r}; write [{value!r}]")
    if not isinstance(value, Iterable):
        raise TypeError(f"takes a list of names such as {example}, got {value!r}")
    names = tuple(value)
    for name in names:
        if not isinstance(name, str) or not name:
            raise TypeError(f"takes names, got {name!r}")
    return names


def inputs_of(value: Any) -> tuple[str, ...] | dict[str, str | tuple[str, ...]] | None:
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {
            names_of([parameter], "")[0]: assets
            if isinstance(assets, str)
            else names_of(assets, "['a', 'b']")
            for parameter, assets in value.items()
        }
    return names_of(value, "['raw', 'config']")


def outputs_of(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = names_of(value, "['model']")
    if not names:
        raise ValueError("takes at least one name; leave it out for an output named as the step")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"names {repeated[0]!r} twice")
    for name in names:
        check_name(name, "asset")
    return names


def _group_of(value: Any) -> str | None:
    return None if value is None else check_name(value, "group")


def _condition_of(value: Any) -> Condition | None:
    if value is not None and not callable(value):
        raise TypeError(f"takes a callable, got {value!r}")
    return cast("Condition | None", value)


def _when_of(value: Any) -> When:
    if value not in ("success", "failure", "always"):
        raise ValueError(f"is 'success', 'failure' or 'always', not {value!r}")
    when: When = value
    return when


def lane_names() -> str:
    """The lanes in words."""
    return f"{', '.join(LANES[:-1])} and {LANES[-1]}"


def _tags_of(value: Any) -> tuple[str, ...]:
    return names_of(value, "['nightly']")


def _name_of(func: Any) -> str:
    name = getattr(innermost(func) if isinstance(func, functools.partial) else func, "__name__", "")
    if name == "<lambda>":
        raise GraphError("a lambda has no name; give it one: step(func, name='…')")
    return name or type(func).__name__
