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
    assert found.defaults["memory_bytes"] == runtime.capacity.memory_bytes
    assert found.defaults["gpus"] == 0
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


def test_visible_gpus_are_told_and_that_nobody_declared_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    found = examine()
    assert found.gpus["visible"] == "0,3"
    assert "CUDA_VISIBLE_DEVICES is '0,3'; devices are not probed" in found.as_text()
    assert any("declare them with max_gpus" in remark for remark in found.remarks)


def test_hidden_gpus_deserve_no_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert examine().remarks == ()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert "CUDA_VISIBLE_DEVICES is not set" in examine().as_text()


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
