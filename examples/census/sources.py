"""Which files there are, and in which batches they are worked on."""

from __future__ import annotations

import itertools
import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import msgspec

__all__ = ["SINGLE_MODULES", "Batch", "batches_of", "is_test", "name_of", "standard_library"]

SINGLE_MODULES = "single modules"
FILES_PER_BATCH = 120
_LEFT_OUT = frozenset({"site-packages", "dist-packages", "__pycache__"})
_TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})


class Batch(msgspec.Struct, frozen=True):
    """Files of one package that are read and parsed as one; ``paths`` are below ``root``."""

    name: str
    package: str
    root: Path
    paths: tuple[Path, ...]


def standard_library() -> Path:
    """Where the standard library of the Python that runs lies."""
    return Path(sysconfig.get_path("stdlib"))


def name_of(root: Path) -> str:
    """What a census of the files below ``root`` is about."""
    if root == standard_library():
        return f"Python {platform.python_version()}'s standard library"
    return root.resolve().name


def is_test(path: Path) -> bool:
    """Whether a file below the root tests the library instead of being part of it."""
    return not _TEST_FOLDERS.isdisjoint(path.parts[:-1])


def _files_below(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*.py")):
        below = path.relative_to(root)
        if _LEFT_OUT.isdisjoint(below.parts):
            yield below


def _package_of(path: Path) -> str:
    return path.parts[0] if len(path.parts) > 1 else SINGLE_MODULES


def batches_of(root: Path) -> list[Batch]:
    """All Python files below ``root`` by package, large packages in several batches.

    Raises:
        FileNotFoundError: there is no Python file.
    """
    files = sorted(_files_below(root), key=_package_of)
    if not files:
        raise FileNotFoundError(f"there are no Python files below {root}; give another --root")
    batches: list[Batch] = []
    for package, members in itertools.groupby(files, key=_package_of):
        paths = tuple(members)
        parts = [paths[i : i + FILES_PER_BATCH] for i in range(0, len(paths), FILES_PER_BATCH)]
        for number, part in enumerate(parts, start=1):
            name = package if len(parts) == 1 else f"{package} {number}"
            batches.append(Batch(name, package, root, part))
    return batches
