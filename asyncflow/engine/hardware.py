"""What this process may use: CPUs and memory as the system limits them, and declared GPUs.

The tightest of several sources wins: the scheduler's affinity mask, the machine's memory, and
the limits of this process's control group (cgroup v2) and of every group above it, which is
how a container or a service manager caps it. A source that cannot be read is left out; where it
should be there, the fault is told.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import msgspec

from asyncflow.engine.capacity import Device

__all__ = ["Machine", "declared_devices", "probe"]

ReadText = Callable[[Path], str]


class Machine(msgspec.Struct, frozen=True):
    """The CPUs and the memory this process may use.

    Parameters:
        cpu_millis: thousandths of a CPU.
        memory_bytes: bytes of memory.
        sources: where each of the figures was found, by its name.
        memory_available_bytes: bytes that are left: the smaller of what the machine has available
            and what the control groups leave.
        faults: what could not be read although it should be there, by the name of the figure.
    """

    cpu_millis: int
    memory_bytes: int
    sources: Mapping[str, str]
    memory_available_bytes: int = 0
    faults: Mapping[str, str] = {}


class _Limit(msgspec.Struct, frozen=True):
    amount: int
    source: str


def _read_text(path: Path) -> str:
    return path.read_text(encoding="ascii")


def probe(
    *,
    cgroup_root: Path = Path("/sys/fs/cgroup"),
    membership: Path = Path("/proc/self/cgroup"),
    read: ReadText = _read_text,
) -> Machine:
    """Find out what this process may use; never raises, whatever cannot be read.

    Parameters:
        cgroup_root: where cgroup v2 is mounted.
        membership: the file that names this process's control group.
        read: returns the text of a file; an `OSError` or `ValueError` means it has none.

    Example:
        >>> probe().cpu_millis > 0
        True
    """
    groups = list(_groups(cgroup_root, membership, read))
    faults: dict[str, str] = {}
    total, available = _memory(faults)
    limits = list(_limits(groups, "memory.max", _memory_limit, read))
    cpu = min([_cpus(faults), *_limits(groups, "cpu.max", _cpu_quota, read)], key=_amount)
    memory = min([total, *limits], key=_amount)
    left = min([available, *(_left(limit, read) for limit in limits)], key=_amount)
    sources = {
        "cpu_millis": cpu.source,
        "memory_bytes": memory.source,
        "memory_available_bytes": left.source,
    }
    return Machine(cpu.amount, memory.amount, sources, left.amount, faults)


def _amount(limit: _Limit) -> int:
    return limit.amount


def _cpus(faults: dict[str, str]) -> _Limit:
    affinity = getattr(os, "sched_getaffinity", None)
    if affinity is not None:
        try:
            return _Limit(1000 * len(affinity(0)), "affinity of the process")
        except OSError as error:
            # Some sandboxes forbid the call; the count below still holds.
            faults["cpu_millis"] = f"the affinity of the process cannot be read: {error}"
    count = os.cpu_count()
    if count is None:
        return _Limit(1000, "assumed, because the number of CPUs is unknown")
    return _Limit(1000 * count, "CPUs of the machine")


def _memory(faults: dict[str, str]) -> tuple[_Limit, _Limit]:
    """The memory of the machine, and how much of it is available."""
    import psutil  # Here, because importing it takes longer than all of asyncflow.

    try:
        memory = psutil.virtual_memory()
    except (OSError, RuntimeError, ValueError, psutil.Error) as error:
        faults["memory_bytes"] = f"the memory of the machine cannot be read: {error}"
        assumed = _Limit(2**30, "assumed, because the memory of the machine is unknown")
        return assumed, assumed
    return (
        _Limit(memory.total, "memory of the machine"),
        _Limit(memory.available, "available memory of the machine"),
    )


def _left(limit: _Limit, read: ReadText) -> _Limit:
    """What a control group leaves of its limit: file pages that nobody used lately count as free.

    That is how Kubernetes counts the working set of a container.
    """
    folder = Path(limit.source).parent
    used = _number(_text(folder / "memory.current", read))
    stale = 0
    for line in (_text(folder / "memory.stat", read) or "").splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file":
            stale = _number(value)
    return _Limit(max(0, limit.amount - max(0, used - stale)), f"{limit.source}, less what is used")


def _number(text: str | None) -> int:
    try:
        return int(text or "0")
    except ValueError:
        return 0


def _groups(root: Path, membership: Path, read: ReadText) -> Iterator[Path]:
    """Yield the folders of this process's control group and of the groups above it."""
    for line in (_text(membership, read) or "").splitlines():
        if line.startswith("0::/"):
            path = PurePosixPath(line.removeprefix("0::"))
            # A container may see a path from outside its own mount ("/../.."): only its root
            # is readable then, and the root carries the container's limit.
            inner = () if ".." in path.parts else path.parts[1:]
            yield from (root.joinpath(*inner[:depth]) for depth in range(len(inner), -1, -1))
            return
    yield root


def _limits(
    groups: list[Path], name: str, parse: Callable[[str], int | None], read: ReadText
) -> Iterator[_Limit]:
    for group in groups:
        text = _text(group / name, read)
        if text is None:
            continue
        try:
            amount = parse(text)
        except (ValueError, ArithmeticError):
            continue  # Not a limit in the form we know: the other sources decide.
        if amount is not None and amount > 0:
            yield _Limit(amount, str(group / name))


def _text(path: Path, read: ReadText) -> str | None:
    try:
        return read(path)
    except (OSError, ValueError):
        return None


def _cpu_quota(text: str) -> int | None:
    """Read `cpu.max`: microseconds of CPU in each period of so many microseconds."""
    quota, *period = text.split()
    if quota == "max":
        return None
    return math.ceil(1000 * int(quota) / int(period[0] if period else "100000"))


def _memory_limit(text: str) -> int | None:
    limit = text.strip()
    return None if limit == "max" else int(limit)


def declared_devices(
    max_gpus: int | Sequence[str] | None, visible: str | None = None
) -> tuple[Device, ...]:
    """Return the logical GPUs that a runtime was told to have.

    Parameters:
        max_gpus: how many, of any type; or the type of each; None declares none.
        visible: what this process inherited as `CUDA_VISIBLE_DEVICES`: if it lists as many
            devices, they are meant, else those with the indexes 0, 1 and so on.

    Raises:
        TypeError: if it is neither a whole number nor a list of text.
        ValueError: if the number is negative or a type is empty.

    Example:
        >>> [device.id for device in declared_devices(2)]
        ['0', '1']
        >>> declared_devices(["nvidia-a100"])[0].gpu_type
        'nvidia-a100'
    """
    if max_gpus is None:
        return ()
    if isinstance(max_gpus, int) and not isinstance(max_gpus, bool):
        if max_gpus < 0:
            raise ValueError(f"max_gpus={max_gpus} is negative; write 0 for no GPUs.")
        return tuple(map(Device, _declared_ids(max_gpus, visible)))
    if isinstance(max_gpus, bool | str) or not isinstance(max_gpus, Sequence):
        raise TypeError(
            f"max_gpus={max_gpus!r} is neither a number nor a list of types; "
            "write 2, or ['nvidia-a100', 'nvidia-a100']."
        )
    kinds = [_checked(kind) for kind in max_gpus]
    return tuple(map(Device, _declared_ids(len(kinds), visible), kinds))


def _declared_ids(count: int, visible: str | None) -> list[str]:
    listed = [entry.strip() for entry in (visible or "").split(",")]
    usable = listed[:count] if all(listed[:count]) and "-1" not in listed[:count] else []
    if len(set(usable)) == count:
        return usable
    return [str(index) for index in range(count)]


def _checked(gpu_type: object) -> str:
    if not isinstance(gpu_type, str):
        raise TypeError(f"max_gpus lists {gpu_type!r}, which is not text; write 'nvidia-a100'.")
    if not gpu_type.strip():
        raise ValueError("max_gpus lists an empty type; write one like 'nvidia-a100'.")
    return gpu_type
