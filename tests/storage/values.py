"""Values that must come back as they were, and how to say that they did."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

LONE_SURROGATE = "\ud800"

BUILTIN_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**63 - 1, -(2**63), 2**64 - 1, 2**64, -(2**63) - 1, 2**70,
    -(2**200),
    0.0, -0.0, 1.5, math.inf, -math.inf, math.nan, 5e-324, 1j, complex(-0.0, math.nan),
    "", "a", "ü", "\x00", "𝄞", LONE_SURROGATE, f"a{LONE_SURROGATE}\udfffb",
    b"", b"\x00\xff", b"x" * 70_000, bytearray(), bytearray(b"ab"), bytearray(70_000), ...,
    [], (), {}, set(), frozenset(), [()], ([],), [[], [[]]], ((), ((),)), (1,), [1, (2, [3])],
    {1: 2}, {"1": 2}, {1: {2: {3: 4}}}, {None: 0, True: 1, 2.5: 2, b"x": 3, "x": 4, (1, (2,)): 5},
    {frozenset({1}): "set"}, {math.inf: 1}, {"a": math.nan}, {2**70: 1}, {LONE_SURROGATE: 1},
    {1, "a", None, (1, 2), frozenset({3})}, frozenset({b"x", 2.5, False}),
    range(3), range(10, 0, -3), range(2**70), slice(None), slice(1, None, 2), slice("a", (1,), [2]),
    datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999),
    datetime(2024, 10, 27, 2, 30, fold=1), datetime(2024, 5, 1, tzinfo=UTC),
    datetime(2024, 5, 1, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    datetime(2024, 5, 1, tzinfo=timezone(timedelta(0), "GMT")),
    datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
    date(2024, 2, 29), time(), time(1, 2, 3, 4, fold=1), time(1, tzinfo=UTC),
    timedelta(0), timedelta.min, timedelta.max, timedelta(microseconds=-1),
    UTC, timezone(timedelta(hours=-3), "home"), ZoneInfo("UTC"),
    Decimal("1.10"), Decimal("-0"), Decimal("1E+999"), Decimal("Infinity"), Fraction(-3, 7),
    UUID(int=0), UUID("12345678123456781234567812345678"),
    Path("/tmp/ü"), Path("."), PurePosixPath("a/b"), PureWindowsPath("C:\\x"),
    Path(f"x{LONE_SURROGATE}"),
)  # fmt: skip

_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters())  # lone surrogates included
    | st.binary(max_size=40)
    | st.datetimes(timezones=st.none() | st.timezones() | st.just(UTC))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.uuids()
)
_keys = st.recursive(
    st.none() | st.integers() | st.text() | st.binary(max_size=9) | st.dates(),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)

builtin_values: st.SearchStrategy[Any] = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(_keys, inner, max_size=4)
        | st.sets(_keys, max_size=4)
        | st.frozensets(_keys, max_size=4)
        | st.binary(max_size=9).map(bytearray)
    ),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal and every part has the same type; NaN is the same as NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return _same_float(one, other)
    if isinstance(one, complex):
        return _same_float(one.real, other.real) and _same_float(one.imag, other.imag)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one.keys()), list(other.keys())) and all(
            map(same, one.values(), other.values())
        )
    if isinstance(one, set | frozenset):
        return one == other and _types(one) == _types(other)
    if isinstance(one, datetime | time):
        return bool(
            one.replace(tzinfo=None) == other.replace(tzinfo=None)
            and one.fold == other.fold
            and repr(one.tzinfo) == repr(other.tzinfo)
        )
    return bool(one == other) and repr(one) == repr(other)


def _same_float(one: float, other: float) -> bool:
    if math.isnan(one):
        return math.isnan(other)
    return one == other and math.copysign(1, one) == math.copysign(1, other)


def _types(values: Iterable[Any]) -> set[tuple[Any, str]]:
    return {(value, type(value).__name__) for value in values}
