"""What a worker process has to be started with."""

from __future__ import annotations

import os

import msgspec

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
        threads: how many threads numeric libraries may use; 0 leaves that to them.
    """

    gpu_ids: tuple[str, ...] = ()
    threads: int = 0

    def environment(self) -> dict[str, str]:
        """The environment variables of such a worker."""
        variables = dict(os.environ)
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpu_ids)
        if self.threads:
            for name in _THREAD_VARIABLES:
                variables.setdefault(name, str(self.threads))
        return variables


PLAIN = WorkerKind()
