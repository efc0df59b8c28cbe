"""Amounts as people write them, read exactly: CPUs in thousandths, memory in bytes."""

from __future__ import annotations

import difflib
import math
import operator
import re
import sys
from collections.abc import Iterable
from datetime import timedelta
from fractions import Fraction
from typing import SupportsIndex

__all__ = [
    "at_least_one",
    "format_bytes",
    "format_cpu",
    "format_seconds",
    "parse_bytes",
    "parse_cpu",
    "seconds_of",
]

_LARGEST = 2**62
_LONGEST_NUMBER = 64
_CPU_EXAMPLES = "2, 0.5, '2', '2.5' or '500m'"
_BYTES_EXAMPLES = "1073741824, '512Mi', '4Gi', '1GB' or '100k'"
_NUMBER_AND_UNIT = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z]*)")

_BINARY: dict[str, int] = {letter: 1024**power for power, letter in enumerate("KMGTPE", start=1)}
_DECIMAL: dict[str, int] = {letter: 1000**power for power, letter in enumerate("KMGTPE", start=1)}
_BYTE_UNITS: dict[str, int] = (
    {"": 1, "B": 1, "k": 1000, "kB": 1000}
    | {f"{letter}i{b}": factor for letter, factor in _BINARY.items() for b in ("", "B")}
    | {f"{letter}{b}": factor for letter, factor in _DECIMAL.items() for b in ("", "B")}
)


def at_least_one(name: str, value: object) -> int:
    """Return a whole number of 1 or more.

    Raises:
        ValueError: if it is none; the message names `name`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} takes a whole number of 1 or more, got {value!r}")
    return value


def seconds_of(value: float | timedelta | None) -> float | None:
    """Seconds from a number or a timedelta; None stays None.

    Raises:
        ValueError: it is not a finite number above 0.
    """
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise ValueError(f"takes seconds or a timedelta, got {value!r}")
    if not 0 < seconds <= sys.float_info.max:
        raise ValueError(f"takes finite seconds above 0, got {value!r}; leave it out for none")
    return float(seconds)


def parse_cpu(value: str | int | float) -> int:
    """Return an amount of CPU in thousandths of one CPU.

    Parameters:
        value: CPUs as a number (`2`, `0.5`) or text (`"2"`, `"2.5"`), or thousandths of a CPU
            as text with the suffix `m` (`"500m"`). Amounts finer than a thousandth are
            rounded, a positive one never to zero.

    Raises:
        TypeError: if the value is neither a number nor text.
        ValueError: if it is not an amount, is negative, not finite or absurdly large.

    Example:
        >>> parse_cpu("500m"), parse_cpu(2)
        (500, 2000)
    """
    amount, unit = _amount(value, "an amount of CPU", _CPU_EXAMPLES)
    if unit not in ("", "m"):
        raise ValueError(malformed(value, "an amount of CPU", _CPU_EXAMPLES))
    millis = amount if unit == "m" else amount * 1000
    refuse_absurd(millis, value, "an amount of CPU", _CPU_EXAMPLES)
    return max(int(millis + Fraction(1, 2)), 1 if millis else 0)


def parse_bytes(value: str | int | float) -> int:
    """Return an amount of memory or storage in bytes.

    Parameters:
        value: bytes as a number, or text with a unit: `Ki Mi Gi Ti Pi Ei` are powers of 1024,
            `k K M G T P E` powers of 1000, each with or without a final `B`. A fraction of a
            byte is rounded up.

    Raises:
        TypeError: if the value is neither a number nor text.
        ValueError: if it is not an amount, is negative, not finite or absurdly large.

    Example:
        >>> parse_bytes("4Gi"), parse_bytes("1.5k")
        (4294967296, 1500)
    """
    amount, unit = _amount(value, "an amount of memory", _BYTES_EXAMPLES)
    if unit not in _BYTE_UNITS:
        raise ValueError(
            f"{shown(value)} has the unknown unit {unit!r}{nearest(unit, _BYTE_UNITS)}; "
            f"write an amount of memory like {_BYTES_EXAMPLES}."
        )
    total = amount * _BYTE_UNITS[unit]
    refuse_absurd(total, value, "an amount of memory", _BYTES_EXAMPLES)
    return math.ceil(total)


def format_cpu(millis: int) -> str:
    """Return thousandths of a CPU as people write them.

    Example:
        >>> format_cpu(1000), format_cpu(2500)
        ('1 CPU', '2.5 CPUs')
    """
    return f"{millis / 1000:.10g} CPU{'' if millis == 1000 else 's'}"


def format_bytes(count: int) -> str:
    """Return bytes in the largest binary unit that keeps the number above one.

    Example:
        >>> format_bytes(512), format_bytes(3 * 2**29)
        ('512 bytes', '1.5 GiB')
    """
    for letter, factor in reversed(_BINARY.items()):
        if abs(count) >= factor:
            return f"{count / factor:.4g} {letter}iB"
    return f"{count} byte{'' if count == 1 else 's'}"


def format_seconds(seconds: float) -> str:
    """Return a span of time in seconds as a short text.

    Example:
        >>> format_seconds(0.01234), format_seconds(2.5), format_seconds(2903.4)
        ('0.0123 s', '2.5 s', '2,903 s')
        >>> format_seconds(0.0000123)
        '0.0123 ms'
    """
    if 0 < seconds < 0.001:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds:,.0f} s" if seconds >= 999.5 else f"{seconds:.3g} s"


def _amount(value: object, kind: str, examples: str) -> tuple[Fraction, str]:
    """Split a quantity into an exact number and the text of its unit."""
    if isinstance(value, str):
        matched = _NUMBER_AND_UNIT.fullmatch(value.strip())
        if matched is None or len(value) > _LONGEST_NUMBER:
            raise ValueError(malformed(value, kind, examples))
        return Fraction(matched[1].rstrip(".")), matched[2]
    amount = exact_number(value, kind, examples)
    if amount < 0:
        raise ValueError(malformed(value, kind, examples))
    return amount, ""


def exact_number(value: object, kind: str, examples: str) -> Fraction:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(malformed(value, kind, examples))
        # The shortest decimal that names this float is what the user wrote: 0.1 is a tenth.
        return Fraction(repr(float(value)))
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        return Fraction(operator.index(value))
    raise TypeError(
        f"{shown(value)} is a {type(value).__name__}, not {kind}; write it like {examples}."
    )


def refuse_absurd(amount: Fraction, value: object, kind: str, examples: str) -> None:
    if amount > _LARGEST:
        raise ValueError(
            f"{shown(value)} is larger than any machine; write {kind} like {examples}."
        )


def malformed(value: object, kind: str, examples: str) -> str:
    return f"{shown(value)} is not {kind}; write it like {examples}."


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_NUMBER else f"{text[:_LONGEST_NUMBER]}..."


def nearest(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, [k for k in known if k], n=1, cutoff=0.5)
    return f" (did you mean {found[0]!r}?)" if found else ""
