"""How much CPU and memory there is at the moment, while things run.

The limits of a process may change under it: an affinity, a control group, what other programs use
of the memory. What our own work uses of the memory is not lost to us: it comes back. So the total
is what is left now and what we have come to use since the beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from asyncflow.engine.hardware import Machine
from asyncflow.resources import format_cpu

__all__ = ["Headroom", "Totals", "private_bytes"]

# Memory moves all the time; less than this is not worth a change.
_NOTEWORTHY_BYTES = 16 * 2**20
_PAGE_BYTES = 4096


class Totals(msgspec.Struct, frozen=True):
    """What there is to share at one moment.

    Parameters:
        cpu_millis: thousandths of a CPU.
        memory_bytes: bytes, what we use already included.
        warnings: what deserves attention, one sentence each.
    """

    cpu_millis: int
    memory_bytes: int
    warnings: tuple[str, ...] = ()


class Headroom:
    """Follows the limits of this process.

    Parameters:
        probe: looks at the machine.
        own_bytes: how much memory we and our workers use.
        figures: of which limits it is to be told what deserves attention.
    """

    def __init__(
        self,
        probe: Callable[[], Machine],
        own_bytes: Callable[[], int],
        *,
        figures: Iterable[str] = ("cpu_millis", "memory_bytes"),
    ) -> None:
        self._probe = probe
        self._own_bytes = own_bytes
        self._figures = frozenset(figures)
        self._own_at_first = own_bytes()
        machine = probe()
        # A sandbox that forbids to look does so from the start; that is nothing new.
        self._told = set(machine.faults.values())
        self.totals = Totals(machine.cpu_millis, machine.memory_available_bytes)

    def look(self) -> Totals:
        """Look again; a figure that cannot be read stays what it was."""
        machine = self._probe()
        cpus, memory = self._cpus(machine), self._memory(machine)
        warnings = tuple(self._warnings(machine, cpus))
        self.totals = Totals(cpus, memory, warnings)
        return self.totals

    def _cpus(self, machine: Machine) -> int:
        return self.totals.cpu_millis if "cpu_millis" in machine.faults else machine.cpu_millis

    def _memory(self, machine: Machine) -> int:
        before = self.totals.memory_bytes
        if "memory_bytes" in machine.faults:
            return before
        grown = max(0, self._own_bytes() - self._own_at_first)
        memory = min(machine.memory_bytes, machine.memory_available_bytes + grown)
        return before if abs(memory - before) < _NOTEWORTHY_BYTES else memory

    def _warnings(self, machine: Machine, cpus: int) -> Iterator[str]:
        for figure, fault in machine.faults.items():
            if figure in self._figures and fault not in self._told:
                self._told.add(fault)
                yield f"{fault}; the limit stays what it was"
        before = self.totals.cpu_millis
        if cpus != before and "cpu_millis" in self._figures:
            yield f"this process may now use {format_cpu(cpus)}, until now {format_cpu(before)}"


def private_bytes(pids: Iterable[int | str]) -> int:
    """The memory of processes that they share with nobody, in bytes; 0 for one that is gone."""
    total = 0
    for pid in pids:
        try:
            pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
        except OSError:
            continue  # it has ended meanwhile, or there is no /proc
        total += (int(pages[1]) - int(pages[2])) * _PAGE_BYTES
    return total
