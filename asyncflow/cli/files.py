"""Pipelines in files: what commands about them have in common."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from asyncflow.cli.endings import CommandError
from asyncflow.cli.target import load_pipeline
from asyncflow.orchestrator.merging import parse_set
from asyncflow.orchestrator.orchestrator import PipelineOrchestrator
from asyncflow.orchestrator.reading import SUFFIXES
from asyncflow.pipeline.pipeline import Pipeline

__all__ = ["LaidOver", "is_pipeline_file", "load_any", "load_orchestrator"]


def is_pipeline_file(target: str) -> bool:
    """Whether a target is a file that describes a pipeline, and not Python."""
    return Path(target).suffix.lower() in SUFFIXES


class LaidOver(msgspec.Struct, frozen=True):
    """What a command line says of a pipeline's file, beside its name.

    Attributes:
        overlays: files of ``-f``.
        settings: ``key=value`` of ``--set``.
        max_cpus, max_gpus, failure_policy: options that stand for a setting each.
        checkpoint: where to record, relative to where the command stands.
    """

    overlays: Sequence[str] = ()
    settings: Sequence[str] = ()
    max_cpus: str | None = None
    max_gpus: str | None = None
    failure_policy: str | None = None
    checkpoint: str | None = None


def load_any(target: str, over: LaidOver) -> Pipeline | PipelineOrchestrator:
    """The pipeline of a file, or that of Python code.

    Raises:
        CommandError: it is not there, or an option does not go with it.
        ConfigError: the file is wrong.
    """
    if is_pipeline_file(target):
        return load_orchestrator(target, over)
    only_files = {"-f": over.overlays, "--set": over.settings}
    for option, given in only_files.items():
        if given:
            raise CommandError(f"{option} is for pipelines in a .yaml, .toml or .json file")
    return load_pipeline(target)


def load_orchestrator(file: str, over: LaidOver) -> PipelineOrchestrator:
    """The pipeline of a file, with what the command line lays over it.

    Raises:
        CommandError: a setting cannot be read.
        ConfigError: the file is wrong.
    """
    overrides = dict(_settings(over.settings))
    if over.max_cpus is not None:
        overrides["resources.max_cpus"] = over.max_cpus
    if over.max_gpus is not None:
        overrides["resources.max_gpus"] = _devices(over.max_gpus)
    if over.failure_policy is not None:
        overrides["execution.failure_policy"] = over.failure_policy
    if over.checkpoint is not None:
        overrides["checkpoint.enabled"] = True
        overrides["checkpoint.directory"] = os.path.abspath(over.checkpoint)
    return PipelineOrchestrator(file, overlays=over.overlays, overrides=overrides)


def _settings(arguments: Iterable[str]) -> Iterator[tuple[str, Any]]:
    seen = set()
    for argument in arguments:
        try:
            key, value = parse_set(argument)
        except ValueError as error:
            raise CommandError(f"--set {error}") from error
        if key in seen:
            raise CommandError(f"--set {key}=… is given twice; give it once")
        seen.add(key)
        yield key, value


def _devices(text: str) -> int | list[str]:
    return int(text) if text.isdecimal() else [name.strip() for name in text.split(",")]
