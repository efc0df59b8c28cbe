"""The codecs for other libraries: asked only when their library has been imported already.

Reading a value of one of them imports that library, by the name that stands here; no name is
ever taken from what was written.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, Final, cast

from asyncflow.storage.codec import Codec

__all__ = ["LIBRARIES", "imported_codecs", "library_codec"]

# By tag: the library, and the module of ours that has CODEC.
LIBRARIES: Final = {
    "numpy": ("numpy", "asyncflow.storage.numpy_codec"),
    "pandas": ("pandas", "asyncflow.storage.pandas_codec"),
    "polars": ("polars", "asyncflow.storage.polars_codec"),
    "arrow": ("pyarrow", "asyncflow.storage.arrow_codec"),
}
_loaded: dict[str, Codec] = {}


def imported_codecs() -> tuple[Codec, ...]:
    """Codecs of the libraries that are imported, in the order of the table."""
    modules = sys.modules
    return tuple(
        _load(tag) for tag, (library, _) in LIBRARIES.items() if _is_whole(modules.get(library))
    )


def library_codec(tag: str) -> Codec | None:
    """The codec of that tag; None for an unknown tag or a library that is not installed."""
    if tag not in LIBRARIES:
        return None
    try:
        return _load(tag)
    except ImportError:
        return None


def _load(tag: str) -> Codec:
    codec = _loaded.get(tag)
    if codec is None:
        module: Any = importlib.import_module(LIBRARIES[tag][1])
        codec = _loaded[tag] = cast("Codec", module.CODEC)
    return codec


def _is_whole(module: Any) -> bool:
    """Whether a module is there and not just being imported by another thread."""
    if module is None:
        return False
    return not getattr(getattr(module, "__spec__", None), "_initializing", False)
