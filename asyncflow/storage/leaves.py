"""Values without parts: how each is written in a tree, and made again from it."""

from __future__ import annotations

import os
import re
import sys
import zoneinfo
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from types import EllipsisType
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from asyncflow.errors import NotRecordable
from asyncflow.storage.wire import Tag

__all__ = ["LEAVES", "MADE", "int_leaf", "text_leaf"]

_SMALLEST: Final = -(2**63)
_LARGEST: Final = 2**64 - 1
# A zone is looked up by its name; this pattern cannot leave the folder of zones.
_ZONE_NAME: Final = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,3}")
_PATHS: Final[dict[str, type[Any]]] = {
    "path": Path,
    "posix": PurePosixPath,
    "windows": PureWindowsPath,
}


def int_leaf(value: int) -> Any:
    if _SMALLEST <= value <= _LARGEST:
        return value
    return [Tag.BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)]


def text_leaf(value: str) -> Any:
    """A text itself; one that holds lone surrogates as the bytes they would be in UTF-8."""
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return [Tag.SURROGATES, value.encode("utf-8", "surrogatepass")]
    return value


def _zone_leaf(zone: tzinfo | None) -> Any:
    if zone is None:
        return None
    if type(zone) is timezone:
        return _timezone_leaf(zone)
    if type(zone) is ZoneInfo:
        return _zone_info_leaf(zone)
    raise NotRecordable(type(zone), "use datetime.timezone or zoneinfo.ZoneInfo as its time zone")


def _timezone_leaf(zone: timezone) -> list[Any]:
    offset, name = zone.utcoffset(None), zone.tzname(None)
    unnamed = name == timezone(offset).tzname(None)
    return [Tag.TIMEZONE, _timedelta_leaf(offset), *([] if unnamed else [text_leaf(name)])]


def _zone_info_leaf(zone: ZoneInfo) -> list[Any]:
    if not zone.key or _ZONE_NAME.fullmatch(zone.key) is None:
        raise NotRecordable(ZoneInfo, "a zone is recorded by its key, and this one has none")
    return [Tag.ZONE, zone.key]


def _datetime_leaf(value: datetime) -> list[Any]:
    return [Tag.DATETIME, value.toordinal(), *_clock(value)]


def _clock(value: datetime | time) -> tuple[Any, ...]:
    return (
        value.hour,
        value.minute,
        value.second,
        value.microsecond,
        value.fold,
        _zone_leaf(value.tzinfo),
    )


def _timedelta_leaf(value: timedelta) -> list[Any]:
    return [Tag.TIMEDELTA, value.days, value.seconds, value.microseconds]


def _fraction_leaf(value: Fraction) -> list[Any]:
    return [Tag.FRACTION, int_leaf(value.numerator), int_leaf(value.denominator)]


def _path_leaf(flavour: str) -> Callable[[Any], list[Any]]:
    return lambda value: [Tag.PATH, flavour, text_leaf(str(value))]


LEAVES: Final[dict[type, Callable[[Any], Any]]] = {
    int: int_leaf,
    str: text_leaf,
    complex: lambda value: [Tag.COMPLEX, value.real, value.imag],
    EllipsisType: lambda value: [Tag.ELLIPSIS],
    range: lambda value: [Tag.RANGE, *map(int_leaf, (value.start, value.stop, value.step))],
    datetime: _datetime_leaf,
    date: lambda value: [Tag.DATE, value.toordinal()],
    time: lambda value: [Tag.TIME, *_clock(value)],
    timedelta: _timedelta_leaf,
    timezone: _timezone_leaf,
    ZoneInfo: _zone_info_leaf,
    Decimal: lambda value: [Tag.DECIMAL, str(value)],
    Fraction: _fraction_leaf,
    UUID: lambda value: [Tag.UUID, value.bytes],
    PosixPath: _path_leaf("path"),
    WindowsPath: _path_leaf("path"),
    PurePosixPath: _path_leaf("posix"),
    PureWindowsPath: _path_leaf("windows"),
}


# -- and back --------------------------------------------------------------------------


def _made_zone(key: Any) -> ZoneInfo:
    if _ZONE_NAME.fullmatch(key) is None:
        raise ValueError(f"{key!r} is no name of a time zone")
    if not _is_known_zone(key):
        raise ValueError(f"this machine knows no time zone {key!r}")
    return ZoneInfo(key)


def _is_known_zone(key: str) -> bool:
    """Whether looking a zone up imports nothing that the program does not need anyway.

    Where the system has zones, one that it lacks would be looked for in the package tzdata.
    """
    if any(os.path.isfile(os.path.join(folder, key)) for folder in zoneinfo.TZPATH):
        return True
    return "tzdata" in sys.modules or not any(map(os.path.isdir, zoneinfo.TZPATH))


def _made_datetime(ordinal: int, *clock: Any) -> datetime:
    return datetime.combine(date.fromordinal(ordinal), _made_time(*clock))


def _made_time(hour: int, minute: int, second: int, micro: int, fold: int, zone: Any) -> time:
    return time(hour, minute, second, micro, tzinfo=zone, fold=fold)


def _made_fraction(numerator: int, denominator: int) -> Fraction:
    made = Fraction(numerator, denominator)
    if made.denominator != denominator:
        raise ValueError(f"{numerator}/{denominator} is not in lowest terms")
    return made


def _made_path(flavour: str, text: str) -> Any:
    return _PATHS[flavour](text)


# From what stands behind the tag, its own parts made already.
MADE: Final[dict[int, Callable[..., Any]]] = {
    Tag.BIG_INT: lambda packed: int.from_bytes(packed, "big", signed=True),
    Tag.SURROGATES: lambda packed: packed.decode("utf-8", "surrogatepass"),
    Tag.COMPLEX: complex,
    Tag.ELLIPSIS: lambda: ...,
    Tag.RANGE: range,
    Tag.DATETIME: _made_datetime,
    Tag.DATE: date.fromordinal,
    Tag.TIME: _made_time,
    Tag.TIMEDELTA: timedelta,
    Tag.TIMEZONE: timezone,
    Tag.ZONE: _made_zone,
    Tag.DECIMAL: Decimal,
    Tag.FRACTION: _made_fraction,
    Tag.UUID: lambda packed: UUID(bytes=packed),
    Tag.PATH: _made_path,
}
