"""What a step is one of, for pictures in which there are too many to show each."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["common_name", "common_start", "first_word", "kind_of", "mapped_node", "needless_start"]

_LONGEST = 26


def mapped_node(name: str) -> str:
    """The mapped node that a node is an element of; its own name if it is none.

    Example:
        >>> mapped_node("fetch[3]"), mapped_node("fetch"), mapped_node("fetch[3]/parse[1]")
        ('fetch', 'fetch', 'fetch[3]/parse')
    """
    # What a step asked for while it ran stands behind its name: parent/step[key].
    parent, slash, own = name.rpartition("]/")
    return parent + slash + own.partition("[")[0] if name.endswith("]") else name


def kind_of(name: str, step: str) -> str:
    """What a node is one of: its step if it is named after that, else its name as such.

    Example:
        >>> kind_of("fetch page 3", "fetch"), kind_of("align_ID0003", "work")
        ('fetch', 'align_ID#')
    """
    own = mapped_node(name)
    return step if step in own else re.sub(r"\d+", "#", own)


def first_word(name: str, step: str) -> str:
    """The same, more coarsely."""
    return re.split(r"[\W_]", name, maxsplit=1)[0]


def common_name(names: Sequence[str]) -> str:
    """A name for all of them: what they begin with, if that is a word.

    Example:
        >>> common_name(["align_ID0003", "align_ID0017"]), common_name(["left", "right"])
        ('align', 'left, …')
    """
    if len(names) == 1:
        return names[0]
    stem = re.sub(r"[\W_]*(ID)?[\W_\d]*$", "", common_start(names))
    if not stem:
        return f"{names[0]}, …"
    return stem if len(stem) <= _LONGEST else f"{stem[:_LONGEST]}…"


def common_start(names: Sequence[str]) -> str:
    """What all of them begin with."""
    # All others lie between the first and the last in the order of the alphabet.
    first, last = min(names), max(names)
    alike = next((at for at, char in enumerate(first) if last[at : at + 1] != char), len(first))
    return first[:alike]


def needless_start(names: Sequence[str]) -> int:
    """How many characters of every name say nothing, because they all begin so.

    Example:
        >>> needless_start(["RNASEQ.ALIGN_1", "RNASEQ.ALIGN_2", "RNASEQ.SORT_3"])
        7
    """
    if len(names) < 3:
        return 0
    start = common_start(names)
    length = 1 + max(start.rfind(separator) for separator in "./:")
    return length if length >= 7 and len(min(names, key=len)) > length else 0
