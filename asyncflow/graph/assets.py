"""The assets of a graph by number, and who produces each."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Assets"]


class Assets:
    """All assets of a graph by number: their names and who produces them.

    Where every node has one output and nobody shares one, an asset has the number of the
    node that produces it.
    """

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.outputs: list[int | tuple[int, ...]] = []
        # Only assets with several producers stand in here; most have just one.
        self.producers: list[int | tuple[int, ...]] = []

    def add(self, index: int, names: tuple[str, ...]) -> list[tuple[str, int]]:
        """Give a node its outputs; returns those that an earlier node produces as well."""
        shared: list[tuple[str, int]] = []
        numbers = [self._number(name, index, shared) for name in names]
        self.outputs.append(numbers[0] if len(numbers) == 1 else tuple(numbers))
        return shared

    def add_given(self, names: Iterable[str]) -> None:
        """Assets that no node produces."""
        for name in names:
            self.numbers[name] = len(self.producers)
            self.producers.append(())

    def _number(self, name: str, index: int, shared: list[tuple[str, int]]) -> int:
        number = self.numbers.get(name)
        if number is None:
            number = self.numbers[name] = len(self.producers)
            self.producers.append(index)
            return number
        others = self.producers_of(number)
        shared.append((name, others[0]))
        self.producers[number] = (*others, index)
        return number

    def producers_of(self, number: int) -> tuple[int, ...]:
        found = self.producers[number]
        return found if isinstance(found, tuple) else (found,)
