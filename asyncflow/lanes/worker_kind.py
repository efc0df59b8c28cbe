"""What a worker process has to be started with."""

from __future__ import annotations

import os

import msgspec

from asyncflow.environment import Environment

__all__ = ["PLAIN", "WorkerKind"]

# What libraries for numbers ask for how many threads they may use.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class WorkerKind(msgspec.Struct, frozen=True):
    """What a worker has to be started with; a call runs in one of its own kind only.

    Attributes:
        gpu_ids: the devices it sees; none for a worker that only computes.
        threads: how many CPUs its calls hold. So many threads numeric libraries may use, and
            one where that is none: of such workers there may be more than CPUs, and each would
            start a thread for every CPU.
        environment: the command it is started behind, and what else is particular about that.
    """

    gpu_ids: tuple[str, ...] = ()
    threads: int = 0
    environment: Environment | None = None

    def variables(self) -> dict[str, str]:
        """The environment variables of such a worker that differ from the host's."""
        found = {"CUDA_VISIBLE_DEVICES": ",".join(self.gpu_ids)}
        threads = str(max(1, self.threads))
        found |= {name: threads for name in _THREAD_VARIABLES if name not in os.environ}
        if self.environment is not None:
            found |= self.environment.env
        return found


PLAIN = WorkerKind()
