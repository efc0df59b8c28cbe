"""What was recorded once can be read for ever."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asyncflow.storage.framing import FORMAT_VERSION
from asyncflow.storage.journal import open_in
from asyncflow.testing import FaultyDirectory
from tests.storage.golden import FOLDER, told_by

JOURNALS = sorted(FOLDER.glob("*.journal"))


def test_there_is_a_journal_of_every_version() -> None:
    versions = {int(path.stem.rpartition("-v")[2]) for path in JOURNALS}
    assert versions == set(range(1, FORMAT_VERSION + 1))


@pytest.mark.parametrize("path", JOURNALS, ids=lambda path: path.stem)
def test_a_journal_says_what_it_always_said(path: Path) -> None:
    assert told_by(path.read_bytes()) == json.loads(path.with_suffix(".json").read_text())


@pytest.mark.parametrize("path", JOURNALS, ids=lambda path: path.stem)
def test_a_journal_can_be_resumed(path: Path) -> None:
    directory = FaultyDirectory()
    file = directory.create("journal")
    file.write(path.read_bytes())
    opened = open_in(directory, "golden", "resume", directory.child("blobs", create=True))
    assert not opened.cut
    assert all(node.is_done for node in opened.memory.nodes.values())
