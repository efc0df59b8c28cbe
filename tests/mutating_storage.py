"""Take one safeguard of the storage away at a time: some test has to notice.

    python -m tests.mutating_storage

A safety net that never caught anything proves nothing. Each change is made in a copy of the
package, and the tests that guard it are run against that copy.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("tests/storage", "tests/test_recording.py", "tests/test_recording_failures.py")


class Mutation(NamedTuple):
    """A safeguard: where it stands, and what stands there without it."""

    name: str
    module: str
    before: str
    after: str


MUTATIONS = (
    Mutation(
        "the sync before power is acknowledged",
        "writer.py",
        "await self._thread.run_in_executor(None, self._raw.sync)",
        "await asyncio.sleep(0)",
    ),
    Mutation(
        "the shield around the writer when a close is cancelled",
        "writer.py",
        "await asyncio.shield(self._task)",
        "await self._task",
    ),
    Mutation(
        "the rest of a short write",
        "writer.py",
        "while done < len(view):",
        "while False:",
    ),
    Mutation(
        "no more after a failed sync",
        "writer.py",
        "while self.error is None:",
        "while True:",
    ),
    Mutation(
        "the wait for the write before it is acknowledged",
        "writer.py",
        '        await self._put(batch)\n        point("after-write")',
        '        self._loop.create_task(self._put(batch))\n        point("after-write")',
    ),
    Mutation(
        "the run lock",
        "lock.py",
        "fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "pass",
    ),
    Mutation(
        "the look whether the locked file is still there",
        "lock.py",
        "elif os.fstat(descriptor).st_nlink:",
        "else:",
    ),
    Mutation(
        "that forked children let go of the lock",
        "lock.py",
        "os.register_at_fork(after_in_child=_let_go_in_child)",
        "pass",
    ),
    Mutation(
        "the checksum of a record",
        "framing.py",
        "if _WORD.unpack_from(content, end)[0] != checksum:",
        "if False:",
    ),
    Mutation(
        "the checksum of a length",
        "framing.py",
        "self._seed):\n            return None",
        "self._seed) and False:\n            return None",
    ),
    Mutation(
        "the chain of checksums",
        "framing.py",
        "checksum = _crc(payload, self._checksum)\n        if",
        "checksum = _crc(payload, self._checksum) if self.records == 0 else _WORD.unpack_from("
        "content, end)[0]\n        if",
    ),
    Mutation(
        "the checksum of the header",
        "framing.py",
        "if checksum != _crc(content[: _HEADER.size]):",
        "if False:",
    ),
    Mutation(
        "that marks behind a wrong record are looked for",
        "framing.py",
        "synced = max(synced, self._synced_later())",
        "synced = max(synced, 0)",
    ),
    Mutation(
        "that a mark vouches only for what was synced",
        "writer.py",
        "self._frames.append(self._chain.mark(end))",
        "self._frames.append(self._chain.mark(self._chain.offset + 1000))",
    ),
    Mutation("the sync of a large value", "blobs.py", "            file.sync()\n", ""),
    Mutation(
        "the sync of its directory",
        "blobs.py",
        'point("after-blob-rename")\n    directory.sync()',
        'point("after-blob-rename")',
    ),
    Mutation(
        "the hash of a large value when it is read",
        "blobs.py",
        "if found != blob.hash or len(content) != blob.length:",
        "if False:",
    ),
    Mutation(
        "the sync of a new journal",
        "journal.py",
        'point("after-header")\n        file.sync()',
        'point("after-header")',
    ),
    Mutation(
        "the sync of a new journal's directory",
        "journal.py",
        "        file.sync()\n        directory.sync()\n    except",
        "        file.sync()\n    except",
    ),
    Mutation(
        "the cut of a torn tail",
        "journal.py",
        "            file.truncate(ending.offset)\n",
        "",
    ),
    Mutation("that links are not followed", "fs.py", "flags | _NO_FOLLOW", "flags"),
    Mutation("that files are private", "fs.py", "_FILE_MODE = 0o600", "_FILE_MODE = 0o644"),
    Mutation(
        "that directories are private",
        "fs.py",
        "_DIRECTORY_MODE = 0o700",
        "_DIRECTORY_MODE = 0o755",
    ),
    Mutation(
        "that a run id is matched whole",
        "layout.py",
        "_PLAIN.fullmatch(run_id)",
        "_PLAIN.match(run_id)",
    ),
)


def _copy(folder: Path) -> None:
    for name in ("asyncflow", "tests", "examples", "benchmarks"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)


def _is_noticed(folder: Path) -> bool:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-n",
        "0",  # several processes that are stopped by a failure end with another status
        "--timeout",
        "20",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [*command, *TESTS],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return done.returncode == 1


def main() -> int:
    missed = []
    for mutation in MUTATIONS:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            _copy(folder)
            path = folder / "asyncflow" / "storage" / mutation.module
            source = path.read_text()
            if source.count(mutation.before) != 1:
                raise SystemExit(f"{mutation.name}: {mutation.module} has changed; adapt this list")
            path.write_text(source.replace(mutation.before, mutation.after))
            noticed = _is_noticed(folder)
        print(f"{'noticed' if noticed else 'MISSED '}  without {mutation.name}", flush=True)
        if not noticed:
            missed.append(mutation.name)
    print(f"{len(MUTATIONS) - len(missed)} of {len(MUTATIONS)} noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
