"""Recorded state that is not ours: nothing in it runs, and nothing secret gets into it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from asyncflow import Pipeline, step
from tests.programs import run_program
from tests.recording import Host

# Runs that are resumed with forged values, under a hook that ends the process when anything is run.
PROGRAM = textwrap.dedent(
    """
    import asyncio, os, sys
    import msgspec
    from asyncflow import Pipeline, StorageError, step
    from asyncflow.storage.framing import Chain, Scan, header_of, read_header
    from asyncflow.storage.records import SimplyEnded, decode, encode

    directory, payloads = sys.argv[1], [eval(payload) for payload in sys.argv[2:]]

    @step
    async def victim() -> int:
        return 1

    pipeline = Pipeline("hostile", steps=[victim])

    def run(run_id):
        return asyncio.run(pipeline.run(run_id=run_id, checkpoint=directory))

    def forge(run_id, value):
        path = f"{directory}/runs/{run_id}/journal"
        content = open(path, "rb").read()
        nonce = read_header(content)
        chain, frames = Chain(nonce), []
        for _, found in Scan(content, nonce):
            record = decode(found)
            if isinstance(record, SimplyEnded):
                record.ended = [(*times, value) for *times, _ in record.ended]
            frames.append(chain.frame(encode(record)))
        open(path, "wb").write(header_of(nonce) + b"".join(frames))

    for number, payload in enumerate(payloads):
        run(f"run{number}")
        forge(f"run{number}", payload)
    run("warm"), run("warm")  # what is imported late is imported now

    FORBIDDEN = {"exec", "compile", "pickle.find_class", "marshal.loads", "os.system",
                 "subprocess.Popen", "os.exec", "os.posix_spawn", "ctypes.dlopen"}
    armed = []

    def hook(event, arguments):
        if armed and (event in FORBIDDEN or event == "import" and arguments[0] not in sys.modules):
            os.write(2, f"ran: {event} {arguments}".encode())
            os._exit(9)

    sys.addaudithook(hook)
    for number in range(len(payloads)):
        armed.append(True)
        try:
            print("value:", run(f"run{number}")["victim"])
        except StorageError as error:
            armed.clear()
            print("refused:", error)
    armed.append(True)
    if "probe" in os.environ:
        exec("1")  # the hook is there
    armed.clear()
    """
)

EVIL = "__import__('pickle').dumps(type('E', (), {'__reduce__': lambda s: (print, ('pwned',))})())"
PAYLOADS = [
    f"b'\\x04' + bytes(32) + {EVIL}",
    EVIL,
    "b'\\x02' + msgspec.msgpack.encode([9, 'os.system', ['command', 'touch owned']])",
    "b'\\x02' + msgspec.msgpack.encode([9, 'subprocess.Popen'])",
    "b'\\x02' + msgspec.msgpack.encode([10, 'evil_module.Codec', b'x'])",
    "b'\\x02' + msgspec.msgpack.encode(msgspec.msgpack.Ext(1, b'evil'))",
    "b'\\x01' + msgspec.msgpack.encode(msgspec.msgpack.Ext(5, b'evil'))",
    "b'\\x03' + b'\\xff' * 40",
    "b'\\x02' + b'\\x91' * 100000",
    "b'\\xff' * 10",
    "b''",
]


def resume_forged(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_program(PROGRAM, str(folder / "kept"), *PAYLOADS, cwd=folder, **environment)


def test_nothing_in_a_record_runs(tmp_path: Path) -> None:
    done = resume_forged(tmp_path)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert len(told) == len(PAYLOADS)
    for line in told:
        assert line.startswith("refused: the recorded value of step 'victim' cannot be read")
    assert not (tmp_path / "owned").exists()


def test_what_would_run_is_seen(tmp_path: Path) -> None:
    done = resume_forged(tmp_path, probe="yes")
    assert done.returncode == 9
    assert "ran: " in done.stderr


async def test_the_environment_is_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_TOKEN", "c4n4ry-in-the-environment")

    @step(outputs=["page"])
    async def fetch() -> str:
        assert os.environ["API_TOKEN"]
        return "a page"

    @step(retry=1)
    def fails(page: str) -> None:
        raise ConnectionError("refused")

    host = Host(tmp_path / "kept")
    await host.run(Pipeline("canary", steps=[fetch, fails]))
    await host.run(Pipeline("canary", steps=[fetch, fails]))
    written = [path.read_bytes() for path in host.directory.rglob("*") if path.is_file()]
    assert written
    assert not any(b"c4n4ry" in content for content in written)


RACER = textwrap.dedent(
    """
    import os, sys
    from asyncflow import RunLocked
    from asyncflow.storage.journal import open_journal

    for line in sys.stdin:
        run_id = line.strip()
        try:
            opened = open_journal(sys.argv[1], run_id)
        except RunLocked as locked:
            print("locked", locked.pid, flush=True)
            sys.stdin.readline()
        else:
            print("runs", os.getpid(), flush=True)
            sys.stdin.readline()
            opened.close()
    """
)


@pytest.mark.parametrize("races", [200])
def test_of_two_that_start_one_run_exactly_one_runs(races: int, tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        for _ in range(2)
    ]
    pids = [racer.pid for racer in racers]

    def say(line: str) -> None:
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write(f"{line}\n")
            racer.stdin.flush()

    try:
        for number in range(races):
            say(f"run{number}")
            told = [racer.stdout.readline().split() for racer in racers]  # type: ignore[union-attr]
            assert sorted(word for word, _ in told) == ["locked", "runs"], told
            winner = next(pid for pid, (word, _) in zip(pids, told, strict=True) if word == "runs")
            assert all(int(pid) == winner for _, pid in told)
            say("go on")
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()
