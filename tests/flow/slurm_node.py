"""A SLURM of one node, for tests: started and stopped by this script, without systemd.

As a script it keeps one running until Ctrl-C: ``python -m tests.flow.slurm_node DIRECTORY``.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "sinfo")

_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={munge_socket}
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
GresTypes=gpu
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd.log
SchedulerParameters=sched_interval=1,sched_min_interval=100000
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
_GPUS = "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n"


def missing() -> str:
    """Why there can be no SLURM here; empty if there can."""
    absent = [name for name in PROGRAMS if find(name) is None]
    if absent:
        return f"not on this machine: {', '.join(absent)} (Debian: slurm-wlm, munge)"
    return "" if os.geteuid() == 0 else "only root can start a SLURM"


def find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class SlurmNode:
    """Controller, node and munge, all with files of their own below one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.configuration = directory / "slurm.conf"
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self._write()
        self._start_munge()
        for name in ("slurmctld", "slurmd"):
            program = find(name)
            assert program is not None
            self._spawn([program, "-D", "-f", str(self.configuration)])
        self._wait_for(self._is_idle, "the node to become idle")

    def _write(self) -> None:
        for name in ("state", "spool", "munge"):
            (self.directory / name).mkdir()
        self.configuration.write_text(
            _CONFIGURATION.format(
                host=socket.gethostname().split(".")[0],
                directory=self.directory,
                controller_port=_free_port(),
                node_port=_free_port(),
                munge_socket=self.directory / "munge" / "socket",
                cpus=os.cpu_count(),
            )
        )
        (self.directory / "gres.conf").write_text(_GPUS)

    def _start_munge(self) -> None:
        munge = self.directory / "munge"
        key = munge / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        owner = pwd.getpwnam("munge")
        for path in (munge, key):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        munge.chmod(0o755)
        for parent in (self.directory, *self.directory.parents):
            if not parent.stat().st_mode & 0o001:  # munged looks for its socket as its own user
                parent.chmod(parent.stat().st_mode | 0o011)
        program = find("munged")
        assert program is not None
        files = {
            "socket": "socket",
            "key-file": "key",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
        }
        flags = [f"--{flag}={munge / name}" for flag, name in files.items()]
        self._spawn([program, "--foreground", "--force", *flags], user="munge")
        self._wait_for((munge / "socket").exists, "munge's socket")

    def _spawn(self, command: list[str], user: str | None = None) -> None:
        log = (self.directory / f"{Path(command[0]).name}.out").open("wb")
        with log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                user=user,
                start_new_session=True,
            )
        self._children.append(child)

    @property
    def environment(self) -> dict[str, str]:
        """For commands that are to talk to this SLURM."""
        return {**os.environ, "SLURM_CONF": str(self.configuration)}

    def _is_idle(self) -> bool:
        done = subprocess.run(
            ["sinfo", "--noheader", "--format=%t"],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        return done.stdout.strip() == "idle"

    def _wait_for(self, condition: object, what: str, seconds: float = 40) -> None:
        assert callable(condition)
        until = time.monotonic() + seconds
        while not condition():
            ended = [child.args for child in self._children if child.poll() is not None]
            if ended or time.monotonic() > until:
                self.stop()
                raise RuntimeError(f"no SLURM: waited for {what}; ended: {ended}\n{self._logs()}")
            time.sleep(0.1)

    def _logs(self) -> str:
        texts = [
            f"{file.name}:\n{file.read_text(errors='replace')[-2000:]}"
            for pattern in ("*.log", "*.out", "munge/log")
            for file in self.directory.glob(pattern)
        ]
        return "\n".join(texts)

    def stop(self) -> None:
        for child in reversed(self._children):
            _end(child)
        self._children.clear()


def _end(child: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is None:
            os.killpg(child.pid, number)
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                continue


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


if __name__ == "__main__":
    node = SlurmNode(Path(sys.argv[1]).resolve())
    node.start()
    print(f"export SLURM_CONF={node.configuration}", flush=True)
    try:
        signal.pause()
    finally:
        node.stop()
