"""What this machine and environment offer, and what a Runtime() will use of it."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from asyncflow import __version__
from asyncflow.engine.gpus import current_probe, devices_of, find_gpus_blocking
from asyncflow.engine.hardware import probe
from asyncflow.runtime import Runtime

__all__ = ["REQUIRED", "Findings", "examine"]

_GIB, _MIB = 2**30, 2**20
REQUIRED = ("aiofiles", "anyio", "cloudpickle", "msgspec", "psutil", "pyyaml", "rich", "typer")
_OPTIONAL = ("uvloop", "nvidia-ml-py")
_CGROUP_FILES = {"cpu.max": "cpu", "memory.max": "memory"}


class Findings(msgspec.Struct, frozen=True):
    """What was found, one field for each section.

    Memory is in bytes, CPUs are numbers of CPUs; what is not known or not limited is None.

    Attributes:
        asyncflow, python: versions, and where this Python lives.
        cpus: ``logical``, ``physical``, ``affinity``, ``cgroup``.
        memory: ``total_bytes``, ``available_bytes``, ``cgroup_bytes``.
        gpus: ``visible`` (what ``CUDA_VISIBLE_DEVICES`` says), ``devices`` that this process may
            use (``id``, ``gpu_type``, ``memory_bytes``), ``absent`` (why there is no driver to
            ask) and ``faults`` (what went wrong).
        event_loop: the ``default`` loop and the version of ``uvloop``.
        packages: versions of what asyncflow needs or can use; None if not installed.
        defaults: what a Runtime() without arguments shares, and where the figures are from.
        remarks: what deserves attention.
    """

    asyncflow: str
    python: Mapping[str, str]
    cpus: Mapping[str, float | None]
    memory: Mapping[str, int | None]
    gpus: Mapping[str, Any]
    event_loop: Mapping[str, str | None]
    packages: Mapping[str, str | None]
    defaults: Mapping[str, Any]
    remarks: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found

    def as_text(self) -> str:
        """Lines for people."""
        return "\n".join(f"{label:<12}{words}".rstrip() for label, words in _lines(self))


class _Limits:
    """Reads the files of control groups and remembers the tightest limit of each kind."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}

    def read(self, path: Path) -> str:
        text = path.read_text(encoding="ascii")
        kind = _CGROUP_FILES.get(path.name)
        limit = None if kind is None else _limit(kind, text)
        if kind is not None and limit is not None:
            self.found[kind] = min(limit, self.found.get(kind, limit))
        return text


def _limit(kind: str, text: str) -> float | None:
    try:
        first, *rest = text.split()
        limit = int(first) / int(rest[0] if rest else "100000") if kind == "cpu" else int(first)
    except (ValueError, ArithmeticError):
        return None  # "max", or not a limit in the form we know.
    return limit if limit > 0 else None


def examine() -> Findings:
    """Find out; nothing is started and nothing is changed."""
    import psutil

    limits = _Limits()
    machine = probe(read=limits.read)
    memory = psutil.virtual_memory()
    cgroup_bytes = limits.found.get("memory")
    gpus = _gpus()
    findings = Findings(
        asyncflow=__version__,
        python={
            "version": platform.python_version(),
            "implementation": platform.python_implementation(),
            "executable": sys.executable,
            "platform": platform.platform(),
        },
        cpus={
            "logical": os.cpu_count(),
            "physical": psutil.cpu_count(logical=False),
            "affinity": _affinity(),
            "cgroup": limits.found.get("cpu"),
        },
        memory={
            "total_bytes": memory.total,
            "available_bytes": memory.available,
            "cgroup_bytes": None if cgroup_bytes is None else int(cgroup_bytes),
        },
        gpus=gpus,
        event_loop={"default": _default_loop(), "uvloop": _version("uvloop")},
        packages={name: _version(name) for name in (*REQUIRED, *_OPTIONAL)},
        defaults={**_defaults(machine.sources), "gpus": len(gpus["devices"])},
        remarks=(),
    )
    return msgspec.structs.replace(findings, remarks=tuple(_remarks(findings)))


def _gpus() -> dict[str, Any]:
    """The GPUs that this process may use, looked for in another process."""
    probe = current_probe()
    report = find_gpus_blocking(probe)
    devices = devices_of(report, probe.visible)
    return {
        "visible": probe.visible,
        "devices": [device._asdict() for device in devices],
        "absent": report.absent,
        "faults": list(report.faults),
    }


def _affinity() -> int | None:
    allowed = getattr(os, "sched_getaffinity", None)
    try:
        return None if allowed is None else len(allowed(0))
    except OSError:
        return None  # Some sandboxes forbid the call.


def _defaults(sources: Mapping[str, str]) -> dict[str, Any]:
    runtime = Runtime()
    capacity = runtime.capacity
    return {
        "cpus": capacity.cpu_millis / 1000,
        "cpus_from": sources["cpu_millis"],
        "memory_bytes": capacity.memory_bytes,
        "memory_from": sources["memory_available_bytes"],
        "max_threads": runtime.max_threads,
        "max_concurrency": runtime.max_concurrency,
    }


def _default_loop() -> str:
    with asyncio.Runner() as runner:
        kind = type(runner.get_loop())
    return f"{kind.__module__}.{kind.__qualname__}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _remarks(found: Findings) -> Iterator[str]:
    for name in REQUIRED:
        if found.packages[name] is None:
            yield f"{name} is not installed, and asyncflow needs it; install it"
    defaults = found.defaults
    if defaults["cpus_from"].startswith("assumed"):
        yield "the number of CPUs is unknown: pass Runtime(max_cpus=…)"
    if defaults["memory_from"].startswith("assumed"):
        yield "the memory is unknown: pass Runtime(max_memory=…)"
    yield from found.gpus["faults"]
    if found.gpus["visible"] and not defaults["gpus"]:
        yield (
            "CUDA_VISIBLE_DEVICES is set, but none of what it names was found: declare GPUs with "
            "Runtime(max_gpus=…) or --max-gpus"
        )


# -- words -------------------------------------------------------------------------------


def _lines(found: Findings) -> Iterator[tuple[str, str]]:
    python, defaults = found.python, found.defaults
    yield "asyncflow", found.asyncflow
    yield "Python", f"{python['version']} ({python['implementation']}), {python['executable']}"
    yield "", python["platform"]
    yield "CPUs", _cpus_in_words(found.cpus)
    yield "memory", _memory_in_words(found.memory)
    yield "GPUs", _gpus_in_words(found.gpus)
    yield "event loop", _loops_in_words(found.event_loop)
    yield "packages", _packages_in_words(found.packages)
    yield "", ""
    yield "Runtime() will share", ""
    yield "  CPUs", f"{defaults['cpus']:g} ({defaults['cpus_from']})"
    yield "  memory", f"{_bytes(defaults['memory_bytes'])} ({defaults['memory_from']})"
    yield "  GPUs", str(defaults["gpus"] or "none")
    yield "  threads", f"up to {defaults['max_threads']}"
    yield "  window", f"up to {defaults['max_concurrency']:,} units in flight"
    for remark in found.remarks:
        yield "note:", remark


def _cpus_in_words(cpus: Mapping[str, float | None]) -> str:
    parts = [
        (cpus["logical"], "logical"),
        (cpus["physical"], "physical"),
        (cpus["affinity"], "by affinity"),
    ]
    words = [f"{count:g} {what}" for count, what in parts if count is not None]
    limit = cpus["cgroup"]
    return ", ".join([*words, "no cgroup limit" if limit is None else f"cgroup limit {limit:g}"])


def _memory_in_words(memory: Mapping[str, int | None]) -> str:
    total, available, limit = (memory[name] for name in memory)
    words = [f"{_bytes(total or 0)} in all", f"{_bytes(available or 0)} available"]
    return ", ".join(
        [*words, "no cgroup limit" if limit is None else f"cgroup limit {_bytes(limit)}"]
    )


def _gpus_in_words(gpus: Mapping[str, Any]) -> str:
    visible = gpus["visible"]
    said = "is not set" if visible is None else f"is {visible!r}"
    found = "; ".join(map(_device_in_words, gpus["devices"])) or "none found"
    why = f" ({gpus['absent']})" if gpus["absent"] else ""
    return f"{found}{why}; CUDA_VISIBLE_DEVICES {said}"


def _device_in_words(device: Mapping[str, Any]) -> str:
    memory = device["memory_bytes"]
    held = "" if memory is None else f", {_bytes(memory)}"
    return f"{device['gpu_type']} ({device['id']}{held})"


def _loops_in_words(loops: Mapping[str, str | None]) -> str:
    uvloop = loops["uvloop"]
    said = "uvloop is not installed" if uvloop is None else f"uvloop {uvloop} is installed"
    return f"{loops['default']}; {said}"


def _packages_in_words(packages: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {version or 'missing'}" for name, version in packages.items())


def _bytes(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / _MIB:.0f} MiB"
