"""Projects of pipeline files and modules, in a folder of their own."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from asyncflow.orchestrator import PipelineOrchestrator


class Project:
    """A folder with a pipeline and the code of its modules."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, text: str) -> Path:
        """Put a file into the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    def orchestrator(self, pipeline: str, **options: Any) -> PipelineOrchestrator:
        """The pipeline of a YAML text, which is written as ``pipeline.yaml``."""
        return PipelineOrchestrator(self.write("pipeline.yaml", pipeline), **options)

    def execute(self, pipeline: str, **options: Any) -> dict[str, Any]:
        """The results of a YAML text."""
        return self.orchestrator(pipeline, **options).execute_sync()

    def read(self, name: str) -> str:
        """What modules wrote into a file of the folder; empty where there is none."""
        path = self.folder / name
        return path.read_text(encoding="utf-8") if path.exists() else ""
