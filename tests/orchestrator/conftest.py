"""What the tests of the YAML orchestrator share: a project, and nothing left of its imports."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.orchestrator.projects import Project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """An empty project; what its pipelines import is forgotten again."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield Project(tmp_path)
    for name in set(sys.modules) - before:
        places = [getattr(sys.modules[name], "__file__", None) or ""]
        places += list(getattr(sys.modules[name], "__path__", ()))
        if any(place and Path(place).is_relative_to(tmp_path) for place in places):
            del sys.modules[name]


@pytest.fixture(params=["thread", "process"])
def worker_type(request: pytest.FixtureRequest) -> str:
    """Both values of ``execution.worker_type``."""
    chosen: str = request.param
    return chosen
