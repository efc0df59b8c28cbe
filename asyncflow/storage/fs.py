"""The few things that storage asks of a file system, and the real one.

Every directory is held open and everything in it is reached through its descriptor, without
following links: what somebody plants under one of our names is refused, never written through.
Tests put :class:`asyncflow.testing.FaultyDirectory` in its place, which keeps what was synced
apart from what was not.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, Self

from asyncflow.errors import StorageError

__all__ = ["AppendFile", "Buffer", "Directory", "RealDirectory", "open_root"]

Buffer = bytes | bytearray | memoryview

_FILE_MODE = 0o600
_DIRECTORY_MODE = 0o700
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_DIRECTORY = getattr(os, "O_DIRECTORY", 0)
_CLOEXEC = getattr(os, "O_CLOEXEC", 0)


class AppendFile(Protocol):
    """A file that grows at its end."""

    def write(self, data: Buffer) -> int:
        """Append, perhaps only a part; returns how many bytes that were."""

    def sync(self) -> None:
        """Return once all that was written is on the disk."""

    def truncate(self, length: int) -> None:
        """Cut the file to ``length`` bytes."""

    def close(self) -> None: ...


class Directory(Protocol):
    """An open directory; ``path`` is for messages only."""

    path: str

    def child(self, name: str, *, create: bool = False) -> Directory:
        """A directory in this one; made if asked for and not there."""

    def append_to(self, name: str) -> AppendFile:
        """Open a file that is there."""

    def create(self, name: str) -> AppendFile:
        """Make a file that is not there."""

    def read(self, name: str) -> bytes:
        """The whole of a file."""

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, replacing what had it."""

    def remove(self, name: str) -> None:
        """Remove a file."""

    def names(self) -> list[str]:
        """What is in it, sorted."""

    def sync(self) -> None:
        """Return once new names in it are on the disk."""

    def free_bytes(self) -> int:
        """How much space is left for us."""

    def close(self) -> None: ...


class RealFile:
    """An open descriptor, unbuffered."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: Buffer) -> int:
        return os.write(self._descriptor, data)

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def truncate(self, length: int) -> None:
        os.ftruncate(self._descriptor, length)

    def close(self) -> None:
        os.close(self._descriptor)


class RealDirectory:
    """A directory of this machine, held by its descriptor."""

    def __init__(self, descriptor: int, path: str) -> None:
        self.descriptor = descriptor
        self.path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def child(self, name: str, *, create: bool = False) -> RealDirectory:
        path = os.path.join(self.path, name)
        with _explained(path):
            if create:
                try:
                    os.mkdir(name, _DIRECTORY_MODE, dir_fd=self.descriptor)
                    os.fsync(self.descriptor)
                except FileExistsError:
                    pass  # made before, or by another process just now
            found = os.open(
                name, os.O_RDONLY | _DIRECTORY | _NO_FOLLOW | _CLOEXEC, dir_fd=self.descriptor
            )
        return _owned(found, path)

    def append_to(self, name: str) -> RealFile:
        return RealFile(self.open(name, os.O_WRONLY | os.O_APPEND))

    def create(self, name: str) -> RealFile:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
        return RealFile(self.open(name, flags))

    def open(self, name: str, flags: int) -> int:
        """A descriptor of a plain file in it, which no program that is started inherits.

        Raises:
            StorageError: what is there is a link, not a plain file, or somebody else's.
        """
        path = os.path.join(self.path, name)
        with _explained(path):
            # A pipe that somebody planted would hold the opener for good.
            found = os.open(
                name,
                flags | _NO_FOLLOW | _CLOEXEC | getattr(os, "O_NONBLOCK", 0),
                _FILE_MODE,
                dir_fd=self.descriptor,
            )
        try:
            _check_file(os.fstat(found), path)
        except BaseException:
            os.close(found)
            raise
        return found

    def read(self, name: str) -> bytes:
        with os.fdopen(self.open(name, os.O_RDONLY), "rb", buffering=0) as file:
            return file.readall()

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)

    def remove(self, name: str) -> None:
        os.unlink(name, dir_fd=self.descriptor)

    def names(self) -> list[str]:
        return sorted(os.listdir(self.descriptor))

    def sync(self) -> None:
        os.fsync(self.descriptor)

    def free_bytes(self) -> int:
        found = os.fstatvfs(self.descriptor)
        return found.f_bavail * found.f_frsize

    def close(self) -> None:
        os.close(self.descriptor)


def open_root(path: str | os.PathLike[str], *, create: bool) -> RealDirectory:
    """The directory under which everything is kept.

    Args:
        path: where; its last part may not be a link to somebody else's directory.
        create: whether to make it, private to this user, if it is not there.

    Raises:
        StorageError: it belongs to another user, anybody may write to it, or it cannot be made.
        FileNotFoundError: it is not there, and ``create`` is false.
    """
    where = os.path.abspath(os.fspath(path))
    if create:
        _make(where)
    with _explained(where):
        found = os.open(where, os.O_RDONLY | _DIRECTORY | _CLOEXEC)
    return _owned(found, where)


def _make(path: str) -> None:
    try:
        os.makedirs(path, _DIRECTORY_MODE, exist_ok=True)
    except OSError as error:
        # A missing parent, as in /proc, is no FileNotFoundError here: that means "not recorded".
        in_the_way = "what stands there is no directory"
        hint = in_the_way if isinstance(error, FileExistsError) else error.strerror
        raise StorageError(
            f"directory {path} cannot be made: {hint}; name another one", path=path
        ) from error


def _owned(descriptor: int, path: str) -> RealDirectory:
    try:
        _check_owner(os.fstat(descriptor), path)
    except BaseException:
        os.close(descriptor)
        raise
    return RealDirectory(descriptor, path)


def _check_owner(found: os.stat_result, path: str) -> None:
    if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        raise StorageError(
            f"{path} belongs to user {found.st_uid}, not to this process's user {os.geteuid()}; "
            "keep runs in a directory of your own",
            path=path,
        )
    if stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_IWOTH:
        raise StorageError(
            f"anybody may write to {path}; keep runs in a directory that is private "
            f"(chmod o-w {path})",
            path=path,
        )


def _check_file(found: os.stat_result, path: str) -> None:
    _check_owner(found, path)
    if not stat.S_ISREG(found.st_mode):
        raise StorageError(f"{path} is not a plain file; remove what stands there", path=path)
    if found.st_nlink > 1:
        raise StorageError(
            f"{path} has {found.st_nlink} names (hard links); it is not one that asyncflow made",
            path=path,
        )


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Say what is wrong with a path, in the words of this package; a missing one stays that."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        planted = os.path.islink(path)
        hint = (
            "a link stands there, which is not followed; remove it" if planted else error.strerror
        )
        raise StorageError(f"{path} cannot be opened: {hint}", path=path) from error
