"""Labels: what a status says of a job in a word."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from asyncflow.errors import text_of
from asyncflow.flow.errors import FlowProjectDefinitionError, UserConditionError
from asyncflow.flow.registry import Registry

__all__ = ["LabelRegister", "Labels", "classlabel", "label", "labels_of", "staticlabel"]

F = TypeVar("F", bound=Callable[..., Any])


class LabelRegister:
    """What ``Project.label`` is: the decorator of functions that label jobs.

    The function gives true or false, and its name is the label; or it gives the text itself.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def __call__(self, name_or_func: Any = None) -> Any:
        """Make a label of a function of a job; works bare, or with the label's name.

        Raises:
            FlowProjectDefinitionError: the name is taken.
        """
        if not callable(name_or_func):
            return lambda func: self._add(name_or_func, func)
        return self._add(None, name_or_func)

    def _add(self, name: str | None, func: F) -> F:
        name = name or func.__name__
        if name in self._registry.all_labels():
            raise FlowProjectDefinitionError(
                f"{self._registry.owner}: a label {name!r} is there already"
            )
        self._registry.labels[name] = func
        return func


class _MethodLabel:
    """A method of the project class that labels jobs."""

    def __init__(self, func: Callable[..., Any], name: str | None, kind: str) -> None:
        self.func, self.name, self.kind = func, name or func.__name__, kind

    def __get__(self, instance: Any, owner: type[Any]) -> Callable[..., Any]:
        if self.kind == "static":
            return self.func
        if self.kind == "class":
            return self.func.__get__(owner)  # type: ignore[no-any-return]
        return self.func.__get__(instance, owner)  # type: ignore[no-any-return]


def label(name: str | None = None) -> Callable[[Callable[..., Any]], _MethodLabel]:
    """Make a label of a method of the project that takes a job: ``@label()``."""
    return lambda func: _MethodLabel(func, name, "method")


def classlabel(name: str | None = None) -> Callable[[Callable[..., Any]], _MethodLabel]:
    """Make a label of a method that takes the project class and a job."""
    return lambda func: _MethodLabel(func, name, "class")


def staticlabel(name: str | None = None) -> Callable[[Callable[..., Any]], _MethodLabel]:
    """Make a label of a function inside the project class that takes a job only."""
    return lambda func: _MethodLabel(func, name, "static")


def labels_of(cls: type[Any]) -> dict[str, Any]:
    """The methods of a class and its bases that are labels, by label."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for attribute in vars(base).values():
            if isinstance(attribute, _MethodLabel):
                found[attribute.name] = attribute
    return found


class Labels:
    """The labels of a project, ready to be asked."""

    def __init__(self, labels: Mapping[str, Any], project: Any) -> None:
        self._labels = {
            name: found.__get__(project, type(project))
            if isinstance(found, _MethodLabel)
            else found
            for name, found in labels.items()
        }

    def of(self, job: Any) -> list[str]:
        """Those that apply to a job.

        Raises:
            UserConditionError: a label function raised.
        """
        found = []
        for name, func in self._labels.items():
            try:
                value = func(job)
            except Exception as error:
                raise UserConditionError(
                    f"label {name!r} raised {text_of(error)} for {job.id}"
                ) from error
            if value:
                found.append(value if isinstance(value, str) else name)
        return found
