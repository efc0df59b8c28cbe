"""What the tests of the YAML orchestrator share: a project, and nothing left of its imports."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncflow.lanes.process.control import RemoteControl
from tests.orchestrator.projects import Project

NEED_NESTS = {
    "test_each_module_has_a_log_of_its_own",
    "test_the_level_is_that_of_the_file",
    "test_recursion_on_one_cpu_ends_with_the_right_sum",
    "test_one_level_more_is_refused",
    "test_what_fails_is_a_value_and_the_others_go_on",
    "test_no_tasks_give_no_results_and_what_is_no_function_is_refused",
    "test_many_tasks_and_two_calls",
    "test_coroutine_tasks_in_processes",
    "test_all_results_so_far",
    "test_nested_tasks_work",
    "test_it_runs_as_the_comments_say",
    "test_every_method_of_the_reference_is_there",
    "test_results_are_in_the_order_of_the_tasks",
    "test_example_3",
    "test_when_a_module_times_out_its_tasks_are_cancelled",
    "test_the_module_s_own_error_names_what_its_task_raised",
}


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
    nests = "make nested calls" not in inspect.getsource(RemoteControl)
    if chosen == "process" and not nests and request.node.originalname in NEED_NESTS:
        pytest.skip("steps in a process cannot make nested calls yet")
    return chosen
