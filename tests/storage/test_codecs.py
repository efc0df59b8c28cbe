"""Builtin values come back as they were, or are refused with the path to what is to blame."""

from __future__ import annotations

import collections
import enum
import threading
from datetime import datetime, tzinfo
from decimal import Decimal
from ipaddress import IPv4Address
from typing import Any, NamedTuple

import pytest
from hypothesis import given

from asyncflow.errors import NotReadable, NotRecordable
from asyncflow.secret import Secret
from asyncflow.storage.codecs import Codecs
from asyncflow.storage.wire import BUFFERS, LARGE_BYTES, PLAIN, TREE
from asyncflow.testing import check_codec
from tests.storage.values import BUILTIN_VALUES, builtin_values, same

CODECS = Codecs()


def there_and_back(value: Any) -> Any:
    return CODECS.decode(CODECS.encode(value))


def _shown(value: Any) -> str:
    """A name for a test that is the same in every process: sets have no order."""
    return f"a {type(value).__name__}" if isinstance(value, set | frozenset) else f"{value!r:.40}"


@pytest.mark.parametrize("value", BUILTIN_VALUES, ids=_shown)
def test_builtin_values_come_back_as_they_were(value: Any) -> None:
    assert same(there_and_back(value), value)
    assert same(there_and_back([{"x": value}]), [{"x": value}])
    assert same(there_and_back((value, value)), (value, value))


@given(builtin_values)
def test_any_nest_of_builtin_values_comes_back_as_it_was(value: Any) -> None:
    assert same(there_and_back(value), value)
    assert b"".join(CODECS.encode_parts(value)) == CODECS.encode(value)


def test_a_nan_that_no_order_has_keeps_its_type() -> None:
    assert there_and_back(Decimal("sNaN123")).compare_total(Decimal("sNaN123")) == 0


class Text(str):
    __slots__ = ()


class Level(enum.IntEnum):
    LOW = 1


class Pair(NamedTuple):
    left: int
    right: int


class MyZone(tzinfo):
    def utcoffset(self, when: datetime | None) -> None: ...
    def dst(self, when: datetime | None) -> None: ...
    def tzname(self, when: datetime | None) -> None: ...


class Anything:
    pass


@pytest.mark.parametrize(
    "value, way_out",
    [
        (Text("a"), "str(…)"),
        (Level.LOW, "return annotation"),
        (Pair(1, 2), "return annotation"),
        (collections.OrderedDict(a=1), "return annotation"),
        (collections.defaultdict(list), "dict(…)"),
        (memoryview(b"x"), "bytes(view)"),
        (datetime(2024, 1, 1, tzinfo=MyZone()), "zoneinfo.ZoneInfo"),
        (Anything(), "pickle_key"),
        (Anything, "pickle_key"),
        (lambda: 1, "pickle_key"),
        (threading.Lock(), "pickle_key"),
        (Secret("s3cr3t"), "secret"),
        (NotImplemented, "Runtime(codecs=…)"),
    ],
)
def test_what_would_not_come_back_is_refused_with_a_way_out(value: Any, way_out: str) -> None:
    for nested in (value, [value], {"x": [0, (value,)]}):
        with pytest.raises(NotRecordable) as refused:
            CODECS.encode(nested)
        assert way_out in str(refused.value)
        assert "s3cr3t" not in str(refused.value)


def test_a_refusal_has_the_path_the_type_and_the_hint() -> None:
    with pytest.raises(NotRecordable) as refused:
        CODECS.encode({"x": [0, 1, 2, (IPv4Address(1),)]})
    assert refused.value.path == "result['x'][3][0]"
    assert refused.value.type_name == "ipaddress.IPv4Address"
    assert str(refused.value).startswith("result['x'][3][0] is of type ipaddress.IPv4Address")


def test_a_key_that_is_refused_is_told_from_a_value() -> None:
    with pytest.raises(NotRecordable) as refused:
        CODECS.encode([{IPv4Address(1): 1}])
    assert refused.value.path == "result[0].keys()"


def test_what_holds_itself_is_refused() -> None:
    circle: list[Any] = [1]
    circle.append({"again": circle})
    with pytest.raises(NotRecordable, match="holds itself"):
        CODECS.encode(circle)


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: (inner,)])
@pytest.mark.parametrize("depth", [101, 1000, 100_000])
def test_what_is_too_deep_is_refused_whatever_the_depth(wrap: Any, depth: int) -> None:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    with pytest.raises(NotRecordable, match="nested"):
        CODECS.encode(value)


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: (inner,)])
def test_a_hundred_levels_come_back(wrap: Any) -> None:
    value: Any = 1
    for _ in range(100):
        value = wrap(value)
    assert there_and_back(value) == value


def test_what_was_one_object_is_one_object_again() -> None:
    row: list[Any] = [0]
    first, second, third = there_and_back([row, (row,), {"row": row}])
    second[0].append(1)
    assert first == [0, 1]
    assert third["row"] is first


def test_a_value_that_shares_its_parts_many_times_stays_small() -> None:
    value: Any = ["lol"]
    for _ in range(40):
        value = [value] * 9
    encoded = CODECS.encode(value)
    assert len(encoded) < 4096
    again = CODECS.decode(encoded)
    for _ in range(40):
        assert again[0] is again[8]
        again = again[0]
    assert again == ["lol"]


def test_large_bytes_are_written_as_they_are() -> None:
    large = bytes(LARGE_BYTES)
    head, *buffers = CODECS.encode_parts({"a": (large, large), "b": 1})
    assert [buffer is large for buffer in buffers] == [True]
    assert len(head) < 100


@pytest.mark.parametrize("value, form", [(1, PLAIN), ((1,), TREE), (bytes(LARGE_BYTES), BUFFERS)])
def test_the_first_byte_says_the_form(value: Any, form: bytes) -> None:
    assert CODECS.encode(value)[:1] == form


# -- codecs of the user's --------------------------------------------------------------


class Addresses:
    tag = "ipv4"

    def takes(self, value: Any) -> bool:
        return type(value) is IPv4Address

    def encode(self, value: Any) -> Any:
        return int(value)

    def decode(self, encoded: Any) -> Any:
        return IPv4Address(encoded)


class Failing(Addresses):
    tag = "failing"

    def encode(self, value: Any) -> Any:
        raise OSError("no luck")


class Opaque(Addresses):
    tag = "opaque"

    def encode(self, value: Any) -> Any:
        return {"inner": Anything()}


def test_a_codec_of_ones_own_is_found_by_its_tag() -> None:
    codecs = Codecs([Addresses()])
    value = {IPv4Address(7): [IPv4Address(8)]}
    encoded = codecs.encode(value)
    assert codecs.decode(encoded) == value
    assert b"IPv4Address" not in encoded
    assert b"ipaddress" not in encoded
    with pytest.raises(NotReadable, match="codec 'ipv4'"):
        CODECS.decode(encoded)


def test_a_codec_can_be_checked() -> None:
    check_codec(Addresses(), [IPv4Address(0), IPv4Address(2**32 - 1)])


class Greedy(Addresses):
    def takes(self, value: Any) -> bool:
        return True


class Blind(Addresses):
    def takes(self, value: Any) -> bool:
        return False


class Forgetful(Addresses):
    def decode(self, encoded: Any) -> Any:
        return IPv4Address(0)


class Changing(Addresses):
    def decode(self, encoded: Any) -> Any:
        return int(encoded)


class Restless(Addresses):
    count = 0

    def encode(self, value: Any) -> Any:
        self.count += 1
        return [int(value), self.count]

    def decode(self, encoded: Any) -> Any:
        return IPv4Address(encoded[0])


@pytest.mark.parametrize(
    "codec, fault",
    [
        (Greedy(), "takes the builtin value None"),
        (Blind(), "does not take"),
        (Forgetful(), "comes back from 'ipv4' as IPv4Address"),
        (Changing(), "as a int"),
        (Restless(), "now so and now otherwise"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_the_check_finds_what_is_wrong_with_a_codec(codec: Any, fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        check_codec(codec, [IPv4Address(7)])


def test_a_codec_that_fails_refuses_the_value_and_names_itself() -> None:
    with pytest.raises(NotRecordable, match=r"'failing' raised OSError: no luck"):
        Codecs([Failing()]).encode([IPv4Address(1)])


def test_what_a_codec_makes_must_be_recordable_too() -> None:
    with pytest.raises(NotRecordable) as refused:
        Codecs([Opaque()]).encode([IPv4Address(1)])
    assert refused.value.type_name.endswith("Anything")


def test_a_codec_that_cannot_read_what_is_there_says_so() -> None:
    written = Codecs([Addresses()]).encode(IPv4Address(1))
    damaged = written[:-1] + b"\xff"  # minus one
    with pytest.raises(NotReadable, match="'ipv4' cannot read it"):
        Codecs([Addresses()]).decode(damaged)


@pytest.mark.parametrize("wrong", [Addresses, object(), "ipv4"])
def test_what_is_no_codec_is_refused_when_it_is_given(wrong: Any) -> None:
    with pytest.raises(TypeError, match="tag, takes, encode and decode"):
        Codecs([wrong])


def test_two_codecs_of_one_tag_are_refused() -> None:
    with pytest.raises(ValueError, match="'ipv4'"):
        Codecs([Addresses(), Addresses()])
