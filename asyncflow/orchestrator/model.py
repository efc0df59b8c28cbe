"""The keys of a pipeline's file, their types and what they mean: the one place that says so.

The check of a file, ``asyncflow schema`` and the table in the docs are all derived from here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from asyncflow.quantities import parse_bytes, parse_cpu
from asyncflow.step import check_name

__all__ = [
    "Checkpoint",
    "Document",
    "Execution",
    "Limits",
    "Logging",
    "ModuleEntry",
    "PipelineConfig",
    "Resources",
    "RetryPolicy",
]


def _words(check: Callable[[Any], object]) -> dict[str, Any]:
    """What a type carries beside its JSON schema: a check that raises with a sentence."""
    return {"check": check}


def _check_pipeline_name(name: str) -> None:
    check_name(name, "pipeline")


def _check_module_name(name: str) -> None:
    check_name(name, "module")


def _check_group(label: str) -> None:
    check_name(label, "group")


def _check_class(text: str) -> None:
    """``package.module:Class``."""
    module, colon, name = text.partition(":")
    if not (colon and _is_dotted(module) and _is_dotted(name)):
        raise ValueError(f"takes package.module:Class, got {text!r}")


def _check_function(text: str) -> None:
    """``file.py:function``; the file's own colon, after a drive's letter, comes first."""
    file, colon, name = text.rpartition(":")
    if not (colon and file.endswith(".py") and file.isprintable() and _is_dotted(name)):
        raise ValueError(f"takes file.py:function, got {text!r}")


def _is_dotted(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


Cpus = Annotated[
    int | float | str,
    Meta(
        description="CPUs: 2, 0.5 or '500m'.",
        extra=_words(parse_cpu),
        extra_json_schema={"minimum": 0},
    ),
]
Bytes = Annotated[
    int | str,
    Meta(
        description="Bytes, or text with a unit such as '512Mi' or '4GB'.",
        extra=_words(parse_bytes),
        extra_json_schema={"minimum": 0},
    ),
]
Seconds = Annotated[float, Meta(gt=0, description="Seconds.")]


class _Keys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all parts of a file share: a key that is not named here is a fault."""


class Logging(_Keys, frozen=True):
    """What is kept of what modules print and log."""

    level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
        Meta(description="Log records below it are not kept."),
    ] = "INFO"
    size: Annotated[
        Bytes,
        Meta(description="A log of this size is set aside and a new one begun ('10Mi')."),
    ] = "10Mi"
    backups: Annotated[
        int, Meta(ge=0, le=100, description="How many logs that were set aside are kept.")
    ] = 3


class Execution(_Keys, frozen=True):
    """How modules are run."""

    mode: Annotated[
        Literal["parallel", "sequential"],
        Meta(description="Modules as soon as what they depend on is done, or one at a time."),
    ] = "parallel"
    worker_type: Annotated[
        Literal["thread", "process"],
        Meta(description="Where modules run: threads of this process, or processes of their own."),
    ] = "thread"
    failure_policy: Annotated[
        Literal["fail_fast", "collect_all"],
        Meta(
            description="Whether the first failure stops the run, or all that is not below a "
            "failure still runs."
        ),
    ] = "fail_fast"
    max_nested_depth: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="How deep nested tasks may nest; null for 32."),
    ] = None
    logging: Logging = Logging()


class Limits(_Keys, frozen=True):
    """What all modules of the pipeline share; null for what the machine has, 0 for nothing."""

    max_cpus: Annotated[Cpus | None, Meta(description="CPUs to share.")] = None
    max_gpus: Annotated[
        Annotated[int, Meta(ge=0)] | list[str] | None,
        Meta(description="How many GPUs to share, or their types."),
    ] = None
    max_memory: Annotated[Bytes | None, Meta(description="Memory to share.")] = None


class Checkpoint(_Keys, frozen=True):
    """Where results are recorded, so that a second start goes on where the first one ended."""

    enabled: Annotated[bool, Meta(description="Whether results are recorded.")] = True
    directory: Annotated[str, Meta(min_length=1, description="A folder, relative to the file.")] = (
        "./.checkpoints"
    )


class Resources(_Keys, frozen=True):
    """What a module holds while it runs."""

    cpus: Annotated[Cpus, Meta(description="CPUs it holds.")] = 1
    gpus: Annotated[
        float, Meta(ge=0, description="GPUs it holds: a whole number, or a share such as 0.5.")
    ] = 0
    memory: Annotated[Bytes | None, Meta(description="Memory it holds.")] = None


class RetryPolicy(_Keys, frozen=True):
    """When a module that failed is tried again."""

    retries: Annotated[int, Meta(ge=0, description="How many more tries.")]
    wait_initial: Annotated[float, Meta(ge=0, description="Seconds before the first of them.")] = (
        0.1
    )
    wait_max: Annotated[float, Meta(ge=0, description="Seconds that no wait exceeds.")] = 30.0
    wait_jitter: Annotated[float, Meta(ge=0, description="Seconds of randomness in a wait.")] = 0.1


class ModuleEntry(_Keys, frozen=True):
    """One module; it has ``path`` or ``script``."""

    name: Annotated[
        str,
        Meta(
            min_length=1,
            description="What it is called by others and in results.",
            extra=_words(_check_module_name),
        ),
    ]
    path: Annotated[
        str | None,
        Meta(
            description="A class with a method run(context): 'package.module:Class'.",
            extra=_words(_check_class),
        ),
    ] = None
    script: Annotated[
        str | None,
        Meta(
            description="A function of one argument: 'file.py:function', relative to the file.",
            extra=_words(_check_function),
        ),
    ] = None
    depends_on: Annotated[list[str], Meta(description="Modules whose results it needs.")] = (
        msgspec.field(default_factory=list)
    )
    resources: Resources = Resources()
    params: Annotated[
        dict[str, Any],
        Meta(
            description="Values of its own, as context.params; {from_env: NAME} is read from the "
            "environment when the run starts."
        ),
    ] = msgspec.field(default_factory=dict)
    retry: Annotated[
        Annotated[int, Meta(ge=0)] | RetryPolicy,
        Meta(description="How many more tries after a failure, or a policy."),
    ] = 0
    timeout: Annotated[Seconds | None, Meta(description="Seconds for one try.")] = None
    execution_group: Annotated[
        str | None,
        Meta(
            description="Neighbours with the same group run one after the other in one worker.",
            extra=_words(_check_group),
        ),
    ] = None


class PipelineConfig(_Keys, frozen=True, kw_only=True):
    """A pipeline."""

    name: Annotated[
        str,
        Meta(min_length=1, description="What it is called.", extra=_words(_check_pipeline_name)),
    ]
    execution: Execution = Execution()
    resources: Limits = Limits()
    checkpoint: Checkpoint | None = None
    modules: Annotated[list[ModuleEntry], Meta(min_length=1, description="Its modules.")]


class Document(_Keys, frozen=True):
    """The file of a pipeline."""

    pipeline: PipelineConfig
