"""What a call asks of the host before its turn waits for that, and for nothing longer."""

from __future__ import annotations

import asyncio
import contextvars
from types import SimpleNamespace
from typing import Any

import pytest

from asyncflow import StepCancelled
from asyncflow.lanes.lane import Call
from asyncflow.lanes.process import wire
from asyncflow.lanes.process.early import Early
from asyncflow.lanes.process.nests import Nests
from asyncflow.lanes.process.payload import pack, unpack
from asyncflow.lanes.process.raised import rebuild

NUMBER, TICKET = 5, 7


class Asker(Call, eq=False):
    """A call that answers what it is asked to run nested with what it was given."""

    async def call_nested(self, value: Any) -> Any:
        return value


class FakeWorker:
    """Has one call before its turn; keeps the answers."""

    def __init__(self) -> None:
        call = Asker(print, [], None, contextvars.copy_context(), "step", lambda _: None)
        self.early = Early(call)
        self.calls: dict[int, Call] = {}
        self.ahead = {NUMBER: self.early}
        self.is_gone = self.takes_no_files = False
        self.answers: list[wire.Answer] = []
        self.control = SimpleNamespace(send=lambda frame, _: self.answers.append(frame))

    def next_descriptor(self) -> int:
        raise AssertionError("no frame here has a descriptor")

    def outcome(self) -> Any:
        """The value or the error of the only answer."""
        (answer,) = self.answers
        value = unpack(answer.value, self.next_descriptor)
        return rebuild(value, "here") if answer.failed else value


def asked() -> tuple[Nests, Any]:
    nests, worker = Nests(asyncio.get_running_loop()), FakeWorker()
    ask(nests, worker)
    return nests, worker


def ask(nests: Nests, worker: Any) -> None:
    nests.asked(worker, wire.Ask(NUMBER, TICKET, "call", pack(("value",)).packet))


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_it_is_done_when_its_turn_comes() -> None:
    nests, worker = asked()
    await settle()
    assert not worker.answers
    nests.caught_up(worker, worker.early)
    await settle()
    assert worker.outcome() == "value"


async def test_it_is_refused_if_the_call_has_ended_by_then() -> None:
    nests, worker = asked()
    worker.early.call.over = True
    nests.caught_up(worker, worker.early)
    assert "has ended" in str(worker.outcome())


async def test_it_is_refused_if_its_turn_will_not_come() -> None:
    nests, worker = asked()
    nests.dropped(worker, worker.early)
    assert isinstance(worker.outcome(), StepCancelled)


async def test_a_call_that_was_dropped_is_refused_whatever_it_asks_for() -> None:
    nests, worker = Nests(asyncio.get_running_loop()), FakeWorker()
    worker.early.call.cancel_requested = True
    ask(nests, worker)
    assert isinstance(worker.outcome(), StepCancelled)


async def test_it_is_not_done_if_it_was_withdrawn_before() -> None:
    nests, worker = asked()
    nests.withdrawn(worker, TICKET)
    nests.caught_up(worker, worker.early)
    await settle()
    assert not worker.answers


@pytest.mark.filterwarnings("error")
async def test_it_is_not_done_if_the_worker_is_gone_before_that_began() -> None:
    nests, worker = asked()
    nests.caught_up(worker, worker.early)
    nests.forget(worker)
    await settle()
    assert not worker.answers
    assert not nests._tasks


def test_what_a_dropped_call_prints_is_not_kept() -> None:
    worker = FakeWorker()
    worker.early.take_output("stdout", ("kept",))
    worker.early.call.cancel_requested = True
    worker.early.take_output("stdout", ("not kept",))
    assert worker.early.printed == [("stdout", ("kept",))]
