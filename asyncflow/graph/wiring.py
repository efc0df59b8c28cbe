"""From names to numbers: which asset each input is, and who produces it.

The binding rule: a declared input goes to the parameter of its name; the remaining
declared inputs fill the remaining parameters in order, ``*args`` and ``**kwargs`` take
what is left. Any other parameter is filled from node params, then an asset of its name,
then run inputs, then the pipeline's context, then its default.
"""

from __future__ import annotations

import difflib
import inspect
import unicodedata
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from asyncflow.graph.assets import Assets
from asyncflow.graph.binding import (
    EMPTY,
    CallTemplate,
    FromAsset,
    FromAssets,
    FromContext,
    FromFailure,
    FromOutside,
    FromParams,
    Source,
    make_template,
)
from asyncflow.graph.node import Node
from asyncflow.step import Parameter, Step

__all__ = ["Wiring", "nearest", "wire"]

_NOTHING: Mapping[str, Any] = {}
# How many nodes a phase of the build handles before it offers the event loop a turn.
CHUNK = 512


def nearest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """``; did you mean 'x'?`` for the most similar known name, else what to do instead."""
    if found := difflib.get_close_matches(name, list(known)[:2000], n=1):
        return f"; did you mean {found[0]!r}?"
    return f"; {otherwise}" if otherwise else ""


class Wiring(msgspec.Struct):
    """What :func:`wire` works out; the lists go by node."""

    assets: Assets
    index: dict[str, int]
    templates: list[CallTemplate]
    conditions: dict[int, CallTemplate]
    slots: list[tuple[int, ...]]
    parents: list[tuple[int, ...]]
    # name → (has a default everywhere, the first node that asks for it)
    outside: dict[str, tuple[bool, int]]
    # clean-up nodes → whether they wait for everything else
    cleanup: dict[int, bool] = {}
    mapped: list[int] = []


class _Shape(msgspec.Struct, frozen=True):
    """What nodes with one template have in common."""

    template: CallTemplate
    condition: CallTemplate | None
    extra: tuple[str, ...]  # assets taken beyond the declared inputs, always the same ones


class _Wirer:
    def __init__(
        self,
        nodes: Sequence[Node],
        offered: Collection[str],
        problems: list[str],
        given: Collection[str],
        absent: Collection[str],
    ) -> None:
        self.nodes = nodes
        self.offered = offered
        self.problems = problems
        self.absent = absent
        self.assets = Assets()
        self.assets.add_given(given)
        self.index: dict[str, int] = {}
        self.outside: dict[str, tuple[bool, int]] = {}
        self.shapes: dict[Any, _Shape | None] = {}
        self.wiring = Wiring(self.assets, self.index, [], {}, [], [], self.outside)

    # -- names and producers ---------------------------------------------------------

    def name_nodes(self) -> Generator[None]:
        folded: dict[str, str] = {}
        for index, node in enumerate(self.nodes):
            if not index % CHUNK:
                yield
            if node.name in self.index:
                self.problems.append(
                    f"two nodes are called {node.name!r}; give one another name: "
                    f"add_step(…, name='{node.name}_2')"
                )
                continue
            self.index[node.name] = index
            if not node.name.isascii():
                self._check_twin(node.name, folded)

    def _check_twin(self, name: str, folded: dict[str, str]) -> None:
        twin = folded.setdefault(unicodedata.normalize("NFC", name), name)
        if twin != name:
            self.problems.append(
                f"the names {twin!a} and {name!a} look the same (they differ only in "
                "Unicode normalisation); rename one"
            )

    def name_assets(self) -> Generator[None]:
        for index, node in enumerate(self.nodes):
            if not index % CHUNK:
                yield
            for name, other in self.assets.add(index, node.asset_names):
                self._check_shared(name, self.nodes[other], node)

    def _check_shared(self, name: str, first: Node, second: Node) -> None:
        if first.name == second.name:
            return
        bare = [node.name for node in (first, second) if node.step.condition is None]
        if bare:
            self.problems.append(
                f"asset {name!r} is produced by {first.name!r} and by {second.name!r}; rename one "
                f"output, or give both a condition ({bare[0]!r} has none)"
            )

    # -- inputs ------------------------------------------------------------------------

    def wire_nodes(self) -> Generator[None]:
        for index, node in enumerate(self.nodes):
            if not index % CHUNK:
                yield
            shape = self._shape_of(node, index)
            if shape is None:
                self._append(index, node, CallTemplate(), None, ())
                continue
            slots = self._slots(node, _asset_names(node.declared_inputs) + shape.extra)
            self._append(index, node, shape.template, shape.condition, slots)

    def _append(
        self,
        index: int,
        node: Node,
        template: CallTemplate,
        condition: CallTemplate | None,
        slots: tuple[int, ...],
    ) -> None:
        wiring = self.wiring
        if node.map is not None:
            wiring.mapped.append(index)
        wiring.templates.append(template)
        wiring.slots.append(slots)
        if condition is not None:
            wiring.conditions[index] = condition
        wiring.parents.append(self._parents(index, node, slots))

    def _parents(self, index: int, node: Node, slots: tuple[int, ...]) -> tuple[int, ...]:
        if not slots and not node.after:
            return ()
        producers = self.assets.producers
        found: dict[int, None] = {}
        for slot in slots:
            producer = producers[slot]
            if isinstance(producer, tuple):
                found.update(dict.fromkeys(producer))
            else:
                found[producer] = None
        for name in node.after:
            before = self.index.get(name)
            if before is None and name in self.absent:
                continue
            if before is None:
                self.problems.append(
                    f"step {node.name!r} runs after {name!r}, which is no step of this pipeline"
                    + nearest(name, self.index, "add that step, or take it out of after=")
                )
            else:
                found[before] = None
        return tuple(found)

    def _slots(self, node: Node, names: Sequence[str]) -> tuple[int, ...]:
        numbers = self.assets.numbers
        slots = []
        for name in names:
            number = numbers.get(name)
            if number is None:
                self.problems.append(self._unknown_asset(node, name))
            else:
                slots.append(number)
        # A hole would shift the others; the build fails anyway, so wire nothing.
        return tuple(slots) if len(slots) == len(names) else ()

    def _unknown_asset(self, node: Node, name: str) -> str:
        if name in self.offered:
            return (
                f"step {node.name!r} declares the input {name!r}, which is a run input or context "
                "value and no asset; leave it out of inputs=, parameters find it by name"
            )
        return f"step {node.name!r} needs the asset {name!r}, which no step produces" + nearest(
            name, self.assets.numbers, "add a step that does, or correct inputs="
        )

    # -- shapes ------------------------------------------------------------------------

    def _shape_of(self, node: Node, index: int) -> _Shape | None:
        declared = node.declared_inputs
        key = (
            id(node.step),
            None if node.params is None else tuple(node.params),
            _key_of(declared, node.step.parameter_names),
            node.map is not None,
        )
        try:
            return self.shapes[key]
        except KeyError:
            shape = self.shapes[key] = self._make_shape(node, index)
            return shape

    def _make_shape(self, node: Node, index: int) -> _Shape | None:
        builder = _ShapeBuilder(self, node, index)
        try:
            return builder.build()
        except _Faulty as fault:
            self.problems.append(f"step {node.name!r}: {fault}")
            return None


class _Faulty(Exception):
    """A sentence about the step at hand."""


class _ShapeBuilder:
    """Works out the template of one node and, with it, of all nodes of its shape."""

    def __init__(self, wirer: _Wirer, node: Node, index: int) -> None:
        self.wirer = wirer
        self.node = node
        self.index = index
        self.params = node.params or _NOTHING
        self.names: list[str] = []

    def build(self) -> _Shape:
        node, step = self.node, self.node.step
        self._check_params(step)
        declared = node.declared_inputs
        named: dict[str, Source] = {}
        spare: list[tuple[str, Source]] = []
        if declared is not None:
            named, spare = self._declared(declared, step.parameters)
        self._fill(step.parameters, named)
        spare_args, spare_kwargs = self._spare(step, spare)
        template = make_template(step.parameters, named, spare_args, spare_kwargs)
        condition = self._condition(step, named)
        return _Shape(template, condition, tuple(self.names[len(_asset_names(declared)) :]))

    def _check_params(self, step: Step[..., Any]) -> None:
        known = {parameter.name for parameter in step.parameters if not parameter.is_variadic}
        if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in step.parameters):
            return
        known |= {parameter.name for parameter in step.condition_parameters}
        for name in self.params:
            if name not in known:
                raise _Faulty(
                    f"it has no parameter {name!r} to give params to"
                    + nearest(name, known, "drop it from params=, or add that parameter")
                )

    # -- declared inputs ---------------------------------------------------------------

    def _declared(
        self, declared: tuple[str, ...] | Mapping[str, Any], parameters: Sequence[Parameter]
    ) -> tuple[dict[str, Source], list[tuple[str, Source]]]:
        if isinstance(declared, Mapping):
            return self._declared_mapping(declared, parameters)
        by_name = {p.name: p for p in parameters if not p.is_variadic and not _is_special(p)}
        sources = [(name, self._slot(name, by_name.get(name))) for name in declared]
        named: dict[str, Source] = {}
        rest: list[tuple[str, int]] = []
        for name, source in sources:
            self._take(name, source, by_name, named, rest)
        many = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
        free = [
            p
            for p in by_name.values()
            if p.name not in named and p.name not in self.params and _takes_any(p, many)
        ]
        spare: list[tuple[str, Source]] = []
        for name, position in rest:
            if free:
                parameter = free.pop(0)
                named[parameter.name] = FromAsset(position, parameter.default)
            else:
                spare.append((name, FromAsset(position)))
        return named, spare

    def _is_found_by_name(self, item: tuple[str, Parameter]) -> bool:
        return item[0] in self.wirer.assets.numbers or item[0] in self.wirer.offered

    def _take(
        self,
        name: str,
        source: FromAsset,
        by_name: Mapping[str, Parameter],
        named: dict[str, Source],
        rest: list[tuple[str, int]],
    ) -> None:
        if name not in by_name:
            rest.append((name, source.position))
        elif name in named:
            raise _Faulty(f"it declares the input {name!r} twice")
        else:
            self._check_once(name)
            named[name] = source

    def _declared_mapping(
        self, declared: Mapping[str, Any], parameters: Sequence[Parameter]
    ) -> tuple[dict[str, Source], list[tuple[str, Source]]]:
        by_name = {p.name: p for p in parameters if not p.is_variadic and not _is_special(p)}
        open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        named: dict[str, Source] = {}
        spare: list[tuple[str, Source]] = []
        for name, wanted in declared.items():
            if name not in by_name and not open_ended:
                raise _Faulty(
                    f"inputs= names the parameter {name!r}, which its function does not have"
                    + nearest(name, by_name, "add that parameter, or name another one")
                )
            self._check_once(name)
            source = self._mapped(wanted, by_name.get(name))
            if name in by_name:
                named[name] = source
            else:
                spare.append((name, source))
        return named, spare

    def _mapped(self, wanted: str | tuple[str, ...], parameter: Parameter | None) -> Source:
        if isinstance(wanted, str):
            return self._slot(wanted, parameter)
        positions = tuple(self._slot(name, None).position for name in wanted)
        return FromAssets(positions, EMPTY if parameter is None else parameter.default)

    def _slot(self, name: str, parameter: Parameter | None) -> FromAsset:
        self.names.append(name)
        return FromAsset(len(self.names) - 1, EMPTY if parameter is None else parameter.default)

    def _check_once(self, name: str) -> None:
        if name in self.params:
            raise _Faulty(f"parameter {name!r} is filled by inputs= and by params=; drop one")

    def _spare(
        self, step: Step[..., Any], spare: list[tuple[str, Source]]
    ) -> tuple[list[Source], dict[str, Source]]:
        kinds = {parameter.kind for parameter in step.parameters}
        given = {p.name for p in step.parameters}
        extra: dict[str, Source] = {
            name: FromParams(name) for name in self.params if name not in given
        }
        if not spare:
            return [], extra
        mapped = isinstance(self.node.declared_inputs, Mapping)
        if inspect.Parameter.VAR_POSITIONAL in kinds and not mapped:
            return [source for _, source in spare], extra
        if inspect.Parameter.VAR_KEYWORD in kinds:
            return [], {**extra, **dict(spare)}
        raise _Faulty(
            f"it declares the input {spare[0][0]!r} but its function has no parameter left for it; "
            "add a parameter or *args"
        )

    # -- everything else ---------------------------------------------------------------

    def _fill(self, parameters: Sequence[Parameter], named: dict[str, Source]) -> None:
        for parameter in parameters:
            if not parameter.is_variadic and parameter.name not in named:
                named[parameter.name] = self._other(parameter)

    def _other(self, parameter: Parameter) -> Source:
        name = parameter.name
        if parameter.wants_context:
            return FromContext()
        if parameter.wants_failure:
            if self.node.step.when == "success":
                raise _Faulty(
                    f"parameter {name!r} takes a RunFailure, which only steps with "
                    "when='failure' or when='always' get; add when=, or drop it"
                )
            return FromFailure()
        if name in self.params:
            return FromParams(name)
        if name in self.wirer.assets.numbers:
            self._check_ambiguous(name)
            return self._slot(name, parameter)
        known = self.wirer.outside.get(name)
        self.wirer.outside[name] = (
            parameter.has_default and (known is None or known[0]),
            self.index if known is None or (known[0] and not parameter.has_default) else known[1],
        )
        return FromOutside(name, parameter.default)

    def _check_ambiguous(self, name: str) -> None:
        if name in self.wirer.offered:
            raise _Faulty(
                f"parameter {name!r} could be the asset of that name or a run input or context "
                f"value; rename one, or say inputs=[{name!r}]"
            )

    # -- the condition -----------------------------------------------------------------

    def _condition(self, step: Step[..., Any], named: Mapping[str, Source]) -> CallTemplate | None:
        if step.condition is None:
            return None
        own = {
            name: source
            for name, source in named.items()
            if not isinstance(source, FromContext | FromFailure)
        }
        sources: dict[str, Source] = {}
        for parameter in step.condition_parameters:
            if parameter.is_variadic:
                raise _Faulty("its condition takes *args or **kwargs; name what it needs instead")
            if parameter.name in own:
                sources[parameter.name] = _with_default(own[parameter.name], parameter.default)
            else:
                sources[parameter.name] = self._other(parameter)
        return make_template(step.condition_parameters, sources, (), {})


def _takes_any(parameter: Parameter, many: bool) -> bool:
    """Whether an input of another name may fill it: options with a default are no inputs."""
    if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
        return True
    return not (many or parameter.has_default)


def _is_special(parameter: Parameter) -> bool:
    return parameter.wants_context or parameter.wants_failure


def _with_default(source: Source, default: Any) -> Source:
    if isinstance(source, FromAsset | FromAssets | FromOutside) and default is not EMPTY:
        return msgspec.structs.replace(source, default=default)
    return source


def _asset_names(declared: Any) -> tuple[str, ...]:
    if declared is None:
        return ()
    if not isinstance(declared, Mapping):
        return tuple(declared)
    names: list[str] = []
    for wanted in declared.values():
        names.extend([wanted] if isinstance(wanted, str) else wanted)
    return tuple(names)


def _key_of(declared: Any, parameter_names: frozenset[str]) -> Any:
    """What of the declared inputs decides the shape of the call.

    For a list that is its length and which of its names are parameters: nodes of one step
    with other inputs of the same shape share a template.
    """
    if declared is None:
        return None
    if isinstance(declared, Mapping):
        return tuple(declared.items())
    places = [(place, name) for place, name in enumerate(declared) if name in parameter_names]
    return len(declared), tuple(places)


def wire(
    nodes: Sequence[Node],
    offered: Collection[str],
    problems: list[str],
    given: Collection[str] = (),
    absent: Collection[str] = (),
) -> Generator[None, None, Wiring]:
    """Resolve all names of a graph; what is wrong is added to ``problems``.

    Args:
        nodes: in order of declaration.
        offered: names of declared run inputs and context values.
        problems: gets one sentence for each fault.
        given: assets whose values are there already.
        absent: nodes that ``after`` may name though they do not run.
    """
    wirer = _Wirer(nodes, offered, problems, given, absent)
    yield from wirer.name_nodes()
    yield from wirer.name_assets()
    yield from wirer.wire_nodes()
    return wirer.wiring
