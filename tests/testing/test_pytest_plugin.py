"""The fixtures that come with the package."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.programs import output_of

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = "asyncflow.testing.pytest_plugin"

A_TEST_OF_A_USER = """
    import asyncio
    import pytest
    from asyncflow import Pipeline, StepContext, step

    @step(retry=1)
    async def train() -> str:
        await asyncio.sleep(86_400)
        return "trained"

    @pytest.mark.parametrize("seed", range(3))
    def test_a_flaky_day(virtual_runtime, seed):
        virtual = virtual_runtime.with_options(seed=seed, failures={"train": [OSError()]})
        assert virtual.run(Pipeline("day", steps=[train]))["train"] == "trained"

    def test_clocks_are_not_shared(virtual_runtime):
        assert virtual_runtime.clock == 0

    def test_a_step(step_context):
        @step
        def attempt(context: StepContext) -> int:
            return context.attempt
        assert attempt(step_context(attempt=2)) == 2
"""


def test_the_fixtures_serve_tests_of_users(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(A_TEST_OF_A_USER)
    # Not in a process of its own: there the plugin might be installed, or not.
    given = [] if _is_installed(pytester) else ["-p", PLUGIN]
    pytester.runpytest_subprocess("-p", "no:cacheprovider", *given).assert_outcomes(passed=5)


def _is_installed(pytester: pytest.Pytester) -> bool:
    listed = pytester.runpytest_subprocess("--fixtures").stdout.str()
    return "virtual_runtime" in listed


def test_the_package_offers_the_plugin_to_pytest() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert declared["project"]["entry-points"]["pytest11"] == {"asyncflow": PLUGIN}


def test_the_plugin_costs_a_session_nothing_but_the_package_itself() -> None:
    program = (
        "import sys, pytest, asyncflow\n"
        "before = set(sys.modules)\n"
        f"import {PLUGIN}\n"
        "print(*sorted(m for m in set(sys.modules) - before if 'asyncflow' not in m))"
    )
    assert output_of(program) == ""
