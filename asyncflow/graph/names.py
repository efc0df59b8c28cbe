"""What a name means: an asset, or something that comes from outside the graph.

A name that a step of an inlined pipeline uses is looked for in that pipeline first: among
its assets, then what ``add_pipeline(inputs=…)`` says of it, then its context. A pipeline
that declares its inputs looks for these around it, and for nothing else; one that declares
none looks there for whatever it lacks.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import msgspec

from asyncflow.graph.scope import Scope, scopes_of

__all__ = ["Faulty", "Meaning", "Names", "nearest"]


def nearest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """``; did you mean 'x'?`` for the most similar known name, else what to do instead."""
    if found := _most_similar(name, list(known)[:2000]):
        return f"; did you mean {found!r}?"
    return f"; {otherwise}" if otherwise else ""


def _most_similar(name: str, known: list[str]) -> str | None:
    # What stands in an inlined pipeline is often called by its last word only.
    found = next((other for other in known if other.endswith(f"/{name}")), None)
    return found or next(iter(difflib.get_close_matches(name, known, n=1)), None)


class Faulty(Exception):
    """A sentence about the step at hand."""


class Meaning(msgspec.Struct, frozen=True):
    """What a name stands for: an asset, or a value from outside, by its name there.

    ``told`` says that somebody said on the way where to look, ``twice`` names the pipeline
    that offers something else under the name of this asset; ``at_root`` whether the asset, or
    the value, is one of the outermost pipeline.
    """

    name: str
    is_asset: bool
    told: bool = False
    twice: str = ""
    at_root: bool = False


class Names:
    """Everything that has a name in one graph.

    Args:
        numbers: the assets of the graph.
        offered: names of declared run inputs and context values of the outermost pipeline.
        closed: whether that pipeline declares its run inputs.

    Attributes:
        outside: what comes from outside: name → (has a default everywhere, the first node
            that asks for it).
        context: context values of inlined pipelines, by full name.
        types: types that inlined pipelines declare for what are run inputs of the outermost one.
        found_by_name: assets that steps take because a parameter has their name.
        asked: by scope, what its steps ask for beyond its own assets.
    """

    def __init__(self, numbers: dict[str, int], offered: Collection[str], closed: bool) -> None:
        self.numbers = numbers
        self.offered = offered
        self.closed = closed
        self.outside: dict[str, tuple[bool, int]] = {}
        self.context: dict[str, Any] = {}
        self.types: dict[str, Any] = {}
        self.found_by_name: set[str] = set()
        self.asked: dict[Scope, dict[str, None]] = {}

    def find(self, scope: Scope | None, name: str) -> Meaning:
        """What a name means in a scope."""
        told, wanted = False, None
        for here in scopes_of(scope):
            if (own := here.name_outside(name)) in self.numbers:
                offered = name in here.context or name in (here.declared or ())
                return Meaning(own, True, told, twice=here.pipeline if offered else "")
            self.asked.setdefault(here, {})[name] = None
            if name in here.inputs:
                wanted = (here.declared or {}).get(name, wanted)
                name, told = here.inputs[name], True
            elif name in here.context:
                full = f"{here.path}/{name}"
                self.context[full] = here.context[name]
                return Meaning(full, False, told=True)
            elif here.declared is None:
                continue
            elif name in here.declared:
                told, wanted = True, here.declared[name]
            else:
                return Meaning(name, False)
        if name in self.numbers:
            return Meaning(name, True, told, at_root=True)
        if isinstance(wanted, type):
            self.types[name] = wanted
        return Meaning(name, False, told, at_root=True)

    def ask_outside(self, name: str, index: int, has_default: bool) -> None:
        """A node takes a value from outside the graph."""
        known = self.outside.get(name)
        self.outside[name] = (
            has_default and (known is None or known[0]),
            index if known is None or (known[0] and not has_default) else known[1],
        )

    def take_by_name(self, meaning: Meaning) -> None:
        """A parameter takes an asset because it has its name.

        Raises:
            Faulty: something else has that name too.
        """
        name = meaning.name
        if meaning.at_root and name in self.offered:
            raise Faulty(
                f"parameter {name!r} could be the asset of that name or a run input or context "
                f"value; rename one, or say inputs=[{name!r}]"
            )
        if meaning.twice:
            raise Faulty(
                f"{name!r} could be that asset or a run input or context value of pipeline "
                f"{meaning.twice!r}; rename one"
            )
        if meaning.at_root:
            self.found_by_name.add(name)


def known_around(names: Names, scope: Scope) -> Iterator[str]:
    """What ``inputs=`` of an inlined pipeline may refer to, as its outer pipeline calls it."""
    before = "" if scope.around is None else f"{scope.around.path}/"
    for name in (*names.numbers, *names.offered):
        if name.startswith(before) and not name.startswith(f"{scope.path}/"):
            yield name[len(before) :]
