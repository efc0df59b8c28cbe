"""Pickle: only by choice, and never read before its seal was checked."""

from __future__ import annotations

import os
import pickle
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from asyncflow.errors import NotReadable, NotRecordable
from asyncflow.storage.codecs import Codecs
from asyncflow.storage.pickling import PickleKey

KEY = b"0123456789abcdef"
VALUE = {"x": IPv4Address(7)}


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.touch(mode=0o600)
    file.write_bytes(KEY)
    return file


def test_without_a_key_nothing_is_pickled_and_no_pickle_is_read() -> None:
    with pytest.raises(NotRecordable):
        Codecs().encode(VALUE)
    with pytest.raises(NotReadable, match="pickle_key"):
        Codecs().decode(Codecs(pickle_key=KEY).encode(VALUE))


def test_with_a_key_what_nothing_else_takes_is_pickled() -> None:
    codecs = Codecs(pickle_key=KEY)
    assert codecs.decode(codecs.encode(VALUE)) == VALUE
    assert codecs.encode({"x": 1}) == Codecs().encode({"x": 1})


def test_the_key_may_lie_in_a_file(key_file: Path) -> None:
    sealed = Codecs(pickle_key=key_file).encode(VALUE)
    assert Codecs(pickle_key=str(key_file)).decode(sealed) == VALUE
    assert Codecs(pickle_key=KEY).decode(sealed) == VALUE


class Loud:
    """Unpickling it calls this."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("a pickle was read",)


def test_a_change_of_any_byte_is_found_before_anything_is_read() -> None:
    codecs = Codecs(pickle_key=KEY)
    sealed = codecs.encode(Loud())
    for index in range(1, len(sealed)):
        changed = bytearray(sealed)
        changed[index] ^= 1
        with pytest.raises(NotReadable, match="seal"):
            codecs.decode(bytes(changed))
    for length in range(1, len(sealed)):
        with pytest.raises(NotReadable, match="seal"):
            codecs.decode(sealed[:length])


def test_a_pickle_sealed_with_another_key_is_not_read() -> None:
    sealed = Codecs(pickle_key=KEY).encode(Loud())
    with pytest.raises(NotReadable, match="another pickle_key"):
        Codecs(pickle_key=KEY[::-1]).decode(sealed)


def test_a_bare_pickle_is_not_read() -> None:
    for bare in (pickle.dumps(Loud()), b"\x04" + pickle.dumps(Loud())):
        with pytest.raises(NotReadable):
            Codecs(pickle_key=KEY).decode(bare)


def test_what_cannot_be_pickled_either_is_refused() -> None:
    with pytest.raises(NotRecordable, match="cannot be pickled either"):
        Codecs(pickle_key=KEY).encode(lambda: 1)


def test_a_pickle_that_cannot_be_read_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    codecs = Codecs(pickle_key=KEY)
    monkeypatch.setitem(globals(), "Gone", type("Gone", (), {"__module__": __name__}))
    sealed = codecs.encode(globals()["Gone"]())
    monkeypatch.delitem(globals(), "Gone")
    with pytest.raises(NotReadable, match="AttributeError"):
        codecs.decode(sealed)


def test_a_key_that_others_can_read_is_refused(key_file: Path) -> None:
    for mode in (0o640, 0o604, 0o660):
        key_file.chmod(mode)
        with pytest.raises(ValueError, match="chmod 600"):
            Codecs(pickle_key=key_file)


def test_a_key_inside_the_run_directory_is_refused(key_file: Path, tmp_path: Path) -> None:
    inside = tmp_path / "runs" / "link"
    inside.parent.mkdir()
    for directory, file in ((tmp_path, key_file), (tmp_path / "runs", inside.parent / "key")):
        with pytest.raises(ValueError, match="inside the run directory"):
            Codecs(pickle_key=file, directory=directory)
    Codecs(pickle_key=key_file, directory=inside.parent)


def test_a_key_that_is_no_plain_file_is_refused(key_file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(key_file)
    with pytest.raises(OSError):  # noqa: PT011 - ELOOP, in the words of the system
        Codecs(pickle_key=link)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, mode=0o600)
    for no_file in (pipe, tmp_path):
        with pytest.raises(ValueError, match="not a plain file"):
            Codecs(pickle_key=no_file)
    with pytest.raises(FileNotFoundError):
        Codecs(pickle_key=tmp_path / "nowhere")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives away")
def test_a_key_of_another_user_is_refused(key_file: Path) -> None:
    os.chown(key_file, 12345, -1)
    with pytest.raises(ValueError, match="another user"):
        Codecs(pickle_key=key_file)


def test_a_short_key_is_refused_and_no_key_is_shown() -> None:
    with pytest.raises(ValueError, match="at least 16"):
        Codecs(pickle_key=b"short")
    with pytest.raises(TypeError, match="bytes or the path"):
        Codecs(pickle_key=17)  # type: ignore[arg-type]
    assert "0123" not in repr(PickleKey(KEY))
