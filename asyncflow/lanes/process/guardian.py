"""What ends the workers' children when the host is gone.

The kernel kills a worker whose host dies, too fast for it to see to processes that the step
started. So a shell waits at a pipe for the end of the host and then kills the process group of
every worker that was alive. It needs neither Python nor the GIL of a worker that is busy.
"""

from __future__ import annotations

import os
import subprocess

__all__ = ["Guardian"]

_SHELL = "/bin/sh"
_SCRIPT = """
groups=' '
while read -r change group; do
    case $change in
        +) groups="$groups$group " ;;
        -) groups="${groups%% $group *} ${groups#* $group }" ;;
        .) exit ;;
    esac
done
for group in $groups; do
    kill -s KILL -- "-$group" 2>/dev/null
done
"""


class Guardian:
    """One for each lane; started with its first worker."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def watch(self, group: int) -> None:
        """Kill this process group when the host is gone."""
        if self._process is None and os.path.exists(_SHELL):
            self._process = subprocess.Popen(
                [_SHELL, "-c", _SCRIPT],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,
            )
        self._tell(f"+ {group}\n")

    def forget(self, group: int) -> None:
        """That process group has ended."""
        self._tell(f"- {group}\n")

    def _tell(self, line: str) -> None:
        if self._process is None or self._process.stdin is None:
            return
        try:
            self._process.stdin.write(line.encode())
        except BrokenPipeError:
            return  # somebody has killed it; the workers still see the end of their channel

    def close(self) -> None:
        """End it; all groups must have been forgotten."""
        if self._process is not None:
            # It is told: a process that the program has forked may hold its pipe open.
            self._tell(". .\n")
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()
            self._process = None
