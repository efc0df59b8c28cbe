"""Amounts are read exactly, and a wrong one is refused in a sentence that shows right ones."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow.resources import format_bytes, format_cpu, parse_bytes, parse_cpu


@pytest.mark.parametrize(
    "written, millis",
    [
        (2, 2000),
        (0, 0),
        ("0", 0),
        (0.5, 500),
        ("2", 2000),
        ("2.5", 2500),
        ("500m", 500),
        (" 1.25 ", 1250),
        (".5", 500),
        ("1.", 1000),
        (0.1 + 0.2, 300),
        (0.00001, 1),
        ("0.2m", 1),
    ],
)
def test_cpus_are_read_in_thousandths(written: Any, millis: int) -> None:
    assert parse_cpu(written) == millis


@pytest.mark.parametrize(
    "written, count",
    [
        (0, 0),
        (1024, 1024),
        (1e9, 10**9),
        ("512", 512),
        ("512Mi", 512 * 2**20),
        ("4Gi", 4 * 2**30),
        ("4GiB", 4 * 2**30),
        ("4 GiB", 4 * 2**30),
        ("1GB", 10**9),
        ("1G", 10**9),
        ("100k", 100_000),
        ("100K", 100_000),
        ("100kB", 100_000),
        ("10B", 10),
        ("2Ti", 2 * 2**40),
        ("1Pi", 2**50),
        ("1Ei", 2**60),
        ("1.5Gi", 3 * 2**29),
        ("0.1Ki", 103),
    ],
)
def test_memory_is_read_in_bytes(written: Any, count: int) -> None:
    assert parse_bytes(written) == count


@pytest.mark.parametrize(
    "parse, wrong",
    [
        (parse, wrong)
        for parse in (parse_cpu, parse_bytes)
        for wrong in (-1, -0.5, "-1", float("nan"), float("inf"), 2**63, 1e300, "", "two", "1,5")
    ]
    + [(parse_cpu, wrong) for wrong in ("4Gi", "2 cores", "1e3", "\u0663", "9" * 100, "nan")]
    + [(parse_bytes, wrong) for wrong in ("512m", "4Gb", "1e3", "5Ei", "4 gigs", "--1")],
)
def test_a_wrong_amount_is_refused_with_its_value_and_right_examples(
    parse: Any, wrong: object
) -> None:
    with pytest.raises(ValueError, match="like") as caught:
        parse(wrong)
    assert repr(wrong)[:40] in str(caught.value)
    assert "'500m'" in str(caught.value) or "'512Mi'" in str(caught.value)


@pytest.mark.parametrize("parse", [parse_cpu, parse_bytes])
@pytest.mark.parametrize("wrong", [True, False, None, [], b"1", 1j])
def test_what_is_neither_number_nor_text_is_a_type_error(parse: Any, wrong: object) -> None:
    with pytest.raises(TypeError, match=type(wrong).__name__):
        parse(wrong)


def test_an_unknown_unit_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ValueError, match=r"unknown unit 'MiiB' \(did you mean 'MiB'\?\)"):
        parse_bytes("5MiiB")


def test_the_largest_amounts_are_exact() -> None:
    assert parse_bytes(2**62) == 2**62
    assert parse_bytes(str(2**62 - 1)) == 2**62 - 1


@given(st.integers(0, 10**9))
def test_thousandths_survive_every_spelling(millis: int) -> None:
    assert parse_cpu(f"{millis}m") == millis
    assert parse_cpu(millis / 1000) == millis
    assert parse_cpu(f"{millis // 1000}.{millis % 1000:03}") == millis


@given(st.decimals(0, 1000, places=6), st.sampled_from(["k", "Ki", "MB", "GiB"]))
def test_a_fraction_of_a_byte_is_rounded_up(number: Any, unit: str) -> None:
    factor = {"k": 1000, "Ki": 1024, "MB": 10**6, "GiB": 2**30}[unit]
    exact = Fraction(number) * factor
    assert 0 <= parse_bytes(f"{number:f}{unit}") - exact < 1


def test_amounts_are_shown_as_people_write_them() -> None:
    assert [format_cpu(n) for n in (0, 1, 500, 1000, 64_000)] == [
        "0 CPUs",
        "0.001 CPUs",
        "0.5 CPUs",
        "1 CPU",
        "64 CPUs",
    ]
    assert [format_bytes(n) for n in (0, 1, 1023, 2**20, -(2**30))] == [
        "0 bytes",
        "1 byte",
        "1023 bytes",
        "1 MiB",
        "-1 GiB",
    ]
