"""Frames: what is whole is read, what is torn is told from what is damaged."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from asyncflow.storage.framing import (
    HEADER_BYTES,
    Chain,
    Scan,
    WrongHeader,
    header_of,
    read_header,
)

NONCE = bytes(range(16))
OTHER_NONCE = bytes(range(16, 32))


def journal(*payloads: bytes | int, nonce: bytes = NONCE) -> bytes:
    """A file of these records; a number stands for a mark that says so much is synced, -1 for
    everything before it."""
    chain, content = Chain(nonce), header_of(nonce)
    for payload in payloads:
        if isinstance(payload, int):
            content += chain.mark(chain.offset if payload < 0 else payload)
        else:
            content += chain.frame(payload)
    return content


def read(content: bytes) -> tuple[list[bytes], str]:
    nonce = read_header(content)
    if nonce is None:
        return [], "no header"
    scan = Scan(content, nonce)
    payloads = [payload for _, payload in scan]
    assert scan.ending is not None
    return payloads, scan.ending.kind


def test_what_was_written_is_read_back() -> None:
    assert read(journal(b"one", b"two", -1, b"three")) == ([b"one", b"two", b"three"], "clean")


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=8))
def test_any_records_are_read_back(payloads: list[bytes]) -> None:
    assert read(journal(*payloads)) == (payloads, "clean")


def test_a_cut_at_any_byte_leaves_the_records_before_it() -> None:
    payloads = [b"one", b"twotwo", b"three"]
    content = journal(*payloads)
    for end in range(len(content)):
        left, kind = read(content[:end])
        assert left == payloads[: len(left)]
        assert kind in ("no header", "torn", "clean")
        whole = journal(*payloads[: len(left)])
        assert (kind == "clean") == (end == len(whole))


@pytest.mark.parametrize("synced", [True, False], ids=["synced", "not synced"])
def test_every_flipped_bit_is_seen(synced: bool) -> None:
    payloads = [b"one", b"twotwo", b"three"]
    content = journal(*payloads, *([-1] if synced else []))
    end_of_records = len(journal(*payloads))
    for bit in range(8 * HEADER_BYTES, 8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        left, kind = read(bytes(flipped))
        assert left == payloads[: len(left)]
        in_records = bit // 8 < end_of_records
        if in_records:
            assert len(left) < len(payloads)
        assert kind == ("damage" if synced and in_records else kind)
        assert kind != "clean"


def test_every_flipped_bit_of_the_header_is_refused() -> None:
    content = journal(b"one")
    for bit in range(8 * HEADER_BYTES):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WrongHeader):
            read(bytes(flipped))


def frames_of(*payloads: bytes, nonce: bytes = NONCE) -> list[bytes]:
    chain = Chain(nonce)
    return [chain.frame(payload) for payload in payloads]


def test_a_repeated_record_does_not_fit() -> None:
    one, two = frames_of(b"one", b"two")
    assert read(header_of(NONCE) + one + one + two) == ([b"one"], "tail")


def test_swapped_records_do_not_fit() -> None:
    one, two, three = frames_of(b"one", b"two", b"six")
    assert read(header_of(NONCE) + one + three + two) == ([b"one"], "tail")


def test_a_record_of_another_run_does_not_fit() -> None:
    (foreign,) = frames_of(b"one", nonce=OTHER_NONCE)
    assert read(header_of(NONCE) + foreign) == ([], "tail")


def test_records_between_two_runs_that_agree_do_not_fit() -> None:
    one, _ = frames_of(b"one", b"two")
    _, foreign = frames_of(b"one", b"two", nonce=OTHER_NONCE)
    assert read(header_of(NONCE) + one + foreign) == ([b"one"], "tail")


def test_a_swap_before_a_mark_is_damage() -> None:
    chain = Chain(NONCE)
    one, two = chain.frame(b"one"), chain.frame(b"two")
    mark = chain.mark(chain.offset)
    assert read(header_of(NONCE) + two + one + mark) == ([], "damage")


def test_a_mark_vouches_only_for_what_it_says() -> None:
    # What was written while the sync went on may be lost though the mark is there.
    chain = Chain(NONCE)
    one = chain.frame(b"one")
    synced = chain.offset
    two = chain.frame(b"two")
    mark = chain.mark(synced)
    content = header_of(NONCE) + one + bytes(len(two)) + mark
    assert read(content) == ([b"one"], "tail")


def test_a_wrong_length_before_a_mark_is_damage() -> None:
    content = bytearray(journal(b"one", b"two", -1))
    content[HEADER_BYTES : HEADER_BYTES + 8] = bytes(8)
    assert read(bytes(content)) == ([], "damage")


def test_zeros_at_the_end_are_a_tail() -> None:
    assert read(journal(b"one", -1) + bytes(64)) == ([b"one"], "tail")


def test_a_huge_length_asks_for_no_memory() -> None:
    chain = Chain(NONCE)
    frame = bytearray(chain.frame(b"one"))
    frame[:4] = b"\xff\xff\xff\x7f"
    assert read(header_of(NONCE) + bytes(frame)) == ([], "tail")


def test_an_unknown_version_is_named() -> None:
    content = bytearray(journal())
    content[8] = 9
    import zlib

    content[28:32] = zlib.crc32(bytes(content[:28])).to_bytes(4, "little")
    with pytest.raises(WrongHeader, match=r"format 9, .* knows format 1"):
        read(bytes(content))


def test_another_file_is_no_journal() -> None:
    with pytest.raises(WrongHeader, match="does not begin like a journal"):
        read(b"PK\x03\x04" + bytes(60))


def test_a_chain_goes_on_where_the_good_records_end() -> None:
    content = journal(b"one", b"two")[:-3]
    scan = Scan(content, NONCE)
    assert [payload for _, payload in scan] == [b"one"]
    whole = content[: scan.chain.offset] + scan.chain.frame(b"again")
    assert read(whole) == ([b"one", b"again"], "clean")
