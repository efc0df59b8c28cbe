"""Steps that tell where they run, for tests of environments."""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Any

from asyncflow import StepContext, step


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def variables(*names: str) -> list[str | None]:
    return [os.environ.get(name) for name in names]


def mode_and_devices() -> list[str | None]:
    return variables("MODE", "CUDA_VISIBLE_DEVICES")


def folder() -> str:
    return os.getcwd()


def prefix() -> str:
    return sys.prefix


def pid() -> int:
    return os.getpid()


def doubled(data: bytes) -> bytes:
    return data + data


def chatter() -> str:
    print("printed")
    os.write(1, b"written\n")
    os.write(2, b"warned\n")
    print("no end of line", end="")
    return "said"


def shout() -> str:
    logging.getLogger("far").warning("hello from %s", "there")
    return "logged"


def hang() -> None:
    time.sleep(600)


def be_busy(how: str) -> None:
    if how == "sleep":
        time.sleep(600)
    while True:
        pass


def die() -> None:
    os._exit(7)


def close_all() -> None:
    for number in range(10):
        try:
            os.close(number)
        except OSError:
            continue


async def slowly(context: StepContext) -> int:
    import asyncio

    context.report(1, total=2)
    await asyncio.sleep(0.01)
    return os.getpid()


def make_list() -> list[int]:
    return [1, 2, 3]


def same_list(numbers: list[int]) -> tuple[int, int]:
    numbers.append(4)
    return len(numbers), os.getpid()


def fail(value: Any) -> None:
    raise ValueError(f"cannot use {value}")


@step(lane="thread")
def echo(data: bytes) -> bytes:
    return data


def nests(context: StepContext, data: bytes) -> bool:
    return bool(context.call_sync(echo, data) == data)
