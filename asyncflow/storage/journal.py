"""Opening the journal of a run: to go on with it, or only to look."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from asyncflow.errors import JournalDamaged, RunConflict, StorageError
from asyncflow.events import Event
from asyncflow.storage.blobs import clear_temporary
from asyncflow.storage.faultpoints import point
from asyncflow.storage.framing import (
    NONCE_BYTES,
    Chain,
    Ending,
    Scan,
    WrongHeader,
    header_of,
    read_header,
)
from asyncflow.storage.fs import AppendFile, Directory, RealDirectory
from asyncflow.storage.layout import BLOBS, JOURNAL, open_run
from asyncflow.storage.lock import RunLock
from asyncflow.storage.memory import RunMemory
from asyncflow.storage.records import Record, decode
from asyncflow.storage.replay import Teller

__all__ = ["OnExisting", "OpenJournal", "Sight", "open_journal", "read_events", "read_memory"]

OnExisting = Literal["resume", "restart", "fail"]


class OpenJournal(msgspec.Struct):
    """A journal that this process may append to.

    ``memory`` tells what it holds already; ``cut`` says what was cut off its end, "" where
    nothing was. ``blobs`` is where its large values are.
    """

    directory: Directory
    lock: Callable[[], None]
    file: AppendFile
    chain: Chain
    memory: RunMemory
    blobs: Directory
    path: str
    cut: str = ""

    def close(self) -> None:
        """Let go of everything; for who opened it and will not write."""
        self.file.close()
        self.release()

    def release(self) -> None:
        """Let go of all but the file."""
        self.blobs.close()
        self.lock()
        self.directory.close()


def open_journal(
    directory: str | os.PathLike[str], run_id: str, *, on_existing: OnExisting = "resume"
) -> OpenJournal:
    """Open the journal of a run to write on; blocks, so call it in a thread.

    Args:
        directory: where runs are kept; made if it is not there.
        run_id: which run.
        on_existing: what becomes of a run that is there: ``"resume"`` reads it,
            ``"restart"`` removes it, ``"fail"`` refuses.

    Raises:
        RunLocked: the run is in progress elsewhere.
        RunConflict: there is such a run, and ``on_existing`` is ``"fail"``.
        JournalDamaged, StorageError: the journal cannot be read or trusted.
    """
    run_directory = open_run(directory, run_id, create=True)
    try:
        lock = RunLock(run_directory, run_id)
        try:
            return _open(run_directory, lock.release, run_id, on_existing)
        except BaseException:
            lock.release()
            raise
    except BaseException:
        run_directory.close()
        raise


def _open(
    directory: RealDirectory, release: Callable[[], None], run_id: str, on_existing: OnExisting
) -> OpenJournal:
    blobs = directory.child(BLOBS, create=True)
    try:
        clear_temporary(blobs)
        opened = open_in(directory, run_id, on_existing, blobs)
    except BaseException:
        blobs.close()
        raise
    opened.lock = release
    return opened


def open_in(
    directory: Directory, run_id: str, on_existing: OnExisting, blobs: Directory
) -> OpenJournal:
    """What :func:`open_journal` does once the run is locked."""
    path = os.path.join(directory.path, JOURNAL)
    content = _content(directory)
    nonce = _nonce(content, path) if content is not None else None
    if nonce is not None and on_existing == "fail":
        raise RunConflict(
            f"there is a run {run_id!r} in {directory.path} already; take another run id, or "
            "on_existing='resume' or 'restart'",
            run_id=run_id,
        )
    if content is not None and (nonce is None or on_existing == "restart"):
        # Its header was never whole, so it holds nothing; or it is to be begun anew.
        directory.remove(JOURNAL)
        directory.sync()
        for name in blobs.names():
            blobs.remove(name)
        content = None
    if content is None or nonce is None:
        return _create(directory, path, blobs)
    return _go_on(directory, path, blobs, content, nonce, run_id)


def _content(directory: Directory) -> bytes | None:
    try:
        return directory.read(JOURNAL)
    except FileNotFoundError:
        return None


def _nonce(content: bytes, path: str) -> bytes | None:
    try:
        return read_header(content)
    except WrongHeader as error:
        raise JournalDamaged(f"{path} cannot be read: {error}", path=path) from error


def _nothing() -> None:
    """No lock to let go of."""


def _create(directory: Directory, path: str, blobs: Directory) -> OpenJournal:
    point("before-create")
    nonce = os.urandom(NONCE_BYTES)
    file = directory.create(JOURNAL)
    try:
        content = memoryview(header_of(nonce))
        done = 0
        while done < len(content):
            done += file.write(content[done:])
        point("after-header")
        file.sync()
        directory.sync()
    except BaseException:
        file.close()
        raise
    point("after-create")
    chain = Chain(nonce)
    return OpenJournal(directory, _nothing, file, chain, RunMemory(), blobs, path)


def _go_on(
    directory: Directory, path: str, blobs: Directory, content: bytes, nonce: bytes, run_id: str
) -> OpenJournal:
    memory, scan = RunMemory(), Scan(content, nonce)
    for record in _records(scan, path, memory):
        _take(memory, record, scan, path)
    ending = scan.ending
    assert ending is not None
    if memory.life is not None and memory.run_id != run_id:
        raise StorageError(f"{path} is of run {memory.run_id!r}, not of {run_id!r}", path=path)
    file = directory.append_to(JOURNAL)
    cut = ""
    if ending.kind != "clean":
        cut = (
            f"{len(content) - ending.offset} bytes at the end of {path} were not whole, or had "
            f"not got to the disk, when the last host stopped; they were cut off after record "
            f"{ending.record - 1}"
        )
        try:
            file.truncate(ending.offset)
            file.sync()
        except BaseException:
            file.close()
            raise
        point("after-truncate")
    return OpenJournal(directory, _nothing, file, scan.chain, memory, blobs, path, cut)


def _records(scan: Scan, path: str, memory: RunMemory) -> Iterator[Record]:
    """The records of a journal, as long as they are good.

    Raises:
        JournalDamaged: one is not, and it was known to be on the disk.
    """
    for offset, payload in scan:
        try:
            yield decode(payload)
        except msgspec.MsgspecError as error:
            raise _damaged(path, offset, scan.chain.records, memory, str(error)) from error
    ending = scan.ending
    assert ending is not None
    if ending.kind == "damage":
        raise _damaged(path, ending.offset, ending.record, memory, "its checksum does not fit")


def _take(memory: RunMemory, record: Record, scan: Scan, path: str) -> None:
    try:
        memory.take(record)
    except (LookupError, ValueError, TypeError) as error:
        raise _damaged(
            path, scan.chain.offset, scan.chain.records, memory, f"it does not fit: {error!r}"
        ) from error


def _damaged(path: str, offset: int, record: int, memory: RunMemory, why: str) -> JournalDamaged:
    step = memory.last_name
    after = f", after that of step {step!r}" if step else ""
    return JournalDamaged(
        f"{path} is damaged at offset {offset}, record {record}{after}: {why}; take a copy from "
        "before the damage, or begin anew with on_existing='restart'",
        path=path,
        offset=offset,
        record=record,
        step=step,
    )


# -- looking -----------------------------------------------------------------------------------


class Sight(msgspec.Struct):
    """What can be seen of a run without holding it.

    ``ending`` says how the file ends; ``damage`` is the error where that is not well.
    """

    memory: RunMemory
    ending: Ending | None
    damage: JournalDamaged | None


def read_memory(directory: Directory) -> Sight:
    """What the journal in a run's directory says, also while another process writes on it.

    Raises:
        FileNotFoundError: there is no journal.
    """
    path = os.path.join(directory.path, JOURNAL)
    memory, ending = RunMemory(), None
    try:
        content = directory.read(JOURNAL)
        nonce = _nonce(content, path)
        if nonce is not None:
            scan = Scan(content, nonce)
            for record in _records(scan, path, memory):
                _take(memory, record, scan, path)
            ending = scan.ending
    except JournalDamaged as damage:
        return Sight(memory, ending, damage)
    return Sight(memory, ending, None)


def read_events(directory: str | os.PathLike[str], run_id: str, since: int = 0) -> Iterator[Event]:
    """The events of a run after number ``since``, from its journal; blocks.

    Raises:
        FileNotFoundError: there is no journal.
        JournalDamaged: it is damaged; the events before that were given.
    """
    with open_run(directory, run_id) as found:
        path = os.path.join(found.path, JOURNAL)
        content = found.read(JOURNAL)
    nonce = _nonce(content, path)
    if nonce is None:
        return
    memory, teller = RunMemory(), Teller(run_id)
    scan = Scan(content, nonce)
    for record in _records(scan, path, memory):
        _take(memory, record, scan, path)
        yield from (event for event in teller.tell(record) if event.sequence > since)
