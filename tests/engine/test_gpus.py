"""Which GPUs there are, which of them are ours, and what becomes of a broken driver."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from asyncflow.engine.gpus import (
    Gpu,
    GpuReport,
    devices_of,
    find_gpus,
    find_gpus_blocking,
)
from asyncflow.engine.nvml import NvmlProbe

PATIENCE_SECONDS = 50.0
TWINS = (Gpu("GPU-aa11", "NVIDIA A100-SXM4-80GB", 80 * 2**30), Gpu("GPU-aa22", "Tesla T4"))
SLICED = Gpu(
    "GPU-cc33",
    "NVIDIA H100",
    slices=(Gpu("MIG-dd44", "NVIDIA H100 MIG 1g.10gb"), Gpu("MIG-dd55", "NVIDIA H100 MIG 2g.20gb")),
)
MACHINE = GpuReport((*TWINS, SLICED))


@pytest.mark.parametrize(
    "variable, expected",
    [
        (None, ["GPU-aa11", "GPU-aa22", "MIG-dd44", "MIG-dd55"]),
        ("", []),
        ("0", ["GPU-aa11"]),
        ("1,0", ["GPU-aa22", "GPU-aa11"]),
        (" 1 , 0 ", ["GPU-aa22", "GPU-aa11"]),
        ("0,-1,1", ["GPU-aa11"]),
        ("-1", []),
        ("0,7,1", ["GPU-aa11"]),
        ("NoDevFiles", []),
        ("0,0", []),
        ("0,GPU-aa11", []),
        ("GPU-aa22", ["GPU-aa22"]),
        ("GPU-aa2", ["GPU-aa22"]),
        ("GPU-aa", []),  # two begin so
        ("GPU-zz,0", []),
        ("MIG-dd55,1", ["MIG-dd55", "GPU-aa22"]),
        ("2", ["MIG-dd44", "MIG-dd55"]),
        ("GPU-cc33", ["MIG-dd44", "MIG-dd55"]),
        ("MIG-GPU-cc33/1/0", []),
    ],
)
def test_the_inherited_variable_is_read_as_cuda_reads_it(
    variable: str | None, expected: list[str]
) -> None:
    assert [device.id for device in devices_of(MACHINE, variable)] == expected


def test_a_device_has_the_name_and_memory_that_the_driver_says() -> None:
    first, second = devices_of(GpuReport(TWINS), None)
    assert (first.gpu_type, first.memory_bytes) == ("NVIDIA A100-SXM4-80GB", 80 * 2**30)
    assert (second.gpu_type, second.memory_bytes) == ("Tesla T4", None)


def test_a_broken_device_keeps_its_index_and_is_not_handed_out() -> None:
    report = GpuReport((Gpu("", ""), TWINS[1]))
    assert [device.id for device in devices_of(report, None)] == ["GPU-aa22"]
    assert [device.id for device in devices_of(report, "0,1")] == ["GPU-aa22"]


# ------------------------------------------------------------------- the child

STUB = """
class NVMLError(Exception):
    value = {code}
    def __str__(self): return {text!r}
class NVMLError_NotSupported(NVMLError): pass
class NVMLError_NotFound(NVMLError): pass

def nvmlInit():
    {init}
def nvmlShutdown(): pass
def nvmlDeviceGetCount(): return len(MACHINE)
def nvmlDeviceGetHandleByIndex(index):
    if MACHINE[index] is None: raise NVMLError()
    return MACHINE[index]
def nvmlDeviceGetUUID(handle): return handle["uuid"]
def nvmlDeviceGetName(handle): return handle["name"].encode()
class Memory:
    def __init__(self, total): self.total = total
def nvmlDeviceGetMemoryInfo(handle):
    if handle["memory"] is None: raise NVMLError_NotSupported()
    return Memory(handle["memory"])
def nvmlDeviceGetMigMode(handle):
    if "slices" not in handle: raise NVMLError_NotSupported()
    return bool(handle["slices"]), 0
def nvmlDeviceGetMaxMigDeviceCount(handle): return 7
def nvmlDeviceGetMigDeviceHandleByIndex(handle, index):
    if index >= len(handle["slices"]): raise NVMLError_NotFound()
    return handle["slices"][index]
MACHINE = {machine!r}
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    monkeypatch.syspath_prepend(str(tmp_path))
    return Driver(tmp_path)


class Driver:
    """Writes a module pynvml that the probe's child finds before any other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def say(
        self, *machine: object, init: str = "pass", code: int = 0, text: str = "no text"
    ) -> NvmlProbe:
        stub = STUB.format(init=init, code=code, text=text, machine=list(machine))
        (self._folder / "pynvml.py").write_text(stub, encoding="utf-8")
        return NvmlProbe(timeout_seconds=PATIENCE_SECONDS)


async def test_the_child_reports_uuid_name_memory_and_slices(driver: Driver) -> None:
    mig = {"uuid": "MIG-b", "name": "A100 MIG 1g.5gb", "memory": 5}
    probe = driver.say(
        {"uuid": "GPU-a", "name": "A100", "memory": 40, "slices": [mig]},
        {"uuid": "GPU-c", "name": "Orin", "memory": None},
    )
    assert await find_gpus(probe) == GpuReport(
        (
            Gpu("GPU-a", "A100", 40, (Gpu("MIG-b", "A100 MIG 1g.5gb", 5),)),
            Gpu("GPU-c", "Orin", None),
        )
    )


async def test_a_gpu_that_cannot_be_used_is_told_and_the_others_count(driver: Driver) -> None:
    good = {"uuid": "GPU-a", "name": "T4", "memory": 1}
    report = await find_gpus(driver.say(None, good, text="GPU is lost", code=15))
    assert report.faults == ("GPU 0 cannot be used: GPU is lost",)
    assert [device.id for device in devices_of(report, "1")] == ["GPU-a"]


async def test_a_machine_without_a_driver_has_no_gpus_and_no_fault(driver: Driver) -> None:
    report = await find_gpus(driver.say(init="raise NVMLError()", code=12))
    assert (report.gpus, report.faults) == ((), ())
    assert "no NVIDIA driver" in report.absent


async def test_without_the_module_there_are_no_gpus_and_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pynvml.py").write_text("raise ImportError('not here')", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    report = await find_gpus(NvmlProbe())
    assert (report.gpus, report.faults) == ((), ())
    assert "pynvml is not installed" in report.absent


@pytest.mark.parametrize(
    "init, cause",
    [
        ("raise NVMLError()", "NVML cannot be used: Driver/library version mismatch"),
        ("import os; os.kill(os.getpid(), 11)", "ended with signal SIGSEGV"),
        ("import os; os._exit(3)", "ended with exit code 3"),
        ("raise RuntimeError('odd')", "exit code 1 and said 'RuntimeError: odd'"),
        ("print('noise')", "gave no sensible answer"),
    ],
)
async def test_a_broken_driver_is_a_fault_that_names_the_cause(
    driver: Driver, init: str, cause: str
) -> None:
    probe = driver.say(init=init, code=18, text="Driver/library version mismatch")
    report = await find_gpus(probe)
    assert report.gpus == ()
    assert cause in report.faults[0]


async def test_a_driver_that_hangs_is_given_up_and_its_child_killed(driver: Driver) -> None:
    started = driver._folder / "started"
    probe = driver.say(
        init=f"import os, time; open({str(started)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    )
    probe.timeout_seconds = 0.5
    report = await find_gpus(probe)
    assert report.faults == ("the GPU driver did not answer within 0.5 s",)
    # The leak check of every test sees to it that the child is gone.


async def test_the_event_loop_goes_on_while_the_driver_thinks(
    driver: Driver, tmp_path: Path
) -> None:
    thought = tmp_path / "thought"
    os.mkfifo(thought)
    asked = asyncio.create_task(find_gpus(driver.say(init=f"open({str(thought)!r}).read()")))
    # The driver waits for a word of this loop, which can say it only if it goes on.
    await asyncio.to_thread(thought.write_text, "found")
    assert (await asked).faults == ()


async def test_an_answer_is_kept_until_it_is_forgotten(driver: Driver) -> None:
    probe = driver.say({"uuid": "GPU-a", "name": "T4", "memory": 1})
    first = await find_gpus(probe)
    driver.say()
    assert await find_gpus(probe) == first
    probe.forget()
    assert (await find_gpus(probe)).gpus == ()


async def test_a_fault_is_not_kept(driver: Driver) -> None:
    probe = driver.say(init="raise NVMLError()")
    assert (await find_gpus(probe)).faults
    driver.say({"uuid": "GPU-a", "name": "T4", "memory": 1})
    assert len((await find_gpus(probe)).gpus) == 1


def test_a_program_without_a_loop_may_ask_too(driver: Driver) -> None:
    probe = driver.say({"uuid": "GPU-a", "name": "T4", "memory": 1})
    assert find_gpus_blocking(probe).gpus[0].uuid == "GPU-a"


async def test_a_child_that_cannot_be_started_is_a_fault() -> None:
    report = await find_gpus(NvmlProbe(("/no/such/program",)))
    assert "looking for GPUs failed with FileNotFoundError" in report.faults[0]
