"""numpy arrays and scalars: type, shape, order and bytes.

Exact ``ndarray`` only, without object fields. Views with strides come back contiguous; whether an
array could be written to is not kept, those that come back can be.
"""

from __future__ import annotations

from typing import Any, Final

import numpy

from asyncflow.errors import NotRecordable

__all__ = ["CODEC"]

np: Any = numpy  # its own annotations want more than can be said of arrays of any type
_KINDS: Final = frozenset("?bBhHiIlLqQefdgFDGSUVMm")


class NumpyCodec:
    """The codec with the tag ``numpy``."""

    tag = "numpy"

    def takes(self, value: Any) -> bool:
        return isinstance(value, np.ndarray | np.generic | np.dtype)

    def encode(self, value: Any) -> Any:
        if isinstance(value, np.dtype):
            return ("dtype", _described(value))
        if isinstance(value, np.generic) and type(value) is value.dtype.type:
            return ("scalar", _described(value.dtype), np.asarray(value).tobytes())
        if type(value) is not np.ndarray:
            raise NotRecordable(type(value), "convert it with numpy.asarray(…)")
        descr = _described(value.dtype)
        order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        flat = np.ascontiguousarray(value.T if order == "F" else value)
        if value.dtype.names is not None:
            flat = _without_padding(flat)
        buffer = memoryview(flat.reshape(-1).view(np.uint8)) if flat.nbytes else b""
        return ("array", descr, value.shape, order, buffer)

    def decode(self, encoded: Any) -> Any:
        form, descr, *rest = encoded
        dtype = _dtype(descr)
        if form == "dtype":
            return dtype
        if form == "scalar":
            return np.frombuffer(rest[0], dtype, count=1)[0].copy()
        shape, order, buffer = rest
        return _array(dtype, tuple(shape), order, buffer)


def _without_padding(array: Any) -> Any:
    """Records with nothing left over from before in the gaps between their fields."""
    clean = np.zeros(array.shape, array.dtype)
    for name in array.dtype.names:
        clean[name] = array[name]
    return clean


def _array(dtype: Any, shape: tuple[int, ...], order: str, buffer: Any) -> Any:
    if order not in ("C", "F") or _bytes_of(shape, dtype) != memoryview(buffer).nbytes:
        raise ValueError(f"its bytes do not fill an array of shape {shape} and type {dtype}")
    if 0 in shape or not dtype.itemsize:
        return np.zeros(shape, dtype, order=order)
    made = np.frombuffer(buffer, dtype).copy()
    return made.reshape(shape[::-1]).T if order == "F" else made.reshape(shape)


def _bytes_of(shape: tuple[int, ...], dtype: Any) -> int:
    """How many bytes an array takes, in whole numbers that cannot overflow."""
    count = dtype.itemsize
    for length in shape:
        if length < 0:
            raise ValueError(f"a shape has no negative length, and this one is {shape}")
        count *= length
    return int(count)


def _described(dtype: Any) -> Any:
    """A dtype as builtin values, if it comes back from them."""
    if dtype.hasobject or dtype.char not in _KINDS:
        raise NotRecordable(f"numpy array of {dtype}", "convert it with tolist()")
    descr = None if dtype.metadata else np.lib.format.dtype_to_descr(dtype)
    if descr is None or np.lib.format.descr_to_dtype(descr) != dtype:
        raise NotRecordable(f"numpy array of {dtype}", "its type cannot be written down in full")
    return descr


def _dtype(descr: Any) -> Any:
    dtype = np.lib.format.descr_to_dtype(descr)
    if dtype.hasobject or dtype.char not in _KINDS:
        raise ValueError(f"arrays of {dtype} are never written")
    return dtype


CODEC: Final = NumpyCodec()
