"""A signac project with a few jobs, and a project class of its own for each test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

signac = pytest.importorskip("signac", reason="asyncflow.flow works on signac projects")

from asyncflow.flow import FlowProject  # noqa: E402 - it needs signac
from asyncflow.flow.slurm import Slurm  # noqa: E402


@pytest.fixture
def data_space(tmp_path: Path) -> Callable[[int], str]:
    """Makes a project with so many jobs, with the state points ``{"i": 0}``, ``{"i": 1}`` …"""

    def make(jobs: int = 3) -> str:
        project = signac.init_project(tmp_path)
        for index in range(jobs):
            project.open_job({"i": index}).init()
        return str(tmp_path)

    return make


@pytest.fixture
def Project() -> type[FlowProject]:  # noqa: N802 - it is a class
    """A project class without operations."""

    class Project(FlowProject):
        pass

    return Project


@pytest.fixture(autouse=True)
def _no_scheduler_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler that this machine happens to have says nothing about a test's project."""
    monkeypatch.setattr("asyncflow.flow.submission.Slurm", NoSlurm)


class NoSlurm(Slurm):
    """A machine without a scheduler."""

    @staticmethod
    def is_there() -> bool:
        return False
