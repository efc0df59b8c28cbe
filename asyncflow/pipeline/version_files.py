"""The files of versions: readable JSON, written whole or not at all, never overwritten."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import msgspec

from asyncflow.errors import GraphError, NotReadable
from asyncflow.graph.names import nearest
from asyncflow.pipeline.version_names import NAME, check_version
from asyncflow.pipeline.version_record import FORMAT, VersionRecord
from asyncflow.storage.layout import folder_of

__all__ = ["VersionFiles"]

_MOST_BYTES: Final = 256 << 20


class VersionFiles:
    """The versions of one pipeline."""

    def __init__(self, folder: Path, pipeline: str) -> None:
        self._folder = folder / folder_of(pipeline)
        self._pipeline = pipeline

    def path_of(self, version: str) -> Path:
        """Where a version is kept."""
        return self._folder / f"{check_version(version)}.json"

    def versions(self) -> list[str]:
        """Those that are there, in their natural order."""
        try:
            files = list(os.scandir(self._folder))
        except FileNotFoundError:
            return []
        names = [file.name.removesuffix(".json") for file in files if file.name.endswith(".json")]
        return sorted(filter(NAME.fullmatch, names), key=_natural)

    def read(self, version: str) -> VersionRecord:
        """What a file holds.

        Raises:
            GraphError: there is none.
            NotReadable: it is damaged, or newer than this program.
        """
        path = self.path_of(version)
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | os.O_CLOEXEC)
        except FileNotFoundError:
            raise GraphError(self._unknown(version)) from None
        with open(descriptor, "rb") as file:
            data = file.read(_MOST_BYTES)
        try:
            _check_format(path, data)
            record = msgspec.json.decode(data, type=VersionRecord)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise NotReadable(f"{path} is no version of a pipeline: {error}") from error
        if record.version != version or record.pipeline != self._pipeline:
            raise NotReadable(
                f"{path} holds version {record.version!r} of pipeline {record.pipeline!r}; give "
                "it back its name"
            )
        return record

    def _unknown(self, version: str) -> str:
        saved = self.versions()
        hint = nearest(version, saved, f"saved are {', '.join(saved) or 'none'}")
        return f"pipeline {self._pipeline!r} has no version {version!r}{hint}"

    def write(self, record: VersionRecord) -> VersionRecord:
        """Keep a record, unless its version is there already.

        Returns:
            What is kept under that version now.

        Raises:
            TypeError: its metadata cannot be written as JSON.
            OSError: it cannot be written; nothing stands under its name then.
        """
        path = self.path_of(record.version)
        text = msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}-{os.urandom(6).hex()}")
        try:
            with open(temporary, "xb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)  # unlike a rename it replaces nothing
        except FileExistsError:
            return self.read(record.version)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(self._folder)
        return record


class _Head(msgspec.Struct):
    format: int


def _check_format(path: Path, data: bytes) -> None:
    found = msgspec.json.decode(data, type=_Head).format
    if found != FORMAT:
        raise NotReadable(
            f"{path} has the format {found}, and this version of asyncflow reads {FORMAT}"
        )


def _natural(version: str) -> list[tuple[int, int, str]]:
    parts = re.findall(r"[0-9]+|[^0-9]+", version)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
