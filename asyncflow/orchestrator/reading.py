"""From a file to its tree: the size is looked at first, then the encoding, then the text."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import Path

from asyncflow.orchestrator.json_text import parse_json
from asyncflow.orchestrator.knots import Knot, Mark, Problems
from asyncflow.orchestrator.toml_text import parse_toml
from asyncflow.orchestrator.yaml_text import parse_yaml

__all__ = ["MAX_FILE_BYTES", "SUFFIXES", "read_file"]

MAX_FILE_BYTES = 4 * 1024 * 1024
_FOREIGN_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def read_file(path: Path, shown: str, problems: Problems) -> Knot | None:
    """The tree of a YAML, TOML or JSON file; None, and faults are noted, where it has none.

    Args:
        path: where it is; the suffix says what it is written in.
        shown: what it is called in messages.
    """
    parse = SUFFIXES.get(path.suffix.lower())
    if parse is None:
        known = ", ".join(SUFFIXES)
        problems.add(Mark(shown), f"does not say what it is written in; it ends in one of {known}")
        return None
    text = _read_text(path, shown, problems)
    return None if text is None else parse(text, shown, problems)


def _read_text(path: Path, shown: str, problems: Problems) -> str | None:
    # Read no more than the cap, whatever the file system says of the size: a pipe has none.
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except IsADirectoryError:
        problems.add(Mark(shown), "is a folder; name the file in it")
        return None
    except FileNotFoundError:
        problems.add(Mark(shown), "there is no such file")
        return None
    except (OSError, ValueError) as error:
        problems.add(Mark(shown), f"cannot be read: {getattr(error, 'strerror', None) or error}")
        return None
    if len(content) > MAX_FILE_BYTES:
        problems.add(
            Mark(shown),
            f"is larger than {MAX_FILE_BYTES // 1024**2} MiB, which no pipeline is; is it the "
            "right file?",
        )
        return None
    return _decoded(content, shown, problems)


def _decoded(content: bytes, shown: str, problems: Problems) -> str | None:
    for mark, name in _FOREIGN_MARKS:
        if content.startswith(mark):
            problems.add(Mark(shown, 1, 1), f"is encoded as {name}; save it as UTF-8")
            return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, len(before) - (before.rfind(b"\n") + 1) + 1
        problems.add(
            Mark(shown, line, column),
            f"is not encoded as UTF-8: the byte 0x{content[error.start]:02x} cannot stand here",
        )
        return None


SUFFIXES: dict[str, Callable[[str, str, Problems], Knot | None]] = {
    ".yaml": parse_yaml,
    ".yml": parse_yaml,
    ".toml": parse_toml,
    ".json": parse_json,
}
