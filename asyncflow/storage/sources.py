"""The source of a function as a stream of tokens that comments and layout do not change."""

from __future__ import annotations

import inspect
import io
import tokenize
import types
from collections.abc import Iterator
from typing import Final

__all__ = ["tokens_of"]

_LEFT_OUT: Final = frozenset({tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER})
# Layout shows in tokens only that a block or a line begins or ends, not how.
_LAYOUT: Final = {tokenize.NEWLINE: "\n", tokenize.INDENT: "{", tokenize.DEDENT: "}"}
_BEGINS: Final = ("FSTRING_START", "TSTRING_START")
_ENDS: Final = ("FSTRING_END", "TSTRING_END")


def tokens_of(code: types.CodeType) -> tuple[str, ...] | None:
    """The tokens of a function from its ``def`` on, of a lambda those of its body.

    None where there is no source, as for what ``exec`` or ``python -c`` made. Decorators are
    left out: what they put around a function is code of its own.
    """
    try:
        source = _body_of(code) if code.co_name == "<lambda>" else inspect.getsource(code)
        if source is None:
            return None
        found = tuple(_texts(source))
    except (OSError, TypeError, SyntaxError, IndexError, UnicodeError, tokenize.TokenError):
        return None
    if code.co_name == "<lambda>":
        return _without_trailing_layout(found)
    return _from_def(found, code.co_name)


def _body_of(code: types.CodeType) -> str | None:
    """What stands behind the colon of a lambda: other code may stand on its line."""
    lines, _ = inspect.findsource(code)
    begins, ends = [], []
    for line, last, column, end in code.co_positions():
        if line and last and end and column is not None:
            begins.append((line, _characters(lines[line - 1], column)))
            ends.append((last, _characters(lines[last - 1], end)))
    if not begins:
        return None  # Python was told to keep no columns
    # In brackets a body of several lines is one expression.
    return f"({_between(lines, min(begins), max(ends))})\n"


def _characters(line: str, column: int) -> int:
    """A column in characters; code objects count the bytes of UTF-8."""
    return len(line.encode()[:column].decode())


def _from_def(tokens: tuple[str, ...], name: str) -> tuple[str, ...] | None:
    for at in range(1, len(tokens)):
        if tokens[at - 1] == "def" and tokens[at] == name:
            start = at - 2 if at > 1 and tokens[at - 2] == "async" else at - 1
            return _without_trailing_layout(tokens[start:])
    return None


def _without_trailing_layout(tokens: tuple[str, ...]) -> tuple[str, ...]:
    """What ends with the function depends on how deep it stands."""
    end = len(tokens)
    while end and tokens[end - 1] in _LAYOUT.values():
        end -= 1
    return tokens[:end]


def _texts(source: str) -> Iterator[str]:
    """Texts of tokens; a formatted string is one, as it was before Python 3.12."""
    lines = source.splitlines(keepends=True)
    depth = 0
    begin = (1, 0)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        name = tokenize.tok_name[token.type]
        if name in _BEGINS:
            begin = begin if depth else token.start
            depth += 1
        elif name in _ENDS:
            depth -= 1
            if not depth:
                yield _between(lines, begin, token.end)
        elif not depth and token.type not in _LEFT_OUT:
            yield _LAYOUT.get(token.type, token.string)


def _between(lines: list[str], begin: tuple[int, int], end: tuple[int, int]) -> str:
    (first, left), (last, right) = begin, end
    if first == last:
        return lines[first - 1][left:right]
    middle = lines[first : last - 1]
    return "".join([lines[first - 1][left:], *middle, lines[last - 1][:right]])
