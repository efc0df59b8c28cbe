"""What an unquoted word of YAML means: the core of YAML 1.2, read strictly.

Only ``true``, ``false``, ``null`` (also as ``True`` and ``TRUE``, and ``~``) and what looks like
one decimal, ``0x`` or ``0o`` number is anything but text. So ``no``, ``on``, ``12:30:00``,
``1_000``, ``2024-01-01`` and ``007`` are text, which YAML 1.1 made a truth value, seconds, a
number, a date and an octal number.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["scalar_of"]

_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
# Longer ones are no amounts of anything; and int() of very long ones is refused by Python.
_LONGEST = 64
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_BASED = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+")
_FRACTION = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,4})?")


def scalar_of(word: str) -> Any:
    """The value of an unquoted word.

    Example:
        >>> [scalar_of(word) for word in ("2", "0.5", "true", "no", "12:30:00", "007", "~")]
        [2, 0.5, True, 'no', '12:30:00', '007', None]
    """
    if len(word) > _LONGEST:
        return word
    if word in _WORDS:
        return _WORDS[word]
    if _DECIMAL.fullmatch(word):
        return int(word)
    if _BASED.fullmatch(word):
        return int(word, base=0)
    if _FRACTION.fullmatch(word):
        return float(word)
    return word
