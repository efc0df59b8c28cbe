"""Run as a program of its own: asks NVML for the GPUs and prints what it says as JSON.

It imports nothing of asyncflow, so that it starts quickly, and it may hang or crash: the driver
is known to do both when a device is gone.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

_NO_LIBRARY = 12  # NVML_ERROR_LIBRARY_NOT_FOUND


def main() -> dict[str, Any]:
    """What was found, with the keys ``gpus``, ``absent`` and ``faults``."""
    try:
        pynvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return {"absent": "the module pynvml is not installed (extra [gpu])"}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if getattr(error, "value", None) == _NO_LIBRARY:
            return {"absent": "there is no NVIDIA driver (libnvidia-ml was not found)"}
        return {"faults": [f"NVML cannot be used: {error}"]}
    try:
        return _gpus(pynvml)
    finally:
        pynvml.nvmlShutdown()


def _gpus(nvml: Any) -> dict[str, Any]:
    gpus: list[dict[str, Any]] = []
    faults: list[str] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            gpus.append({**_gpu(nvml, handle), "slices": _slices(nvml, handle)})
        except nvml.NVMLError as error:
            faults.append(f"GPU {index} cannot be used: {error}")
            # Its place is kept, so that the indexes of the others stay what they are.
            gpus.append({"uuid": "", "name": "", "memory_bytes": None, "slices": []})
    return {"gpus": gpus, "faults": faults}


def _gpu(nvml: Any, handle: Any) -> dict[str, Any]:
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle).total
    except nvml.NVMLError_NotSupported:
        memory = None  # chips that share the memory of the machine
    return {
        "uuid": _text(nvml.nvmlDeviceGetUUID(handle)),
        "name": _text(nvml.nvmlDeviceGetName(handle)),
        "memory_bytes": memory,
    }


def _slices(nvml: Any, handle: Any) -> list[dict[str, Any]]:
    """The MIG slices of a GPU; none where the mode is off or unknown."""
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:
        return []  # the chip, or an old driver, knows nothing of it
    if not current:
        return []
    found = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            slice_handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except nvml.NVMLError_NotFound:
            continue  # room for a slice that was not made
        found.append(_gpu(nvml, slice_handle))
    return found


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main()))
