"""The GPUs of this machine by NVML, asked for in a child process.

The driver may hang or crash, so it is never called in this process. What goes wrong is told in
the report; that there is no driver is no fault.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from asyncflow.engine.gpus import GpuReport, visible_devices

__all__ = ["NVML", "NvmlProbe"]

_CHILD = Path(__file__).with_name("nvml_child.py")
# A driver that keeps no state loads it anew for each GPU, which takes a second or two each.
_TIMEOUT_SECONDS = 15.0
_LONGEST_SAID = 300


class NvmlProbe:
    """Asks NVML for the devices of this machine, in a process of its own.

    Parameters:
        command: what to run instead of the child that asks NVML, for tests.
        timeout_seconds: how long the driver may take.
    """

    def __init__(
        self, command: tuple[str, ...] = (), *, timeout_seconds: float = _TIMEOUT_SECONDS
    ) -> None:
        # -P: what stands beside the child must not hide modules of the standard library.
        self._command = command or (sys.executable, "-P", str(_CHILD))
        self.timeout_seconds = timeout_seconds
        self._answer: GpuReport | None = None

    @property
    def visible(self) -> str | None:
        """What this process inherited as ``CUDA_VISIBLE_DEVICES``."""
        return visible_devices()

    async def find(self) -> GpuReport:
        """Report what NVML says; an answer without faults is kept for the next time."""
        if self._answer is not None:
            return self._answer
        report = await self._ask()
        if not report.faults:
            self._answer = report
        return report

    async def _ask(self) -> GpuReport:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[GpuReport] = loop.create_future()
        child = self._start()

        def tell(report: GpuReport) -> None:
            if not ended.done():
                ended.set_result(report)

        def wait() -> None:
            output, errors = child.communicate()
            try:
                loop.call_soon_threadsafe(tell, _read(child.returncode, output, errors))
            except RuntimeError:
                if not loop.is_closed():  # nobody is left to tell
                    raise

        # A daemon: a child stuck in the kernel cannot even be killed, and must not keep us.
        threading.Thread(target=wait, name="asyncflow-nvml", daemon=True).start()
        try:
            return await ended
        finally:
            child.kill()

    def _start(self) -> subprocess.Popen[bytes]:
        """Start the child, which finds the modules that this process would find."""
        return subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def forget(self) -> None:
        """Ask the driver anew the next time: something may have changed."""
        self._answer = None

    def watch(self, lost: Callable[[str, str], None]) -> Callable[[], None]:
        """Nothing to watch: a loss is noticed when a step that held the device fails."""
        return lambda: None


def _read(code: int, output: bytes, errors: bytes) -> GpuReport:
    if code:
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        said = errors.decode(errors="replace").strip().splitlines()
        told = f" and said {said[-1][:_LONGEST_SAID]!r}" if said else ""
        return GpuReport(faults=(f"the child that asks NVML ended with {how}{told}",))
    try:
        report = msgspec.json.decode(output, type=GpuReport)
    except msgspec.MsgspecError as error:
        return GpuReport(faults=(f"the child that asks NVML gave no sensible answer: {error}",))
    return report


NVML = NvmlProbe()
