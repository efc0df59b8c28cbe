"""Building: from 10,000 declared steps to a checked graph, against graphlib's sort."""

from __future__ import annotations

import gc
import statistics
import time
from graphlib import TopologicalSorter

from benchmarks.graphs import Deps, pipeline_of, random_graph
from benchmarks.report import Goal, Row
from benchmarks.sampling import Scale, compare

__all__ = ["measure_building"]


def _build_seconds(deps: Deps) -> float:
    pipeline = pipeline_of(deps, build=False)
    gc.collect()
    began = time.perf_counter()
    graph = pipeline.build()
    seconds = time.perf_counter() - began
    if len(graph) != len(deps):
        raise RuntimeError(f"the graph has {len(graph)} nodes instead of {len(deps)}")
    return seconds


def _declare_seconds(deps: Deps) -> float:
    gc.collect()
    began = time.perf_counter()
    pipeline_of(deps, build=False)
    return time.perf_counter() - began


def _graphlib_seconds(by_name: dict[str, list[str]]) -> float:
    gc.collect()
    began = time.perf_counter()
    order = tuple(TopologicalSorter(by_name).static_order())
    seconds = time.perf_counter() - began
    if len(order) != len(by_name):
        raise RuntimeError(f"graphlib sorted {len(order)} nodes instead of {len(by_name)}")
    return seconds


def measure_building(scale: Scale) -> list[Row]:
    """Build and validate 10,000 nodes with 30,000 edges, against graphlib."""
    deps = random_graph(scale.of(10_000))
    by_name = {f"n{i}": [f"n{parent}" for parent in parents] for i, parents in enumerate(deps)}
    built, sorted_ = compare(
        scale, lambda: _build_seconds(deps), lambda: _graphlib_seconds(by_name)
    )
    declared = statistics.median(_declare_seconds(deps) for _ in range(scale.samples))
    return [
        Row("build and validate 10k nodes, 30k edges", built, sorted_, goal=Goal("ratio", 5.0)),
        Row("declare these 10k nodes with add_step", declared),
    ]
