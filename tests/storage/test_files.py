"""Directories and files: private to us, and never reached through what somebody planted."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from asyncflow import StorageError
from asyncflow.storage.fs import RealDirectory, open_root
from asyncflow.storage.layout import folder_of, open_run

HOSTILE_IDS = [
    "..",
    ".",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "%2e%2e",
    "nul\0l",
    "line\n",
    "abc\n",
    "-rf",
    ".hidden",
    "",
    " ",
    "x" * 300,
    "é",
    "e\u0301",
    "\u202egnp",
    "\ud800",
]


@pytest.mark.parametrize("run_id", HOSTILE_IDS)
def test_an_id_of_another_form_becomes_a_hash(run_id: str) -> None:
    assert folder_of(run_id).startswith("~")
    assert folder_of(run_id)[1:].isalnum()


@given(st.text())
def test_every_id_gives_a_plain_name_of_its_own(run_id: str) -> None:
    folder = folder_of(run_id)
    assert folder == run_id or folder.startswith("~")
    assert "/" not in folder
    assert folder not in ("", ".", "..")
    assert len(folder) <= 100


@pytest.mark.parametrize("run_id", ["nightly", "2026-03-01_a.b", "A9", "x" * 100])
def test_a_plain_id_is_its_own_folder(run_id: str) -> None:
    assert folder_of(run_id) == run_id


def test_everything_is_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with open_run(tmp_path / "kept", "nightly", create=True) as run:
            run.create("journal").close()
    finally:
        os.umask(old)
    for path in (tmp_path / "kept").rglob("*"):
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o700


def test_nothing_is_made_where_one_only_looks(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_run(tmp_path / "kept", "nightly")
    assert not (tmp_path / "kept").exists()


@pytest.fixture
def directory(tmp_path: Path) -> RealDirectory:
    return open_root(tmp_path / "kept", create=True)


def test_a_planted_link_is_not_followed(directory: RealDirectory, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / "kept" / "journal").symlink_to(target)
    with directory:
        for attempt in (directory.append_to, directory.read):
            with pytest.raises(StorageError, match="a link stands there"):
                attempt("journal")
        with pytest.raises(StorageError, match="cannot be opened"):
            directory.create("journal")
    assert target.read_text() == "precious"


def test_a_planted_directory_link_is_not_followed(directory: RealDirectory, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "kept" / "runs").symlink_to(tmp_path / "elsewhere")
    with directory, pytest.raises(StorageError, match="a link stands there"):
        directory.child("runs", create=True)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_hard_link_is_refused(directory: RealDirectory, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    os.link(target, tmp_path / "kept" / "journal")
    with directory, pytest.raises(StorageError, match="2 names"):
        directory.append_to("journal")


def test_a_pipe_is_refused_and_not_waited_for(directory: RealDirectory, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "kept" / "journal")
    with directory, pytest.raises(StorageError, match="not a plain file"):
        directory.read("journal")


def test_a_directory_anybody_may_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(StorageError, match="anybody may write"):
        open_root(tmp_path / "open", create=True)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away"
)
def test_what_belongs_to_another_user_is_refused(directory: RealDirectory, tmp_path: Path) -> None:
    (tmp_path / "kept" / "journal").write_text("")
    os.chown(tmp_path / "kept" / "journal", 12345, 12345)
    with directory, pytest.raises(StorageError, match="belongs to user 12345"):
        directory.read("journal")
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 12345, 12345)
    with pytest.raises(StorageError, match="belongs to user 12345"):
        open_root(tmp_path / "theirs", create=True)


def test_a_file_where_a_directory_should_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("")
    with pytest.raises(StorageError, match="kept cannot be made: what stands there is no dir"):
        open_root(tmp_path / "kept", create=True)
    with pytest.raises(StorageError, match="cannot be opened: Not a directory"):
        open_root(tmp_path / "kept", create=False)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
def test_a_directory_that_cannot_be_made_is_not_one_that_is_missing() -> None:
    with pytest.raises(StorageError, match="/proc/runs cannot be made: No such file or directory"):
        open_root("/proc/runs", create=True)
