"""Steps that tell which GPUs they see, for tests; the first look is at import time."""

from __future__ import annotations

import os
import time
from pathlib import Path

from asyncflow import StepContext

SEEN_AT_IMPORT = os.environ.get("CUDA_VISIBLE_DEVICES")


def seen() -> tuple[str | None, str | None, int]:
    """What the worker sees now, what it saw before any user code ran, and which it is."""
    return SEEN_AT_IMPORT, os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid()


def seen_beside_another(folder: str, name: str) -> tuple[str | None, int]:
    """The same, told only once another step runs at the same time."""
    Path(folder, name).touch()
    until = time.monotonic() + 20
    while len(os.listdir(folder)) < 2 and time.monotonic() < until:
        time.sleep(0.005)
    return os.environ.get("CUDA_VISIBLE_DEVICES"), len(os.listdir(folder))


def leased(context: StepContext) -> tuple[tuple[str, ...], str | None]:
    return context.lease.gpu_ids, os.environ.get("CUDA_VISIBLE_DEVICES")


def fail_first(context: StepContext) -> str:
    if context.attempt == 1:
        raise RuntimeError("CUDA error: unspecified launch failure")
    return os.environ["CUDA_VISIBLE_DEVICES"]


def make() -> list[str]:
    return [os.environ["CUDA_VISIBLE_DEVICES"]]


def add(devices: list[str]) -> list[str]:
    return [*devices, os.environ["CUDA_VISIBLE_DEVICES"]]


def add_unless_stopped(devices: list[str], context: StepContext) -> list[str]:
    """Takes long the first time."""
    until = time.monotonic() + 20
    while context.attempt == 1 and time.monotonic() < until:
        context.raise_if_cancelled()
        time.sleep(0.005)
    return add(devices)


def add_if_it_works(devices: list[str], context: StepContext) -> list[str]:
    if context.attempt == 1:
        raise RuntimeError("CUDA error: device-side assert triggered")
    return add(devices)
