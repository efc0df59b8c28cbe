"""Pipelines that remember what they were."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncflow.errors import GraphError
from asyncflow.pipeline.pipeline import Pipeline
from asyncflow.pipeline.version_names import check_version

if TYPE_CHECKING:
    from asyncflow.pipeline.version_files import VersionFiles
    from asyncflow.pipeline.version_record import VersionDifference, VersionRecord

__all__ = ["VersionedPipeline"]


class VersionedPipeline(Pipeline):
    """A pipeline whose versions are saved as readable files and compared.

    Args:
        name: as of :class:`Pipeline`.
        version: what it is called now; ``pipeline.version = …`` changes it.
        versions_dir: where the files lie, as ``<versions_dir>/<name>/<version>.json``.
        options: the other arguments of :class:`Pipeline`.

    Raises:
        GraphError: an argument makes no sense.

    Example:
        >>> import tempfile
        >>> from asyncflow import step
        >>> @step
        ... def load() -> int:
        ...     return 1
        >>> @step
        ... def train(load: int) -> int:
        ...     return load + 1
        >>> folder = tempfile.mkdtemp()
        >>> pipeline = VersionedPipeline("training", "v1.0.0", folder, steps=[load])
        >>> _ = pipeline.save_version()
        >>> _ = pipeline.add_step(train)
        >>> pipeline.version = "v1.1.0"
        >>> pipeline.compare_with("v1.0.0").added_steps, pipeline.list_versions()
        (['train'], ['v1.0.0'])
    """

    def __init__(
        self,
        name: str,
        version: str = "v0.1.0",
        versions_dir: str | os.PathLike[str] = ".asyncflow/versions",
        **options: Any,
    ) -> None:
        super().__init__(name, **options)
        self.version = version
        self._versions_dir = Path(versions_dir)

    @property
    def version(self) -> str:
        """What the pipeline is called as it is now: letters, digits, dots, dashes, ``+``, ``_``."""
        return self._version

    @version.setter
    def version(self, version: str) -> None:
        self._version = check_version(version)

    def save_version(self, metadata: Mapping[str, Any] | None = None) -> VersionRecord:
        """Write the pipeline down, as it is now, under its version.

        Saving a version again that says the same changes nothing.

        Args:
            metadata: whatever else belongs to it, as JSON has it; it is kept and not compared.

        Raises:
            GraphError: the pipeline is wrong, or another one was saved under that version.
            TypeError: ``metadata`` is not as JSON has it.
            OSError: the file cannot be written.
        """
        from asyncflow.pipeline.version_record import compare

        record = self._describe(dict(metadata or {}))
        kept = self._files.write(record)
        if not kept.says_the_same(record):
            different = compare(record, kept)
            raise GraphError(
                f"version {self.version!r} of pipeline {self.name!r} was saved as something else: "
                f"{_summary(different)}. Set pipeline.version to another one and save that, or "
                f"remove {self._files.path_of(self.version)}"
            )
        return kept

    def list_versions(self) -> list[str]:
        """The versions that are saved, in their natural order (``v0.9`` before ``v0.10``)."""
        return self._files.versions()

    def get_version(self, version: str) -> VersionRecord:
        """What was saved under a version.

        Raises:
            GraphError: there is none.
            NotReadable: its file is damaged, or was written by a newer version of asyncflow.
        """
        return self._files.read(version)

    def compare_with(self, version: str) -> VersionDifference:
        """What differs in the pipeline, as it is now, from what was saved under a version.

        Raises:
            GraphError: there is no such version, or the pipeline is wrong.
            NotReadable: its file is damaged, or was written by a newer version of asyncflow.
        """
        from asyncflow.pipeline.version_record import compare

        before = self._files.read(version)
        return compare(self._describe({}), before)

    # What describes and keeps versions is imported by those who have any.

    @property
    def _files(self) -> VersionFiles:
        from asyncflow.pipeline.version_files import VersionFiles

        return VersionFiles(self._versions_dir, self.name)

    def _describe(self, metadata: dict[str, Any]) -> VersionRecord:
        from asyncflow.pipeline.version_record import describe

        created = datetime.now(UTC).isoformat(timespec="seconds")
        return describe(self.build(), self.version, created, self.outputs, metadata)


def _summary(difference: VersionDifference) -> str:
    lines = [line.strip() for line in str(difference).splitlines()[1:]]
    return "; ".join(lines) if difference.has_changes else "inputs, outputs or groups differ"
