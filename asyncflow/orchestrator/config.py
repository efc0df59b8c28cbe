"""From what a pipeline is described by to a configuration that is checked through and through."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from asyncflow.orchestrator.checks import check_meaning
from asyncflow.orchestrator.conversion import check_types, converted
from asyncflow.orchestrator.knots import Knot, Mark, Problems, knots_of
from asyncflow.orchestrator.knots import Path as KnotPath
from asyncflow.orchestrator.merging import apply_overrides, merge
from asyncflow.orchestrator.model import Document, PipelineConfig
from asyncflow.orchestrator.reading import read_file

__all__ = ["Loaded", "Source", "load_config"]

Source = str | os.PathLike[str] | Mapping[str, Any]


class Loaded(msgspec.Struct, frozen=True):
    """A configuration without faults.

    Attributes:
        config: what it says.
        folder: what its relative paths are relative to: the file's folder.
        file: where it was read from; None for a mapping.
        tree: where each value was written.
    """

    config: PipelineConfig
    folder: Path
    file: Path | None
    tree: Knot

    def mark_of(self, *path: str | int) -> Mark:
        """Where a value below ``pipeline`` was written, or what it stands in."""
        parts: KnotPath = ("pipeline", *path)
        while parts:
            found = self.tree.at(parts)
            if found is not None:
                return found.mark
            parts = parts[:-1]
        return self.tree.mark


def load_config(
    source: Source, overlays: Iterable[Source] = (), overrides: Mapping[str, Any] | None = None
) -> Loaded:
    """Read, merge and check.

    Args:
        source: a path, or a mapping with the keys of a file.
        overlays: laid over it in this order.
        overrides: dotted keys with values that are set on top.

    Raises:
        ConfigError: something is wrong; ``problems`` has every fault.
    """
    problems = Problems()
    sources = [source, *_listed(overlays)]
    trees = [_tree_of(one, problems) for one in sources]
    root = trees[0]
    for over in trees[1:]:
        if root is not None and over is not None:
            root = merge(root, over)
    if root is None or any(tree is None for tree in trees):
        problems.raise_if_any()
    assert root is not None
    apply_overrides(root, overrides or {}, problems)
    check_types(root, Document, problems)
    check_meaning(root, problems)
    problems.raise_if_any()
    config = converted(root, Document).pipeline
    if isinstance(source, Mapping):
        return Loaded(config, Path.cwd(), None, root)
    file = Path(source).absolute()
    return Loaded(config, file.parent, file, root)


def _listed(overlays: Iterable[Source]) -> list[Source]:
    if isinstance(overlays, str | os.PathLike | Mapping):
        raise TypeError(f"overlays takes a list of files; write overlays=[{overlays!r}]")
    return list(overlays)


def _tree_of(source: Source, problems: Problems) -> Knot | None:
    if isinstance(source, Mapping):
        return knots_of(source, "the configuration", problems)
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"a pipeline is described by a path or a mapping, got {source!r}")
    shown = os.fspath(source)
    return read_file(Path(source), shown, problems)
