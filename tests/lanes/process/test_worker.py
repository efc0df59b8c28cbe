"""The worker's side by itself: what it makes and what it leaves out."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from asyncflow.lanes.process import wire
from asyncflow.lanes.process.payload import Parcel, pack, unpack
from asyncflow.lanes.process.raised import rebuild
from asyncflow.lanes.process.worker import Worker

INT = 1


class Script:
    """A channel that brings what is written down for it, and keeps what it is sent."""

    def __init__(self, *reads: list[Any] | Callable[[], list[Any]]) -> None:
        self._reads = list(reads)
        self.sent: list[Any] = []

    def receive(self) -> list[Any] | None:
        if not self._reads:
            return None
        read = self._reads.pop(0)
        return read() if callable(read) else read

    def send(self, frame: Any, descriptor: int | None = None) -> None:
        self.sent.append(frame)

    def next_descriptor(self) -> int:
        raise AssertionError("no frame here has a descriptor")


class NoStreams:
    def mark(self) -> int:
        return 0


class NoMemory:
    """The real one has files open for as long as its process lives."""

    def begin(self) -> None: ...


@pytest.fixture(autouse=True)
def memory_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncflow.lanes.process.worker.Memory", NoMemory)


def worker_of(work: Script, control: Script) -> Worker:
    word = memoryview(bytearray(wire.WORD.size))
    return Worker(work, control, word, NoStreams())  # type: ignore[arg-type]


def run(number: int, text: str, chain: int) -> wire.Run:
    new = [wire.New(INT, pickle.dumps(int))]
    return wire.Run(number, INT, pack(([text], None)).packet, "step", new=new, chain=chain)


def told(work: Script) -> list[str]:
    return [f"{type(frame).__name__} {getattr(frame, 'number', '')}".strip() for frame in work.sent]


def test_what_stands_behind_a_failure_in_its_chain_is_handed_back() -> None:
    work = Script([run(1, "x", 1), run(2, "2", 1), run(3, "3", 2)])
    worker_of(work, Script()).serve()
    assert told(work) == ["Failed 1", "Recalled", "Done 3"]


def test_a_later_chain_that_is_broken_makes_no_earlier_one_whole_again() -> None:
    control = Script([wire.Cancel(4, 2)])

    def after_a_cancel() -> list[Any]:
        worker.obey_until_the_end()
        return [run(2, "2", 1), run(3, "3", 3)]

    work = Script([run(1, "x", 1)], after_a_cancel)
    worker = worker_of(work, control)
    worker.serve()
    assert told(work) == ["Failed 1", "Recalled", "Done 3"]


def test_a_result_that_finds_no_room_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_full(parcel: Parcel) -> int | None:
        raise OSError("no space left")

    work = Script([run(1, "1", 1), run(2, "2", 1)])
    monkeypatch.setattr(Parcel, "write", is_full)
    worker_of(work, Script()).serve()
    assert told(work) == ["Failed 1", "Recalled"]
    error = rebuild(unpack(work.sent[0].value, work.next_descriptor), "here")
    assert isinstance(error, MemoryError)
    assert "found no room in memory (no space left)" in str(error)
