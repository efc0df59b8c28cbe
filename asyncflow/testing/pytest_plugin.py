"""Fixtures for pytest, there as soon as asyncflow is installed.

Nothing but pytest is imported here: every test session of an environment imports this module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from asyncflow.testing import RecordingContext, VirtualRuntime


@pytest.fixture
def virtual_runtime() -> VirtualRuntime:
    """A :class:`asyncflow.testing.VirtualRuntime` with seed 0.

    ``virtual_runtime.with_options(seed=3, cpus=2)`` makes another one.
    """
    from asyncflow.testing import VirtualRuntime

    return VirtualRuntime()


@pytest.fixture
def step_context() -> Callable[..., RecordingContext]:
    """:func:`asyncflow.testing.step_context`: makes contexts to call steps with."""
    from asyncflow.testing import step_context

    return step_context
