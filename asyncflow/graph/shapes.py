"""How a step is called: one template for all nodes of the same step and shape of inputs.

The binding rule: a declared input goes to the parameter of its name; the remaining
declared inputs fill the remaining parameters in order, ``*args`` and ``**kwargs`` take
what is left. Any other parameter is filled from node params, then an asset of its name,
then run inputs, then the pipeline's context, then its default.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from asyncflow.functions import Parameter
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
from asyncflow.graph.names import Faulty, Meaning, Names, nearest
from asyncflow.graph.node import Node
from asyncflow.step import Step

__all__ = ["Shape", "asset_names_of", "shape_key", "shape_of"]

_NOTHING: Mapping[str, Any] = {}


class Shape(msgspec.Struct, frozen=True):
    """What nodes with one template have in common.

    ``extra`` are the assets taken beyond the declared inputs, always the same ones; for nodes
    of an inlined pipeline it is all assets, by their names in the outermost one.
    """

    template: CallTemplate
    condition: CallTemplate | None
    limits: CallTemplate | None
    extra: tuple[str, ...]


def shape_of(names: Names, node: Node, index: int) -> Shape:
    """Work out the template of one node and, with it, of all nodes of its shape.

    Raises:
        Faulty: the node cannot be called.
    """
    return _ShapeBuilder(names, node, index).build()


def shape_key(node: Node) -> Any:
    """What decides the shape of the call: nodes with equal keys share a template.

    Of a list of declared inputs that is its length and which of its names are parameters.
    Within an inlined pipeline it is all of them, as each may be an asset or not.
    """
    declared, params = node.declared_inputs, node.params
    if node.scope is None and not isinstance(declared, Mapping) and declared is not None:
        known = node.step.parameter_names
        places = [(place, name) for place, name in enumerate(declared) if name in known]
        wiring: Any = len(declared), tuple(places)
    else:
        wiring = tuple(declared.items()) if isinstance(declared, Mapping) else declared
    chosen = None if params is None else tuple(params)
    if node.scope is None:
        return id(node.step), chosen, wiring, node.map is not None
    return id(node.step), chosen, wiring, node.map is not None, id(node.scope)


def asset_names_of(declared: Any) -> tuple[str, ...]:
    """The names among declared inputs, in order."""
    if declared is None:
        return ()
    if not isinstance(declared, Mapping):
        return tuple(declared)
    names: list[str] = []
    for wanted in declared.values():
        names.extend([wanted] if isinstance(wanted, str) else wanted)
    return tuple(names)


class _ShapeBuilder:
    """Works out one shape.

    ``taken`` are the assets that its slots are, in order.
    """

    def __init__(self, names: Names, node: Node, index: int) -> None:
        self.names = names
        self.node = node
        self.index = index
        self.params = node.params or _NOTHING
        self.taken: list[str] = []

    def build(self) -> Shape:
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
        condition = limits = None
        if step.condition is not None:
            condition = self._by_name("condition", step.condition_parameters, named)
        if callable(step.limits):
            limits = self._by_name("limits", step.limits_parameters, named)
        known = 0 if node.scope is not None else len(asset_names_of(declared))
        return Shape(template, condition, limits, tuple(self.taken[known:]))

    def _check_params(self, step: Step[..., Any]) -> None:
        known = {parameter.name for parameter in step.parameters if not parameter.is_variadic}
        if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in step.parameters):
            return
        known |= {p.name for p in (*step.condition_parameters, *step.limits_parameters)}
        for name in self.params:
            if name not in known:
                raise Faulty(
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
        sources = [(name, self._declared_source(name, by_name.get(name))) for name in declared]
        named: dict[str, Source] = {}
        rest: list[tuple[str, Source]] = []
        for name, source in sources:
            self._take(name, source, by_name, named, rest)
        many = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
        free = [
            p
            for p in by_name.values()
            if p.name not in named and p.name not in self.params and _takes_any(p, many)
        ]
        spare: list[tuple[str, Source]] = []
        for name, source in rest:
            if free:
                parameter = free.pop(0)
                named[parameter.name] = _with_default(source, parameter.default)
            else:
                spare.append((name, source))
        return named, spare

    def _take(
        self,
        name: str,
        source: Source,
        by_name: Mapping[str, Parameter],
        named: dict[str, Source],
        rest: list[tuple[str, Source]],
    ) -> None:
        if name not in by_name:
            rest.append((name, source))
        elif name in named:
            raise Faulty(f"it declares the input {name!r} twice")
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
                raise Faulty(
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
            return self._declared_source(wanted, parameter)
        positions = tuple(self._listed(name) for name in wanted)
        return FromAssets(positions, EMPTY if parameter is None else parameter.default)

    def _listed(self, name: str) -> int:
        source = self._declared_source(name, None)
        if not isinstance(source, FromAsset):
            raise Faulty(f"it lists {name!r} among several assets, but that is a run input")
        return source.position

    def _declared_source(self, name: str, parameter: Parameter | None) -> Source:
        """An asset; in an inlined pipeline also what stands for that name outside it."""
        if self.node.scope is None:
            return self._slot(name, parameter)
        found = self.names.find(self.node.scope, name)
        if found.is_asset:
            return self._slot(found.name, parameter)
        if not found.told:
            raise Faulty(
                f"it needs the asset {name!r}, which no step produces"
                + nearest(name, self.names.numbers, "add_pipeline(inputs=…) can say what it is")
            )
        return self._outside(found, parameter)

    def _slot(self, name: str, parameter: Parameter | None) -> FromAsset:
        self.taken.append(name)
        return FromAsset(len(self.taken) - 1, EMPTY if parameter is None else parameter.default)

    def _outside(self, found: Meaning, parameter: Parameter | None) -> FromOutside:
        has_default = parameter is not None and parameter.has_default
        names = self.names
        lacking = found.told and found.at_root and names.closed and found.name not in names.offered
        if lacking and not has_default:
            raise Faulty(
                f"it needs {found.name!r}, which is no asset and no run input of the pipeline"
                + nearest(
                    found.name,
                    [*names.numbers, *names.offered],
                    "add_pipeline(inputs=…) can say what it is",
                )
            )
        names.ask_outside(found.name, self.index, has_default)
        return FromOutside(found.name, EMPTY if parameter is None else parameter.default)

    def _check_once(self, name: str) -> None:
        if name in self.params:
            raise Faulty(f"parameter {name!r} is filled by inputs= and by params=; drop one")

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
        raise Faulty(
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
                raise Faulty(
                    f"parameter {name!r} takes a RunFailure, which only steps with "
                    "when='failure' or when='always' get; add when=, or drop it"
                )
            return FromFailure()
        if name in self.params:
            return FromParams(name)
        found = self.names.find(self.node.scope, name)
        if found.is_asset:
            self.names.take_by_name(found)
            return self._slot(found.name, parameter)
        return self._outside(found, parameter)

    # -- the condition -----------------------------------------------------------------

    def _by_name(
        self, option: str, parameters: Sequence[Parameter], named: Mapping[str, Source]
    ) -> CallTemplate:
        """How the function of an option is called: with what the step takes, by name."""
        own = {
            name: source
            for name, source in named.items()
            if not isinstance(source, FromContext | FromFailure)
        }
        sources: dict[str, Source] = {}
        for parameter in parameters:
            if parameter.is_variadic:
                raise Faulty(f"its {option} takes *args or **kwargs; name what it needs instead")
            if parameter.name in own:
                sources[parameter.name] = _with_default(own[parameter.name], parameter.default)
            else:
                sources[parameter.name] = self._other(parameter)
        return make_template(parameters, sources, (), {})


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
