"""``asyncflow doctor`` says what there is and what a Runtime() will make of it."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path

import psutil
import pytest

from asyncflow import Runtime, __version__
from asyncflow.cli import doctor
from asyncflow.cli.doctor import Findings, examine
from asyncflow.engine.hardware import Machine, ReadText, probe
from asyncflow.testing import FakeGpus
from tests.cli.commanding import ROOT, Commands


def written(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / name.replace("_", ".")).write_text(text, encoding="ascii")
    return folder


def examine_within(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> Findings:
    """The findings of a process in a control group of which this folder is the root."""
    membership = cgroup / "membership"
    membership.write_text("0::/\n", encoding="ascii")

    def within(read: ReadText) -> Machine:
        return probe(cgroup_root=cgroup, membership=membership, read=read)

    monkeypatch.setattr(doctor, "probe", within)
    return examine()


def test_it_ends_with_0_and_speaks_of_every_section(commands: Commands) -> None:
    ended = commands.run("doctor")
    assert (ended.returncode, ended.stderr) == (0, "")
    for label in ("asyncflow", "Python", "CPUs", "memory", "GPUs", "event loop", "packages"):
        assert re.search(rf"^{label} ", ended.stdout, re.MULTILINE)
    assert "Runtime() will share" in ended.stdout
    assert __version__ in ended.stdout


def test_json_holds_the_same_as_plain_values(commands: Commands) -> None:
    ended = commands.run("doctor", "--json")
    found = json.loads(ended.stdout)
    assert set(found) == set(Findings.__struct_fields__)
    assert found["cpus"]["logical"] == os.cpu_count()
    assert found["memory"]["total_bytes"] == psutil.virtual_memory().total


def test_the_defaults_are_those_of_a_runtime() -> None:
    found, runtime = examine(), Runtime()
    assert found.defaults["cpus"] == runtime.capacity.cpu_millis / 1000
    # What other programs use of the memory changes all the time.
    assert found.defaults["memory_bytes"] == pytest.approx(runtime.capacity.memory_bytes, rel=0.3)
    assert found.defaults["gpus"] == len(found.gpus["devices"])
    assert found.defaults["max_threads"] == runtime.max_threads
    assert found.defaults["max_concurrency"] == runtime.max_concurrency


def test_the_limits_of_a_control_group_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cgroup = written(tmp_path, cpu_max="50000 100000", memory_max=str(512 * 2**20))
    found = examine_within(cgroup, monkeypatch)
    assert found.cpus["cgroup"] == 0.5
    assert found.memory["cgroup_bytes"] == 512 * 2**20
    text = found.as_text()
    assert "cgroup limit 0.5" in text
    assert "cgroup limit 512 MiB" in text


@pytest.mark.parametrize(
    "cpu_max, memory_max", [("max 100000", "max"), ("", ""), ("100 0", "-1"), ("some", "much")]
)
def test_a_control_group_without_readable_limits_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpu_max: str, memory_max: str
) -> None:
    cgroup = written(tmp_path, cpu_max=cpu_max, memory_max=memory_max)
    found = examine_within(cgroup, monkeypatch)
    assert found.cpus["cgroup"] is None
    assert found.memory["cgroup_bytes"] is None
    assert found.as_text().count("no cgroup limit") == 2


def test_the_gpus_of_the_machine_are_told() -> None:
    with FakeGpus(["NVIDIA A100-SXM4-80GB", "Tesla T4"]) as machine:
        found = examine()
    assert [device["id"] for device in found.gpus["devices"]] == list(machine.uuids)
    assert found.defaults["gpus"] == 2
    assert f"Tesla T4 ({machine.uuids[1]}, 80.0 GiB)" in found.as_text()


def test_only_the_gpus_that_this_process_may_use_are_told() -> None:
    with FakeGpus(2, visible="1"):
        found = examine()
    assert found.defaults["gpus"] == 1
    assert "CUDA_VISIBLE_DEVICES is '1'" in found.as_text()


def test_a_broken_driver_is_told() -> None:
    with FakeGpus(2, behaviour="crashes"):
        found = examine()
    assert found.defaults["gpus"] == 0
    assert found.remarks == ("the child that asks NVML ended with signal SIGSEGV",)


def test_visible_gpus_that_are_not_there_deserve_a_remark() -> None:
    with FakeGpus(0, visible="0,3"):
        assert "declare GPUs with Runtime(max_gpus=…)" in examine().remarks[0]
    with FakeGpus(0, visible=""):
        assert examine().remarks == ()
    with FakeGpus(0):
        assert "none found; CUDA_VISIBLE_DEVICES is not set" in examine().as_text()


def test_every_dependency_is_listed_with_its_version() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        declared = tomllib.load(file)["project"]["dependencies"]
    names = {re.split(r"[<>=!~ \[]", line)[0] for line in declared}
    found = examine().packages
    assert names <= found.keys()
    assert all(found[name] for name in names)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "REQUIRED", (*doctor.REQUIRED, "no-such-package-anywhere"))
    found = examine()
    assert found.packages["no-such-package-anywhere"] is None
    assert "no-such-package-anywhere missing" in found.as_text()
    assert found.remarks[0] == (
        "no-such-package-anywhere is not installed, and asyncflow needs it; install it"
    )
