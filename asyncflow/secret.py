"""Values that must not be seen."""

from __future__ import annotations

from typing import Final, Generic, NoReturn, Self, TypeVar

__all__ = ["Secret"]

T = TypeVar("T")
_HIDDEN: Final = "***"


class Secret(Generic[T]):
    """A value that shows as ``***`` wherever it is printed, logged or formatted.

    It is given to a step as it is; :meth:`reveal` inside the step gives the value. It cannot be
    pickled, so it is never written down or sent away; a copy of it is the secret itself.

    Example:
        >>> token = Secret("s3cr3t")
        >>> token, f"{token}", token.reveal()
        (Secret('***'), '***', 's3cr3t')
    """

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        """The value itself."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({_HIDDEN!r})"

    def __str__(self) -> str:
        return _HIDDEN

    def __format__(self, spec: str) -> str:
        return _HIDDEN

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is never written down; give it again where it is needed")
