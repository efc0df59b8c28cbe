"""Where a runtime keeps things, and with which codecs."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asyncflow.engine.caching import OpenCache
from asyncflow.storage.codec import Codec

if TYPE_CHECKING:
    from asyncflow.storage.codecs import Codecs

__all__ = ["StorageSettings"]

_LOGGER = logging.getLogger("asyncflow")


class StorageSettings:
    """What ``Runtime(directory=…, codecs=…, pickle_key=…)`` says.

    Raises:
        TypeError: ``directory`` is no path, or a codec is none.
        ValueError: two codecs have one tag, or the key is too short or not private.
        OSError: the key file cannot be read.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None,
        codecs: Sequence[Codec],
        pickle_key: bytes | str | os.PathLike[str] | None,
    ) -> None:
        self.directory = None if directory is None else os.fspath(directory)
        self.extra = tuple(codecs)
        self._pickle_key = pickle_key
        if self.extra or pickle_key is not None:
            self.make_codecs(self._or_default())  # what is wrong is said here, not in a run

    def _or_default(self) -> str:
        from asyncflow.storage.layout import DEFAULT_DIRECTORY

        return DEFAULT_DIRECTORY if self.directory is None else self.directory

    def make_codecs(self, directory: str | os.PathLike[str]) -> Codecs:
        """The codecs for what is kept in a directory."""
        from asyncflow.storage.codecs import Codecs

        return Codecs(self.extra, self._pickle_key, directory)

    def open_cache(self) -> OpenCache:
        """The cache; says where it is if nobody said so."""
        from asyncflow.storage.cache import CacheStore

        directory = self._or_default()
        if self.directory is None and not Path(directory).exists():
            _LOGGER.info(
                "results are cached in %s; pass Runtime(directory=…) to keep them elsewhere",
                Path(directory).absolute(),
            )
        return OpenCache(CacheStore(directory, self.make_codecs(directory)), self.extra)
