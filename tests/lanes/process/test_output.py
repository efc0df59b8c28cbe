"""Every line is told of the call that printed it, however the pipe cuts them."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator

import pytest

from asyncflow.lanes.process.output import OutputReader

MARK = b"\0mark\0"


class Heard:
    """A reader of a pipe, and what it told under whose name."""

    def __init__(self) -> None:
        reading, self.writing = os.pipe()
        os.set_blocking(reading, False)
        self.call = "first"
        self.told: list[tuple[str, str]] = []
        self.reader = OutputReader(reading, 1, MARK, self._take)

    def _take(self, stream: str, lines: tuple[str, ...]) -> None:
        assert stream == "stdout"
        self.told += [(self.call, line) for line in lines]

    def write(self, data: bytes) -> None:
        os.write(self.writing, data)

    def next_call(self, name: str, *, marked: bool) -> None:
        self.reader.end_call(marked)
        self.call = name
        self.reader.resume()


@pytest.fixture
def heard(capsys: pytest.CaptureFixture[str]) -> Iterator[Heard]:
    made = Heard()
    yield made
    os.close(made.writing)
    made.reader.close()


def test_lines_are_told_as_they_come(heard: Heard) -> None:
    heard.write(b"one\ntw")
    assert heard.reader.read()
    assert heard.told == [("first", "one")]
    heard.write(b"o\n")
    assert heard.reader.read()
    assert heard.told == [("first", "one"), ("first", "two")]


def test_a_mark_parts_the_calls(heard: Heard) -> None:
    heard.write(b"mine\nno end" + MARK + b"yours\n")
    heard.next_call("second", marked=True)
    assert heard.told == [("first", "mine"), ("first", "no end"), ("second", "yours")]


def test_a_mark_that_was_read_early_waits_for_the_end_of_its_call(heard: Heard) -> None:
    heard.write(b"mine\n" + MARK + b"yours\n" + MARK + b"theirs\n")
    heard.reader.read()
    assert heard.told == [("first", "mine")]
    heard.next_call("second", marked=True)
    heard.next_call("third", marked=True)
    assert heard.told == [("first", "mine"), ("second", "yours"), ("third", "theirs")]


def test_a_last_line_without_an_end_belongs_to_the_call_that_has_ended(heard: Heard) -> None:
    heard.write(b"no end")
    heard.reader.read()
    heard.next_call("second", marked=False)
    heard.write(b"next\n")
    heard.reader.read()
    assert heard.told == [("first", "no end"), ("second", "next")]


def test_bytes_that_are_no_text_are_shown_as_such(heard: Heard) -> None:
    heard.write(b"\xff\xfe\n")
    heard.reader.read()
    assert heard.told == [("first", "\\xff\\xfe")]


def test_a_line_without_end_is_told_in_pieces(heard: Heard) -> None:
    for _ in range(40):
        heard.write(b"x" * 4000)
        heard.reader.read()
    assert sum(len(line) for _, line in heard.told) > 60_000


def test_what_is_printed_is_echoed(capsys: pytest.CaptureFixture[str]) -> None:
    heard = Heard()
    heard.write(b"said\n")
    heard.reader.read()
    os.close(heard.writing)
    assert not heard.reader.read()
    heard.reader.close()
    assert capsys.readouterr().out == "said\n"


@pytest.mark.skipif(sys.platform != "linux", reason="pipes elsewhere hold 64 KB for good")
def test_who_prints_much_holds_nobody_up(heard: Heard) -> None:
    fcntl.fcntl(heard.writing, fcntl.F_SETPIPE_SZ, 1 << 20)
    heard.write(b"line\n" * 200_000)
    assert heard.reader.read()
    assert 0 < len(heard.told) < 60_000
    heard.reader.read_all()
    assert len(heard.told) == 200_000
