"""Everything that was found, added up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from examples.census.facts import FileFacts, FunctionFacts, LineCounts
from examples.census.sources import is_test

__all__ = ["Census", "PackageTotals", "add_up"]


class PackageTotals(msgspec.Struct, frozen=True):
    """The lines of one package over its ``files``."""

    name: str
    files: tuple[LineCounts, ...]

    @property
    def code(self) -> int:
        return sum(found.code for found in self.files)

    @property
    def comments(self) -> int:
        return sum(found.comments for found in self.files)

    @property
    def blank(self) -> int:
        return sum(found.blank for found in self.files)

    @property
    def lines(self) -> int:
        return self.code + self.comments + self.blank


class Census(msgspec.Struct, frozen=True):
    """The whole census of what ``about`` names; ``parsed`` is None where nothing was parsed.

    ``packages`` come by their number of lines, the largest first.
    """

    about: str
    packages: tuple[PackageTotals, ...]
    parsed: tuple[FileFacts, ...] | None = None

    @property
    def files(self) -> int:
        return sum(len(package.files) for package in self.packages)

    @property
    def lines(self) -> int:
        return sum(package.lines for package in self.packages)

    @property
    def library_packages(self) -> tuple[PackageTotals, ...]:
        """The packages without the files that test them."""
        return _packages(
            found for package in self.packages for found in package.files if not is_test(found.path)
        )

    @property
    def refused(self) -> list[FileFacts]:
        """Files that are no valid Python."""
        return [found for found in self.parsed or () if found.fault]

    def functions(self, *, tests: bool) -> list[FunctionFacts]:
        """All functions of the library itself, or of its tests."""
        chosen = (found for found in self.parsed or () if found.is_test is tests)
        return [function for found in chosen for function in found.functions]

    def importers(self, *, tests: bool) -> Counter[str]:
        """How many files of the library, or of its tests, import each module."""
        chosen = (found for found in self.parsed or () if found.is_test is tests)
        return Counter(module for found in chosen for module in found.imports)


def add_up(about: str, lines: Iterable[LineCounts], parsed: Sequence[FileFacts] | None) -> Census:
    """Bring what was found in single files together."""
    return Census(about, _packages(lines), None if parsed is None else tuple(parsed))


def _packages(lines: Iterable[LineCounts]) -> tuple[PackageTotals, ...]:
    by_package: dict[str, list[LineCounts]] = {}
    for found in lines:
        by_package.setdefault(found.package, []).append(found)
    packages = [PackageTotals(name, tuple(files)) for name, files in by_package.items()]
    packages.sort(key=lambda package: package.lines, reverse=True)
    return tuple(packages)
