"""What a call leaves changed does not meet the next one: that gets another worker."""

from __future__ import annotations

import locale
import os
import signal
import sys
import warnings
from collections.abc import Callable

import pytest

from tests.lanes.conformance import Reports, make_call
from tests.lanes.process.test_process_lane import make_lane


def change_directory() -> None:
    os.chdir("/")


def change_environment() -> None:
    os.environ["ASYNCFLOW_TEST"] = "changed"


def change_umask() -> None:
    os.umask(0o000)


def change_a_signal_handler() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def close_the_streams() -> None:
    for number in range(3):
        os.close(number)


def replace_a_stream() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def change_warnings() -> None:
    warnings.simplefilter("error")


def change_the_locale() -> None:
    locale.setlocale(locale.LC_ALL, "C" if locale.setlocale(locale.LC_ALL) != "C" else "C.UTF-8")


def state() -> tuple[object, ...]:
    os.umask(mask := os.umask(0o077))
    print("still heard")
    return (
        os.getcwd(),
        os.environ.get("ASYNCFLOW_TEST"),
        mask,
        signal.getsignal(signal.SIGTERM),
        warnings.filters[0][0],
        locale.setlocale(locale.LC_ALL),
        os.getpid(),
    )


def harmless() -> None:
    print("printed")
    os.write(2, b"raw")
    sys.stdout.flush()


DIRTY = [
    change_directory,
    change_environment,
    change_umask,
    change_a_signal_handler,
    close_the_streams,
    replace_a_stream,
    change_warnings,
    change_the_locale,
]


@pytest.mark.parametrize("change", DIRTY, ids=lambda change: change.__name__)
async def test_a_changed_worker_is_not_used_again(change: Callable[[], None]) -> None:
    lane, reports = make_lane(), Reports()
    for count, func in enumerate([state, change, state], start=1):
        lane.start(make_call(func, reports))
        await reports.wait_for(count)
    before, changed, after = reports.calls
    assert changed.error is None
    assert before.value[:-1] == after.value[:-1]
    assert before.value[-1] != after.value[-1]
    await lane.finish()
    lane.close()


@pytest.mark.parametrize("func", [harmless, len], ids=lambda func: func.__name__)
async def test_a_worker_that_is_as_it_was_goes_on(func: Callable[..., object]) -> None:
    lane, reports = make_lane(), Reports()
    arguments = ("abc",) if func is len else ()
    for count in range(1, 4):
        lane.start(make_call(func, reports, *arguments))
        await reports.wait_for(count)
    assert len({call.worker.pid for call in reports.calls}) == 1
    lane.close()
