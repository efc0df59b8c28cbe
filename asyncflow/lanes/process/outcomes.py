"""From what a worker tells of the end of a call to the call itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncflow.lanes.process import wire
from asyncflow.lanes.process.payload import unpack
from asyncflow.lanes.process.raised import rebuild

if TYPE_CHECKING:
    from asyncflow.lanes.lane import Call
    from asyncflow.lanes.process.worker_handle import WorkerHandle

__all__ = ["take_times", "take_value"]


def take_times(call: Call, worker: WorkerHandle, frame: wire.Outcome, now: float) -> None:
    """Take in when a call began and ended, and what its worker held meanwhile.

    Args:
        now: when the host learned of it, in seconds on its clock.
    """
    call.ends()
    call.finished = min(frame.finished, now)
    call.started = min(frame.started, call.finished)
    if worker.takes_no_files:  # it may be on a machine with another clock
        call.started, call.finished = now - (frame.finished - frame.started), now
    if frame.peak_bytes:
        call.take_peak(frame.peak_bytes)


def take_value(call: Call, worker: WorkerHandle, frame: wire.Outcome) -> None:
    """Take in what a call returned or raised; if it has a descriptor, that is the next one."""
    if call.flow is not None and not isinstance(frame, wire.Failed):
        worker.kept.difference_update(call.flow.drop)
        call.dropped(worker)
    try:
        value = unpack(frame.value, worker.next_descriptor)
    except BaseException as error:  # noqa: BLE001 - unpickling calls the user's code
        error.add_note(f"it was raised while the result of step {call.name!r} was unpickled")
        call.error = error
        return
    if isinstance(frame, wire.Failed):
        call.error = rebuild(value, worker.name)
    elif call.flow is None:
        call.value = value
    else:
        worker.kept.update(filter(None, call.flow.keep))
        call.value = call.take_parts(value, worker)
