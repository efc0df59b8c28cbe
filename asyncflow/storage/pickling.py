"""Pickles, for those who opt in: sealed with a key, and read only if the seal is right.

A pickle runs code when it is read. The seal proves that somebody who holds the key wrote it; it
does not prove for which step or run, so whoever can write to the directory can still put one
sealed value in the place of another.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import pickle
import stat
from pathlib import Path
from typing import Any, Final

from asyncflow.errors import NotReadable, NotRecordable

__all__ = ["PickleKey"]

_SHORTEST_KEY_BYTES: Final = 16
_LONGEST_KEY_BYTES: Final = 64 * 1024
_SEAL_BYTES: Final = 32
_PROTOCOL: Final = 5


class PickleKey:
    """A key, and what it seals."""

    def __init__(self, key: bytes) -> None:
        if len(key) < _SHORTEST_KEY_BYTES:
            raise ValueError(
                f"pickle_key has {len(key)} bytes; take at least {_SHORTEST_KEY_BYTES} random "
                "ones, such as secrets.token_bytes(32)"
            )
        self._key = key

    def __repr__(self) -> str:
        return "<PickleKey ***>"

    @classmethod
    def of(
        cls, key: bytes | str | os.PathLike[str], directory: str | os.PathLike[str] | None
    ) -> PickleKey:
        """The key itself, or that of a file outside ``directory`` which only its owner reads."""
        if isinstance(key, bytes):
            return cls(key)
        if not isinstance(key, str | os.PathLike):
            raise TypeError(f"pickle_key takes bytes or the path of a file, got {type(key)}")
        path = Path(key)
        if directory is not None and _is_inside(path, Path(directory)):
            raise ValueError(
                f"the pickle_key file {path} lies inside the run directory {directory}; whoever "
                "can write there could seal anything: keep it elsewhere"
            )
        return cls(_read(path))

    def seal(self, value: Any, form: bytes) -> list[bytes]:
        """The parts of a sealed pickle.

        Raises:
            NotRecordable: the value cannot be pickled.
        """
        try:
            pickled = pickle.dumps(value, _PROTOCOL)
        except Exception as error:
            hint = f"it cannot be pickled either: {type(error).__name__}: {error}"
            raise NotRecordable(type(value), hint) from error
        return [form + self._seal_of(pickled), pickled]

    def unseal(self, body: memoryview) -> Any:
        """The value of a sealed pickle.

        Raises:
            NotReadable: the seal is wrong (nothing of the pickle was read then), or unpickling
                failed.
        """
        seal, pickled = body[:_SEAL_BYTES], body[_SEAL_BYTES:]
        if not hmac.compare_digest(seal, self._seal_of(pickled)):
            raise NotReadable(
                "the seal of a recorded pickle is wrong: it was changed, or sealed with another "
                "pickle_key; it was not read"
            )
        try:
            return pickle.loads(pickled)
        except Exception as error:
            raise NotReadable(
                f"a recorded pickle cannot be read: {type(error).__name__}: {error}"
            ) from error

    def _seal_of(self, pickled: bytes | memoryview) -> bytes:
        return hmac.digest(self._key, pickled, hashlib.sha256)


def _is_inside(path: Path, directory: Path) -> bool:
    return path.resolve().is_relative_to(directory.resolve())


def _read(path: Path) -> bytes:
    # Nothing waits here for the other end of a pipe.
    flags = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags)
    try:
        _check_private(path, os.fstat(descriptor))
        return os.read(descriptor, _LONGEST_KEY_BYTES)
    finally:
        os.close(descriptor)


def _check_private(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"the pickle_key file {path} is not a plain file")
    if found.st_mode & 0o077:
        raise ValueError(
            f"the pickle_key file {path} can be read by others (mode "
            f"{stat.S_IMODE(found.st_mode):04o}); run: chmod 600 {path}"
        )
    if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        raise ValueError(f"the pickle_key file {path} belongs to another user (id {found.st_uid})")
