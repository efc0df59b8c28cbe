"""Where things are: names of files and directories, and which names may become paths.

::

    <directory>/                    0700
        runs/<run id>/              one directory for each run
            lock                    who holds it
            journal                 what happened, see framing.py and records.py
            blobs/<content hash>    large values

Files are 0600. A run id that is not of the one strict form gets a directory that is named by
its hash, so that no text can reach outside.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import Final

from asyncflow.storage.fs import RealDirectory, open_root

__all__ = [
    "BLOBS",
    "DEFAULT_DIRECTORY",
    "JOURNAL",
    "LOCK",
    "RUNS",
    "folder_of",
    "open_run",
    "open_runs",
]

DEFAULT_DIRECTORY: Final = ".asyncflow"
RUNS: Final = "runs"
JOURNAL: Final = "journal"
LOCK: Final = "lock"
BLOBS: Final = "blobs"

# No leading dot or dash, nothing that any shell, URL or file system reads as something else.
_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_HASHED: Final = "~"  # begins no plain name


def folder_of(run_id: str) -> str:
    """The name of a run's directory: the run id itself, or its hash.

    Example:
        >>> folder_of("nightly-2026.03"), folder_of("../etc")[:5]
        ('nightly-2026.03', '~2b4d')
    """
    if _PLAIN.fullmatch(run_id):
        return run_id
    # surrogatepass: any text has a name, also one that no file system would take.
    hashed = hashlib.blake2b(run_id.encode("utf-8", "surrogatepass"), digest_size=16)
    return _HASHED + hashed.hexdigest()


def open_runs(directory: str | os.PathLike[str], *, create: bool = False) -> RealDirectory:
    """The directory that holds those of all runs.

    Raises:
        FileNotFoundError: it is not there, and ``create`` is false.
        StorageError: it is not ours, or cannot be made.
    """
    with open_root(directory, create=create) as root:
        return root.child(RUNS, create=create)


def open_run(
    directory: str | os.PathLike[str], run_id: str, *, create: bool = False
) -> RealDirectory:
    """The directory of one run.

    Raises:
        FileNotFoundError: it is not there, and ``create`` is false.
        StorageError: it is not ours, or cannot be made.
    """
    with open_runs(directory, create=create) as runs:
        return runs.child(folder_of(run_id), create=create)
