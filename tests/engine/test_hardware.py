"""The tightest limit that can be read wins, and what cannot be read is left out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from asyncflow.engine.hardware import Machine, declared_devices, probe
from asyncflow.engine.limiter import Device


class System:
    """A pretended machine: control groups in a folder, and this process's place in them."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "cgroup"
        self.membership = folder / "membership"
        self.root.mkdir()

    def place(self, lines: str) -> None:
        self.membership.write_text(lines)

    def limit(self, group: str, name: str, text: str) -> None:
        folder = self.root / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    def probe(self, **more: Any) -> Machine:
        return probe(cgroup_root=self.root, membership=self.membership, **more)


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return System(tmp_path)


def test_without_limits_the_machine_counts(system: System) -> None:
    machine = system.probe()
    assert machine.cpu_millis == 8000
    assert machine.memory_bytes == psutil.virtual_memory().total
    assert machine.sources["cpu_millis"] == "affinity of the process"


def test_the_group_of_the_process_limits_it(system: System) -> None:
    system.place("0::/app\n")
    system.limit("app", "cpu.max", "150000 100000\n")
    system.limit("app", "memory.max", "1048576\n")
    machine = system.probe()
    assert (machine.cpu_millis, machine.memory_bytes) == (1500, 2**20)
    assert machine.sources["memory_bytes"].endswith("app/memory.max")


def test_the_tightest_group_above_wins(system: System) -> None:
    system.place("12:cpu:/old\n0::/slice/service/job\n")
    system.limit("slice/service/job", "cpu.max", "max 100000\n")
    system.limit("slice/service", "cpu.max", "400000 100000\n")
    system.limit("slice", "cpu.max", "300000 100000\n")
    system.limit("", "memory.max", "4096\n")
    system.limit("slice/service/job", "memory.max", "max\n")
    machine = system.probe()
    assert (machine.cpu_millis, machine.memory_bytes) == (3000, 4096)


def test_a_sibling_group_does_not_limit(system: System) -> None:
    system.place("0::/mine\n")
    system.limit("other", "cpu.max", "1000 100000\n")
    assert system.probe().cpu_millis == 8000


def test_a_container_that_sees_a_path_outside_its_mount_reads_its_root(system: System) -> None:
    system.place("0::/../../outer\n")
    system.limit("", "cpu.max", "200000 100000\n")
    (system.root.parent / "cpu.max").write_text("1000 100000")
    assert system.probe().cpu_millis == 2000


def test_a_quota_without_its_period_uses_the_usual_one(system: System) -> None:
    system.limit("", "cpu.max", "50000")
    assert system.probe().cpu_millis == 500


@pytest.mark.parametrize("text", ["", "nonsense", "1 0", "100000 x", "-5 100000", "0"])
def test_a_limit_in_an_unknown_form_is_left_out(system: System, text: str) -> None:
    system.limit("", "cpu.max", text)
    system.limit("", "memory.max", text)
    assert system.probe().cpu_millis == 8000
    assert system.probe().memory_bytes == psutil.virtual_memory().total


@pytest.mark.parametrize(
    "error", [PermissionError("no"), UnicodeDecodeError("ascii", b"", 0, 1, "")]
)
def test_files_that_cannot_be_read_are_left_out(system: System, error: Exception) -> None:
    def refuse(path: Path) -> str:
        raise error

    assert system.probe(read=refuse).cpu_millis == 8000


def test_without_an_affinity_mask_the_processors_are_counted(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int) -> set[int]:
        raise PermissionError("not here")

    monkeypatch.setattr(os, "sched_getaffinity", refuse)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert system.probe().cpu_millis == 3000
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert system.probe().cpu_millis == 1000


def test_without_any_figure_for_memory_one_is_assumed_and_said(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise RuntimeError("no memory information")

    monkeypatch.setattr(psutil, "virtual_memory", refuse)
    machine = system.probe()
    assert machine.memory_bytes == 2**30
    assert machine.sources["memory_bytes"].startswith("assumed")


def test_memory_that_the_group_leaves_counts_without_file_pages_that_nobody_uses(
    system: System,
) -> None:
    system.place("0::/app\n")
    system.limit("app", "memory.max", "1000000\n")
    system.limit("app", "memory.current", "700000\n")
    system.limit("app", "memory.stat", "anon 300000\ninactive_file 250000\nactive_file 100000\n")
    machine = system.probe()
    assert (machine.memory_bytes, machine.memory_available_bytes) == (1_000_000, 550_000)
    assert machine.sources["memory_available_bytes"].endswith("memory.max, less what is used")


def test_the_smaller_of_what_the_machine_and_the_groups_leave_counts(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.limit("", "memory.max", "1000000\n")
    system.limit("", "memory.current", "2000000\n")
    assert system.probe().memory_available_bytes == 0
    system.limit("", "memory.current", "not a number")
    assert system.probe().memory_available_bytes == 1_000_000

    class Memory:
        total, available = 10**9, 5000

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    machine = system.probe()
    assert machine.memory_available_bytes == 5000
    assert machine.sources["memory_available_bytes"] == "available memory of the machine"


@pytest.mark.parametrize("error", [psutil.AccessDenied(1), psutil.NoSuchProcess(1), OSError("no")])
def test_what_should_be_there_and_cannot_be_read_is_a_fault(
    system: System, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(psutil, "virtual_memory", refuse)
    assert "memory of the machine cannot be read" in system.probe().faults["memory_bytes"]


def test_this_machine_can_be_probed() -> None:
    machine = probe()
    assert machine.cpu_millis > 0
    assert machine.memory_bytes > 0
    assert set(machine.sources) == {"cpu_millis", "memory_bytes", "memory_available_bytes"}
    assert 0 < machine.memory_available_bytes <= machine.memory_bytes
    assert machine.faults == {}


def test_a_number_declares_devices_of_any_type() -> None:
    assert declared_devices(2) == (Device("0"), Device("1"))


def test_a_list_declares_devices_of_these_types() -> None:
    assert declared_devices(["nvidia-a100", "T4"]) == (
        Device("0", "nvidia-a100"),
        Device("1", "T4"),
    )


@pytest.mark.parametrize("nothing", [None, 0, []])
def test_none_zero_and_an_empty_list_declare_nothing(nothing: Any) -> None:
    assert declared_devices(nothing) == ()


@pytest.mark.parametrize(
    "wrong, error, message",
    [
        (-1, ValueError, "negative"),
        ([""], ValueError, "empty type"),
        (["T4", " "], ValueError, "empty type"),
        (True, TypeError, "neither a number nor a list"),
        ("T4", TypeError, "neither a number nor a list"),
        (1.0, TypeError, "neither a number nor a list"),
        ({"T4"}, TypeError, "neither a number nor a list"),
        ([1], TypeError, "not text"),
    ],
)
def test_wrong_declarations_are_refused(wrong: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        declared_devices(wrong)


@pytest.mark.parametrize(
    "visible, ids",
    [
        ("3,5,7", ["3", "5"]),
        ("GPU-a, MIG-b", ["GPU-a", "MIG-b"]),
        ("3", ["0", "1"]),
        ("3,3", ["0", "1"]),
        ("3,-1,5", ["0", "1"]),
        ("", ["0", "1"]),
        (None, ["0", "1"]),
    ],
)
def test_declared_devices_are_those_that_were_inherited_if_there_are_enough(
    visible: str | None, ids: list[str]
) -> None:
    assert [device.id for device in declared_devices(2, visible)] == ids
