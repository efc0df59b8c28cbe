"""polars frames and series, as Arrow's stream format."""

from __future__ import annotations

import io
from typing import Any, Final

import polars

from asyncflow.errors import NotRecordable

__all__ = ["CODEC"]

pl: Any = polars


class PolarsCodec:
    """The codec with the tag ``polars``."""

    tag = "polars"

    def takes(self, value: Any) -> bool:
        return isinstance(value, pl.DataFrame | pl.Series | pl.LazyFrame)

    def encode(self, value: Any) -> Any:
        if type(value) is pl.DataFrame:
            return ("frame", _stream(value))
        if type(value) is pl.Series:
            return ("series", _stream(value.to_frame()))
        hint = "collect() it" if isinstance(value, pl.LazyFrame) else "convert it to a DataFrame"
        raise NotRecordable(type(value), hint)

    def decode(self, encoded: Any) -> Any:
        form, data = encoded
        frame = _read(data)
        if form == "frame":
            return frame
        (series,) = frame.get_columns()
        return series


def _stream(frame: Any) -> memoryview:
    """The bytes of a frame, if its types come back from them."""
    if any(dtype.base_type() is pl.Object for dtype in frame.dtypes):
        raise NotRecordable("polars Object column", "cast it to a type of polars' own")
    if _read(_written(frame.head(0))).schema != frame.schema:
        raise NotRecordable("polars frame", f"its types {frame.dtypes} cannot be written in full")
    return _written(frame)


def _written(frame: Any) -> memoryview:
    sink = io.BytesIO()
    frame.write_ipc_stream(sink, compat_level=pl.CompatLevel.newest())
    return sink.getbuffer()


def _read(data: Any) -> Any:
    try:
        return pl.read_ipc_stream(io.BytesIO(data))
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ != "PanicException":
            raise
        # polars gives up on damaged data with an exception that is none of Exception's.
        raise ValueError(f"polars cannot read it: {error}") from error


CODEC: Final = PolarsCodec()
