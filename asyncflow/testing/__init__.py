"""For tests of pipelines: virtual time, seeded chance, failures, made-up GPUs, contexts, codecs."""

from asyncflow.testing.codecs import check_codec
from asyncflow.testing.contexts import RecordingContext, Report, step_context
from asyncflow.testing.faulty_files import FaultyDirectory
from asyncflow.testing.gate import Gate
from asyncflow.testing.gpus import FakeGpu, FakeGpus
from asyncflow.testing.virtual_loop import Stuck, VirtualLoop
from asyncflow.testing.virtual_runtime import VirtualRuntime

__all__ = [
    "FakeGpu",
    "FakeGpus",
    "FaultyDirectory",
    "Gate",
    "RecordingContext",
    "Report",
    "Stuck",
    "VirtualLoop",
    "VirtualRuntime",
    "check_codec",
    "step_context",
]
