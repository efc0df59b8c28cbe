"""White paper to draw on: SVG without a library, and how states look.

No script, no style sheet, no reference to anything outside, and no ids: several pictures can
stand in one page. No font is at hand either, so widths of text are estimates on the safe side.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from itertools import accumulate
from typing import Final

import msgspec

from asyncflow.states import NodeState

__all__ = [
    "GRID",
    "INK",
    "LOOKS",
    "MUTED",
    "WHITE",
    "Look",
    "Paper",
    "Title",
    "number",
    "shortened",
    "text_width",
    "tint",
]

INK, MUTED, GRID, WHITE = "#1b2733", "#5f6c7b", "#dfe4ea", "#ffffff"
_FONT = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"

# -- text --------------------------------------------------------------------------------

# In widths of the font's size: the wider of Liberation Sans (Arial's metrics) and DejaVu Sans.
_WIDTHS: Final = {
    char: width
    for width, chars in (
        (0.33, "'ijl ,.I"),
        (0.40, "-/:;\\f|"),
        (0.42, "!()[]rt"),
        (0.53, '"*J`sz'),
        (0.60, "?L_ckvxy"),
        (0.64, "$0123456789FTabdeghnopqu{}"),
        (0.73, "ABEKPSVXYZCRU"),
        (0.78, "&DGHN"),
        (0.85, "#+<=>OQ^w~"),
        (1.02, "%@MWm"),
    )
    for char in chars
}
_BOLD = 1.1
_ELLIPSIS = "…"
# Between the parts of a name, and how much of the room the last ones have to fill to stand alone.
_BORDERS, _MOST_OF_IT = re.compile(r"[./:]"), 0.6
# What XML cannot hold, what would turn the direction of the text around it, and line breaks.
_UNFIT = frozenset({"Cc", "Cs", "Cn", "Zl", "Zp"})
_TURNING = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def _width_of(char: str) -> float:
    known = _WIDTHS.get(char)
    if known is not None:
        return known
    if unicodedata.combining(char):
        return 0.0
    return 1.3 if unicodedata.east_asian_width(char) in "WF" else 1.02


def text_width(words: str, size: float, *, bold: bool = False) -> float:
    """About how many pixels words take, rather too many than too few.

    Args:
        words: what is written.
        size: the font's size in pixels.
        bold: whether it is written in bold.
    """
    return sum(map(_width_of, words)) * size * (_BOLD if bold else 1)


def shortened(words: str, width: float, size: float, *, bold: bool = False) -> str:
    """Words that fit into so many pixels; of longer ones the middle is left out.

    Names that belong together begin alike and end in what tells them apart, so more of the
    end is kept: of a name in parts the last ones, where they are whole and make the most of it.

    Example:
        >>> shortened("check_the_samplesheet_of_assembly_3", 120, 12)
        'check…ssembly_3'
        >>> shortened("sequence_assembly.samplesheet_3", 120, 12)
        '…samplesheet_3'
    """
    if text_width(words, size, bold=bold) <= width:
        return words
    room = width / (size * (_BOLD if bold else 1)) - _width_of(_ELLIPSIS)
    if room < 0:
        return ""
    parts = _last_parts(words, room)
    if sum(map(_width_of, parts)) >= room * _MOST_OF_IT > 0:
        return _ELLIPSIS + parts
    start = _how_many(words, room * 0.35)
    used = sum(map(_width_of, words[:start]))
    end = _how_many(words[:start:-1], room - used)
    # Words that begin with an ellipsis have lost their beginning before.
    return words[:start].removesuffix(_ELLIPSIS) + _ELLIPSIS + (words[-end:] if end else "")


def _last_parts(words: str, room: float) -> str:
    """The last parts of a name, as many as fit whole; "" if not even the last one does."""
    for border in _BORDERS.finditer(words):
        rest = words[border.end() :]
        if sum(map(_width_of, rest)) <= room:
            return rest
    return ""


def _how_many(words: Iterable[str], room: float) -> int:
    return sum(1 for used in accumulate(map(_width_of, words)) if used <= room)


def _fit_for_xml(words: str) -> str:
    plain = (
        "\ufffd" if unicodedata.category(char) in _UNFIT or char in _TURNING else char
        for char in words
    )
    return escape("".join(plain))


def number(value: float) -> str:
    """A coordinate as short as a tenth of a pixel allows."""
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text


def tint(colour: str, share: float) -> str:
    """A ``#rrggbb`` colour mixed with white; ``share`` of it is kept."""
    parts = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(255 - (255 - part) * share):02x}" for part in parts)


# -- states ------------------------------------------------------------------------------


class Look(msgspec.Struct, frozen=True):
    """How a state is shown: its colour, and a badge that tells it without colour.

    ``outline`` is the badge's own path and ``sign`` the path upon it, around 0,0 with a
    radius of 6.
    """

    colour: str
    outline: str
    sign: str
    hollow: bool = False


_ROUND = "M-6 0A6 6 0 1 0 6 0A6 6 0 1 0 -6 0Z"
_SQUARE = "M-5.5 -5.5H5.5V5.5H-5.5Z"
_DIAMOND = "M0 -7L7 0L0 7L-7 0Z"

# After Okabe and Ito, whose colours stay apart for colour-blind people, darkened for white
# paper.
LOOKS: Final[Mapping[NodeState, Look]] = {
    NodeState.WAITING: Look("#7b8794", _ROUND, "M-2.6 0H-2.4M-0.1 0H0.1M2.4 0H2.6", hollow=True),
    NodeState.RUNNING: Look("#0072b2", _ROUND, "M-1.6 -2.8L2.8 0L-1.6 2.8Z"),
    NodeState.RETRYING: Look("#2f8fc7", _ROUND, "M2.4 -1.8A3 3 0 1 0 2.9 1M2.8 -3.6V-1.4H0.6"),
    NodeState.SUCCEEDED: Look("#00805f", _ROUND, "M-2.8 0.2L-0.8 2.3L2.9 -2"),
    NodeState.FAILED: Look("#cc4a00", _SQUARE, "M-2.4 -2.4L2.4 2.4M2.4 -2.4L-2.4 2.4"),
    NodeState.TIMED_OUT: Look("#a2427e", _SQUARE, "M0 -3.4V0.3H2.7"),
    NodeState.SKIPPED: Look("#7b8794", _ROUND, "M-2.6 -2.4L-0.2 0L-2.6 2.4M0.6 -2.4L3 0L0.6 2.4"),
    NodeState.UPSTREAM_FAILED: Look("#a87400", _DIAMOND, "M0 3V-2.6M-2.2 -0.6L0 -2.8L2.2 -0.6"),
    NodeState.CANCELLED: Look("#5b5275", _DIAMOND, "M-2.6 0H2.6"),
    NodeState.ABANDONED: Look("#1b1b1b", _SQUARE, "M-2 -1.6A2 2 0 1 1 0 0.7V1.4M0 3.3V3.4"),
}


# -- paper -------------------------------------------------------------------------------


class Title(msgspec.Struct, frozen=True):
    """What stands above a picture: its name, a line below it, and a legend of states.

    ``counts`` says how many there are of each state; ``remarks`` are further lines.
    """

    name: str
    about: str
    counts: Mapping[NodeState, int] = {}
    remarks: tuple[str, ...] = ()


class Paper:
    """Shapes in pixels; :meth:`render` gives the SVG."""

    def __init__(self) -> None:
        self._shapes: list[str] = []

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        fill: str,
        *,
        stroke: str = "",
        radius: float = 0,
        dash: str = "",
        hint: str = "",
    ) -> None:
        """A rectangle; ``hint`` is shown where the mouse rests."""
        extra = f' stroke="{stroke}"' if stroke else ""
        extra += f' rx="{number(radius)}"' if radius else ""
        extra += f' stroke-dasharray="{dash}"' if dash else ""
        self._add(
            f'rect x="{number(x)}" y="{number(y)}" width="{number(width)}" '
            f'height="{number(height)}" fill="{fill}"{extra}',
            hint,
        )

    def path(
        self,
        points: str,
        *,
        stroke: str = "",
        width: float = 1,
        fill: str = "none",
        dash: str = "",
        hint: str = "",
        at: tuple[float, float] | None = None,
    ) -> None:
        """A path in the words of SVG, moved by ``at``."""
        extra = f' stroke="{stroke}" stroke-width="{number(width)}"' if stroke else ""
        extra += f' stroke-dasharray="{dash}"' if dash else ""
        if at is not None:
            extra += f' transform="translate({number(at[0])} {number(at[1])})"'
        self._add(f'path d="{points}" fill="{fill}"{extra}', hint)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 12,
        fill: str = INK,
        anchor: str = "start",
        bold: bool = False,
        hint: str = "",
    ) -> None:
        """One line of text, ``y`` its base line; ``hint`` where it had to be shortened."""
        extra = f' text-anchor="{anchor}"' if anchor != "start" else ""
        extra += ' font-weight="bold"' if bold else ""
        title = f"<title>{_fit_for_xml(hint)}</title>" if hint else ""
        self._shapes.append(
            f'<text x="{number(x)}" y="{number(y)}" font-size="{number(size)}" '
            f'fill="{fill}"{extra}>{title}{_fit_for_xml(words)}</text>'
        )

    def badge(self, x: float, y: float, state: NodeState, scale: float = 1.0) -> None:
        """The mark of a state, around ``x``, ``y``, 12 pixels wide at its own scale."""
        look = LOOKS[state]
        inside, sign = (WHITE, look.colour) if look.hollow else (look.colour, WHITE)
        place = f"translate({number(x)} {number(y)})"
        if scale != 1:
            place += f" scale({scale:.2f})"
        self._shapes.append(
            f'<g transform="{place}"><path d="{look.outline}" fill="{inside}" '
            f'stroke="{look.colour}"/><path d="{look.sign}" fill="none" stroke="{sign}" '
            'stroke-width="1.5"/></g>'
        )

    @contextmanager
    def together(self, hint: str) -> Iterator[None]:
        """What is drawn in the block belongs together, under one hint."""
        self._shapes.append(f"<g><title>{_fit_for_xml(hint)}</title>")
        yield
        self._shapes.append("</g>")

    def put(self, other: Paper) -> None:
        """Lay what is on another sheet on top."""
        self._shapes += other._shapes

    def _add(self, shape: str, hint: str) -> None:
        if not hint:
            self._shapes.append(f"<{shape}/>")
            return
        tag = shape.partition(" ")[0]
        self._shapes.append(f"<{shape}><title>{_fit_for_xml(hint)}</title></{tag}>")

    # -- what stands above ---------------------------------------------------------------

    def head(self, title: Title, width: float) -> float:
        """Write what stands above a picture.

        Returns:
            Where the picture may begin.
        """
        room = width - 40
        name = shortened(title.name, room, 18, bold=True)
        hint = title.name if name != title.name else ""
        self.text(20, 32, name, size=18, bold=True, hint=hint)
        y = 32.0
        for line in (title.about, *title.remarks):
            y += 19
            self.text(20, y, shortened(line, room, 12), fill=MUTED, hint=line)
        if title.counts:
            y = self._legend(title.counts, y + 24, room)
        return y + 18

    def _legend(self, counts: Mapping[NodeState, int], y: float, room: float) -> float:
        x = 20.0
        for state, count in counts.items():
            words = f"{state.replace('_', ' ')} {count:,}"
            taken = 18 + text_width(words, 12)
            if x > 20 and x + taken > 20 + room:
                x, y = 20.0, y + 20
            self.badge(x + 7, y - 4, state)
            self.text(x + 18, y, words)
            x += taken + 16
        return y

    def render(self, width: float, height: float, name: str) -> str:
        """The SVG, with a name for those who hear it read."""
        w, h = number(width), number(height)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" '
            f'viewBox="0 0 {w} {h}" font-family="{_FONT}" role="img" '
            'stroke-linecap="round" stroke-linejoin="round">\n'
            f"<title>{_fit_for_xml(name)}</title>\n"
            f'<rect width="{w}" height="{h}" fill="{WHITE}"/>\n'
            + "\n".join(self._shapes)
            + "\n</svg>\n"
        )
