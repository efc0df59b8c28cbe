"""pandas frames, series, indexes and scalars: array by array, with their exact types.

Columns of Python objects are written value by value. What this module does not know (sparse
columns, extension types of other packages, time zones of pytz) is refused.
"""

from __future__ import annotations

from typing import Any, Final

import numpy
import pandas

from asyncflow.errors import NotRecordable

__all__ = ["CODEC"]

np: Any = numpy
pd: Any = pandas
# Of so many rows it is tried out whether they come back as they were.
_ROWS_TRIED: Final = 4
_MASKED: Final = ("IntegerArray", "FloatingArray", "BooleanArray")


class PandasCodec:
    """The codec with the tag ``pandas``."""

    tag = "pandas"

    def takes(self, value: Any) -> bool:
        kinds = (pd.DataFrame, pd.Series, pd.Index, pd.Timestamp, pd.Timedelta)
        return isinstance(value, kinds) or value is pd.NA or value is pd.NaT

    def encode(self, value: Any) -> Any:
        if value is pd.NA or value is pd.NaT:
            return ("NA" if value is pd.NA else "NaT",)
        if isinstance(value, pd.Timestamp | pd.Timedelta):
            return _scalar(value)
        if isinstance(value, pd.Index):
            return ("index", _tried(value, value[:_ROWS_TRIED], _index, _made_index))
        if type(value) is pd.Series:
            return ("series", _tried(value, value.iloc[:_ROWS_TRIED], _series, _made_series))
        if type(value) is pd.DataFrame:
            return ("frame", _tried(value, value.iloc[:_ROWS_TRIED], _frame, _made_frame))
        raise NotRecordable(type(value), "convert it to a plain DataFrame or Series")

    def decode(self, encoded: Any) -> Any:
        form, *rest = encoded
        return _FORMS[form](*rest)


def _tried(value: Any, some: Any, take_apart: Any, put_together: Any) -> Any:
    """A value in parts, if a few rows of it come back as they were."""
    if not _is_same(put_together(take_apart(some)), some):
        raise NotRecordable(type(value), "some of its columns or labels would come back otherwise")
    return take_apart(value)


def _is_same(made: Any, some: Any) -> bool:
    if isinstance(some, pd.DataFrame):
        check = pd.testing.assert_frame_equal
    elif isinstance(some, pd.Series):
        check = pd.testing.assert_series_equal
    else:
        check = pd.testing.assert_index_equal
    try:
        check(made, some, check_exact=True)
    except AssertionError:
        return False
    return getattr(made, "attrs", None) == getattr(some, "attrs", None)


# -- frames and series -------------------------------------------------------------------


def _frame(frame: Any) -> Any:
    columns = [_array(frame.iloc[:, place].array) for place in range(frame.shape[1])]
    unique = frame.flags.allows_duplicate_labels
    return (_index(frame.columns), _index(frame.index), columns, frame.attrs, unique)


def _made_frame(parts: Any) -> Any:
    labels, index, columns, attrs, allows_duplicates = parts
    made_index = _made_index(index)
    made = pd.DataFrame(
        {place: _made_array(column) for place, column in enumerate(columns)}, index=made_index
    )
    made.columns = _made_index(labels)
    made.attrs = attrs
    return made if allows_duplicates else made.set_flags(allows_duplicate_labels=False)


def _series(series: Any) -> Any:
    unique = series.flags.allows_duplicate_labels
    return (series.name, _index(series.index), _array(series.array), series.attrs, unique)


def _made_series(parts: Any) -> Any:
    name, index, values, attrs, allows_duplicates = parts
    made = pd.Series(_made_array(values), index=_made_index(index), name=name)
    made.attrs = attrs
    return made if allows_duplicates else made.set_flags(allows_duplicate_labels=False)


# -- indexes -----------------------------------------------------------------------------


def _index(index: Any) -> Any:
    kind = type(index)
    if kind is pd.RangeIndex:
        return ("range", index.start, index.stop, index.step, index.name)
    if kind is pd.MultiIndex:
        levels = [_index(level) for level in index.levels]
        return ("multi", levels, [np.asarray(code) for code in index.codes], list(index.names))
    if kind in (pd.DatetimeIndex, pd.TimedeltaIndex):
        return ("times", _array(index.array), index.freqstr, index.name)
    if kind in (pd.Index, pd.PeriodIndex, pd.CategoricalIndex, pd.IntervalIndex):
        return ("plain", _array(index.array), index.name)
    raise NotRecordable(kind, "convert it to an index of pandas' own")


def _made_index(parts: Any) -> Any:
    form, *rest = parts
    return _INDEXES[form](*rest)


def _multi_index(levels: Any, codes: Any, names: Any) -> Any:
    made = [_made_index(level) for level in levels]
    return pd.MultiIndex(made, codes, names=names, verify_integrity=True)


def _time_index(values: Any, freq: Any, name: Any) -> Any:
    made = pd.Index(_made_array(values), name=name)
    if freq is not None:
        made.freq = pd.tseries.frequencies.to_offset(freq)
    return made


_INDEXES: Final[dict[str, Any]] = {
    "range": lambda start, stop, step, name: pd.RangeIndex(start, stop, step, name=name),
    "multi": _multi_index,
    "times": _time_index,
    "plain": lambda values, name: pd.Index(_made_array(values), name=name, copy=False),
}


# -- arrays ------------------------------------------------------------------------------


def _array(array: Any) -> Any:
    kind = type(array).__name__
    dtype = array.dtype
    if isinstance(dtype, np.dtype) or kind == "NumpyExtensionArray":
        values = array.to_numpy()
        return ("object", values.tolist()) if values.dtype.hasobject else ("numpy", values)
    if isinstance(dtype, pd.CategoricalDtype):
        return ("categorical", array.codes, _index(dtype.categories), dtype.ordered)
    if isinstance(dtype, pd.DatetimeTZDtype):
        return ("zoned", array.asi8, dtype.unit, dtype.tz)
    if isinstance(dtype, pd.PeriodDtype):
        return ("period", array.asi8, dtype.name.removeprefix("period[").removesuffix("]"))
    if isinstance(dtype, pd.IntervalDtype):
        return ("interval", _index(array.left), _index(array.right), dtype.closed)
    if isinstance(dtype, pd.StringDtype):
        texts = array.to_numpy(object, na_value=None).tolist()
        return ("string", texts, dtype.storage, dtype.na_value is pd.NA)
    if isinstance(dtype, pd.ArrowDtype):
        return ("arrow", array._pa_array)
    if kind in _MASKED:
        return ("masked", kind, array._data, array._mask)
    raise NotRecordable(f"pandas column of {dtype}", "convert it with astype(…)")


def _made_array(parts: Any) -> Any:
    form, *rest = parts
    return _ARRAYS[form](*rest)


def _objects(values: list[Any]) -> Any:
    made = np.empty(len(values), object)
    for place, value in enumerate(values):
        made[place] = value  # one by one: numpy would make arrays of lists
    # An index or a series would guess another type for it.
    return pd.array(made, dtype=pd.api.types.pandas_dtype(object))


def _categorical(codes: Any, categories: Any, ordered: Any) -> Any:
    dtype = pd.CategoricalDtype(_made_index(categories), ordered=ordered)
    return pd.Categorical.from_codes(codes, dtype=dtype)


def _zoned(numbers: Any, unit: str, zone: Any) -> Any:
    made = pd.DatetimeIndex(numbers.view(f"M8[{unit}]"))
    return made.tz_localize("UTC").tz_convert(zone).array


def _strings(texts: list[Any], storage: str, has_na: bool) -> Any:
    dtype = pd.StringDtype(storage, na_value=pd.NA if has_na else np.nan)
    return pd.array(texts, dtype=dtype)


def _masked(kind: str, values: Any, mask: Any) -> Any:
    if kind not in _MASKED:
        raise ValueError(f"there are no arrays of kind {kind!r}")
    return getattr(pd.arrays, kind)(values, mask)


_ARRAYS: Final[dict[str, Any]] = {
    "numpy": lambda values: values,
    "object": _objects,
    "categorical": _categorical,
    "zoned": _zoned,
    "period": lambda numbers, freq: pd.PeriodIndex.from_ordinals(numbers, freq=freq).array,
    "interval": lambda left, right, closed: pd.arrays.IntervalArray.from_arrays(
        _made_index(left), _made_index(right), closed
    ),
    "string": _strings,
    "arrow": lambda values: pd.arrays.ArrowExtensionArray(values),
    "masked": _masked,
}


# -- scalars -----------------------------------------------------------------------------


def _scalar(value: Any) -> Any:
    if type(value) is pd.Timestamp:
        naive = value if value.tz is None else value.tz_convert("UTC").tz_localize(None)
        number = int(naive.to_datetime64().view("i8"))
        return ("timestamp", number, value.unit, value.tz, value.fold)
    if type(value) is pd.Timedelta:
        return ("timedelta", int(value.to_timedelta64().view("i8")), value.unit)
    raise NotRecordable(type(value), "convert it to a Timestamp or Timedelta of pandas' own")


def _timestamp(number: int, unit: str, zone: Any, fold: int) -> Any:
    made = pd.Timestamp(np.int64(number).view(f"M8[{unit}]"))
    if zone is not None:
        made = made.tz_localize("UTC").tz_convert(zone)
    return made if made.fold == fold else made.replace(fold=fold)


def _timedelta(number: int, unit: str) -> Any:
    return pd.Timedelta(np.int64(number).view(f"m8[{unit}]"))


_FORMS: Final[dict[str, Any]] = {
    "frame": _made_frame,
    "series": _made_series,
    "index": _made_index,
    "timestamp": _timestamp,
    "timedelta": _timedelta,
    "NA": lambda: pd.NA,
    "NaT": lambda: pd.NaT,
}

CODEC: Final = PandasCodec()
