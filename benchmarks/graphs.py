"""The shapes that are measured, as parents by number and as pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from asyncflow import Pipeline, Step, step

__all__ = ["Deps", "chain", "fan_out", "layers", "no_op", "pipeline_of", "random_graph"]

Deps = Sequence[Sequence[int]]


@step
async def no_op(*values: int) -> int:
    """A step that takes its parents' values and does nothing with them."""
    return 1


def fan_out(width: int) -> Deps:
    """Steps that do not depend on each other."""
    return [()] * width


def chain(length: int) -> Deps:
    """Each step takes the value of the one before."""
    return [(), *((number,) for number in range(length - 1))]


def layers(depth: int, width: int) -> Deps:
    """Each step takes the values of three neighbours in the layer above."""
    deps: list[tuple[int, ...]] = [()] * width
    for layer in range(1, depth):
        above = (layer - 1) * width
        deps += [tuple(above + (place + k) % width for k in range(3)) for place in range(width)]
    return deps


def random_graph(size: int, parents: int = 3, seed: int = 1) -> Deps:
    """Each step takes the values of ``parents`` steps declared before it."""
    random = Random(seed)
    return [tuple(random.sample(range(i), min(parents, i))) for i in range(size)]


def pipeline_of(deps: Deps, what: Step[..., Any] = no_op, *, build: bool = True) -> Pipeline:
    """A pipeline of that shape, its inputs declared by name; built unless told otherwise."""
    pipeline = Pipeline("measured")
    for number, parents in enumerate(deps):
        pipeline.add_step(what, name=f"n{number}", inputs=[f"n{parent}" for parent in parents])
    if build:
        pipeline.build()
    return pipeline
