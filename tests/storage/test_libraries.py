"""The conformance suite of codecs, over those for numpy, pandas, polars and Arrow.

Each takes what it says it takes and gives back an equal value of the same types, in whatever
nest it stands; refuses the rest with a way out; and reads damaged data without a crash.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncflow.errors import NotReadable, NotRecordable
from asyncflow.storage.codecs import Codecs
from asyncflow.storage.digests import digest_of
from asyncflow.storage.libraries import LIBRARIES, library_codec
from tests.programs import output_of

CODECS = Codecs()


class Suite(NamedTuple):
    """What a codec promises."""

    taken: dict[str, Any]
    refused: dict[str, tuple[Any, str]]
    is_same: Callable[[Any, Any], bool]


def numpy_suite() -> Suite:
    np = pytest.importorskip("numpy")
    matrix = np.arange(24.0).reshape(2, 3, 4)
    record = np.array([(1, 2.5, "a")], dtype=[("x", "<i4"), ("y", ">f8"), ("z", "U3")])
    padded = np.zeros(2, np.dtype([("a", "i1"), ("b", "i8")], align=True))
    taken = {
        "float": matrix,
        "Fortran": np.asfortranarray(matrix),
        "transposed": matrix.T,
        "strided": matrix[:, ::2, ::-1],
        "broadcast": np.broadcast_to(np.arange(3), (4, 3)),
        "zero-dimensional": np.array(3),
        "empty": np.zeros((0, 3), "i2"),
        "empty in the middle": np.zeros((2, 0, 3)),
        "big-endian": np.arange(5, dtype=">i8"),
        "bool": np.array([True, False]),
        "complex": np.array([1 + 2j, np.nan]),
        "half": np.array([1.5], "f2"),
        "long double": np.array([1.5], "g"),
        "text": np.array(["a", "üx"]),
        "bytes": np.array([b"a", b""]),
        "no bytes": np.array([b"", b""], "S0"),
        "datetime": np.array(["2024-01-01", "NaT"], "M8[us]"),
        "timedelta": np.array([1, 2], "m8[3h]"),
        "record": record,
        "padded": padded,
        "sub-array": np.zeros(2, np.dtype([("m", "f4", (2, 2))])),
        "large": np.arange(100_000),
        "scalar": np.float64(1.5),
        "float32": np.float32(0.1),
        "bool scalar": np.True_,
        "text scalar": np.str_("ü"),
        "datetime scalar": np.datetime64("2024-01-01T00:00", "m"),
        "record scalar": record[0],
        "dtype": record.dtype,
    }
    refused = {
        "objects": (np.array([1, "a"], object), "tolist()"),
        "objects in a record": (np.zeros(1, [("a", "O")]), "tolist()"),
        "masked": (np.ma.array([1, 2], mask=[0, 1]), "numpy.asarray"),
        "matrix": (np.array([1]).view(type("Mine", (np.ndarray,), {})), "numpy.asarray"),
        "metadata": (np.zeros(1, np.dtype("i4", metadata={"a": 1})), "in full"),
    }

    def is_same(one: Any, other: Any) -> bool:
        if isinstance(one, np.dtype):
            return bool(one == other)
        return bool(
            one.dtype == other.dtype
            and one.shape == other.shape
            and _content(one) == _content(other)
            and (not isinstance(one, np.ndarray) or _order(one) == _order(other))
        )

    return Suite(taken, refused, is_same)


def _content(array: Any) -> Any:
    """The bytes; of records, what stands in the padding between fields does not count."""
    return array.tobytes() if array.dtype.names is None else repr(array.tolist())


def _order(array: Any) -> str:
    return "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"


def pandas_suite() -> Suite:
    pd, np = pytest.importorskip("pandas"), pytest.importorskip("numpy")
    days = pd.date_range("2024-01-01", periods=3, freq="D", tz="Europe/Berlin")
    mixed = pd.DataFrame(
        {
            "int": [1, 2, 3],
            "float": [1.5, np.nan, -0.0],
            "text": ["a", None, "ü"],
            "object": pd.Series([(1, 2), {"a": {3}}, None], dtype=object),
            "bool": [True, False, True],
            "category": pd.Categorical(["x", "y", "x"], ["y", "x"], ordered=True),
            "nullable": pd.array([1, None, 3], "Int64"),
            "flags": pd.array([True, None, False], "boolean"),
            "doubles": pd.array([1.5, None, 2], "Float32"),
            "strings": pd.array(["a", None, "b"], "string"),
            "zoned": days,
            "naive": days.tz_localize(None),
            "delta": pd.to_timedelta([1, 2, None], unit="s"),
            "period": pd.period_range("2024-01", periods=3, freq="M"),
            "interval": pd.interval_range(0, 3),
        },
        index=pd.Index(["a", "b", "c"], name="label"),
    )
    several = pd.MultiIndex.from_product([["a", "b"], [1, 2]], names=["x", None])
    noted = pd.DataFrame({"a": [1]})
    noted.attrs = {"source": ("here", 1)}
    taken = {
        "mixed": mixed,
        "nothing": pd.DataFrame(),
        "no rows": mixed.iloc[:0],
        "no columns": pd.DataFrame(index=[1, 2]),
        "same names": pd.DataFrame([[1, 2.5]], columns=["a", "a"]),
        "numbers as names": pd.DataFrame({0: [1], 5: [2]}),
        "many rows": pd.DataFrame({"x": np.arange(50_000), "y": np.arange(50_000) / 7}),
        "several levels": pd.DataFrame({"v": range(4)}, index=several),
        "columns of several levels": pd.DataFrame([[1, 2, 3, 4]], columns=several),
        "dates as index": pd.DataFrame({"v": range(3)}, index=days),
        "notes": noted,
        "no duplicates": pd.DataFrame({"a": [1]}).set_flags(allows_duplicate_labels=False),
        "series": mixed["float"],
        "series of objects": pd.Series([[1], (2,), {3}], name=("a", 1), dtype=object),
        "series of categories": mixed["category"],
        "range": pd.RangeIndex(2, 10, 3, name="r"),
        "dates": days,
        "business days": pd.date_range("2024-01-01", periods=3, freq="B"),
        "timedeltas": pd.timedelta_range("1h", periods=3),
        "categories": pd.CategoricalIndex(["a", "b"]),
        "intervals": pd.interval_range(0, 3, closed="left"),
        "periods": pd.period_range("2024Q1", periods=2, freq="Q"),
        "objects": pd.Index([1, "a", None], dtype=object),
        "timestamp": pd.Timestamp("2024-01-01 12:00:00.123456789", tz="Europe/Berlin"),
        "early timestamp": pd.Timestamp("1066-10-14").as_unit("s"),
        "fold": pd.Timestamp("2024-10-27 01:30:00", tz="UTC").tz_convert("Europe/Berlin"),
        "timedelta": pd.Timedelta("1 days 00:00:00.000000001"),
        "NA": pd.NA,
        "NaT": pd.NaT,
    }
    refused = {
        "sparse": (pd.DataFrame({"a": pd.arrays.SparseArray([0, 1])}), "astype"),
        "object inside": (pd.Series([object()], dtype=object), "codec"),
        "subclass": (type("Mine", (pd.DataFrame,), {})({"a": [1]}), "plain DataFrame"),
    }

    def is_same(one: Any, other: Any) -> bool:
        if isinstance(one, pd.DataFrame):
            pd.testing.assert_frame_equal(one, other, check_exact=True, check_freq=True)
        elif isinstance(one, pd.Series):
            pd.testing.assert_series_equal(one, other, check_exact=True, check_freq=True)
        elif isinstance(one, pd.Index):
            pd.testing.assert_index_equal(one, other, exact=True)
            return bool(getattr(one, "freq", None) == getattr(other, "freq", None))
        elif one is pd.NA or one is pd.NaT:
            return one is other
        else:
            return bool(one == other and repr(one) == repr(other) and one.unit == other.unit)
        assert one.flags == other.flags
        return bool(one.attrs == other.attrs)

    return Suite(taken, refused, is_same)


def polars_suite() -> Suite:
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame(
        {
            "int": [1, None, 3],
            "float": [1.5, float("nan"), None],
            "text": ["a", None, "ü"],
            "list": [[1], [], None],
            "struct": [{"a": 1, "b": "x"}, {"a": None, "b": None}, None],
            "date": [datetime.date(2024, 1, 1), None, None],
            "binary": [b"x", None, b""],
        }
    ).with_columns(
        pl.Series("category", ["x", "y", None], pl.Categorical),
        pl.Series("enum", ["x", "y", None], pl.Enum(["y", "x"])),
        pl.Series("moment", [0, 1, 2], pl.Datetime("us", "Europe/Berlin")),
        pl.Series("array", [[1, 2], [3, 4], None], pl.Array(pl.Int8, 2)),
        pl.Series("decimal", [1, 2, None], pl.Decimal(10, 2)),
        pl.Series("nulls", [None, None, None], pl.Null),
    )
    taken = {
        "frame": frame,
        "nothing": pl.DataFrame(),
        "no rows": frame.head(0),
        "sliced": frame.slice(1, 1),
        "several chunks": pl.concat([frame, frame], rechunk=False),
        "large": pl.DataFrame({"x": range(50_000)}),
        "series": frame["list"],
        "series without a name": pl.Series([1, 2]),
        "series of nothing": pl.Series("n", [], pl.Int16),
    }
    refused = {
        "lazy": (frame.lazy(), "collect()"),
        "objects": (pl.DataFrame({"a": pl.Series([object()], dtype=pl.Object)}), "cast it"),
    }

    def is_same(one: Any, other: Any) -> bool:
        if isinstance(one, pl.Series):
            one, other = one.to_frame(), other.to_frame()
        return bool(one.schema == other.schema and one.equals(other, null_equal=True))

    return Suite(taken, refused, is_same)


def arrow_suite() -> Suite:
    pa = pytest.importorskip("pyarrow")
    table = pa.table(
        {
            "int": pa.array([1, None, 3], pa.int8()),
            "text": pa.array(["a", None, "ü"]),
            "list": pa.array([[1], [], None]),
            "struct": pa.array([{"a": 1}, None, {"a": None}]),
            "dictionary": pa.array(["x", "y", "x"]).dictionary_encode(),
            "moment": pa.array([0, 1, None], pa.timestamp("us", "Europe/Berlin")),
        }
    ).replace_schema_metadata({b"note": b"\x00\xff"})
    chunks = pa.chunked_array([["a", "b"], [], ["c"]])
    taken = {
        "table": table,
        "no columns": pa.table({}),
        "no rows": table.slice(0, 0),
        "several chunks": pa.concat_tables([table, table]),
        "batch": table.to_batches()[0],
        "array": pa.array([1, 2, None]),
        "sliced": pa.array(range(100)).slice(7, 3),
        "nulls": pa.nulls(3),
        "dictionary": pa.array(["x", "y", "x"]).dictionary_encode(),
        "chunked": chunks,
        "no chunks": pa.chunked_array([], pa.int16()),
        "large": pa.array(range(50_000)),
        "schema": table.schema,
        "type": pa.list_(pa.field("item", pa.int8(), nullable=False)),
    }

    class Mine(pa.ExtensionType):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__(pa.int8(), "mine")

        def __arrow_ext_serialize__(self) -> bytes:
            return b""

    mine = pa.ExtensionArray.from_storage(Mine(), pa.array([1], pa.int8()))
    refused = {
        "extension": (mine, "storage type"),
        "extension in a table": (pa.table({"a": mine}), "storage type"),
    }

    def is_same(one: Any, other: Any) -> bool:
        if isinstance(one, pa.Table | pa.RecordBatch | pa.Schema):
            return bool(one.equals(other, check_metadata=True))
        return bool(one.equals(other)) and getattr(one, "type", one) == getattr(
            other, "type", other
        )

    return Suite(taken, refused, is_same)


SUITES: dict[str, Callable[[], Suite]] = {
    "numpy": numpy_suite,
    "pandas": pandas_suite,
    "polars": polars_suite,
    "arrow": arrow_suite,
}


@pytest.fixture(params=SUITES, scope="module")
def suite(request: pytest.FixtureRequest) -> Suite:
    return SUITES[request.param]()


def test_every_library_has_a_suite() -> None:
    assert set(SUITES) == set(LIBRARIES)


def test_what_a_codec_takes_comes_back_as_it_was(suite: Suite) -> None:
    for name, value in suite.taken.items():
        encoded = CODECS.encode(value)
        again = CODECS.decode(encoded)
        assert type(again) is type(value), name
        assert suite.is_same(value, again), name
        assert b"".join(CODECS.encode_parts(value)) == encoded, name


def test_it_comes_back_out_of_any_nest_too(suite: Suite) -> None:
    for name, value in suite.taken.items():
        (again, same), rest = CODECS.decode(CODECS.encode(([value, value], {"x": 1})))
        assert suite.is_same(value, again), name
        assert again is same, name
        assert rest == {"x": 1}


def test_equal_values_have_one_digest_and_others_another(suite: Suite) -> None:
    digests = {name: digest_of(value) for name, value in suite.taken.items()}
    again = {name: digest_of(CODECS.decode(CODECS.encode(v))) for name, v in suite.taken.items()}
    assert digests == again
    assert len(set(digests.values())) >= len(digests) - 1  # business days begin as days


def test_what_would_not_come_back_is_refused_with_a_way_out(suite: Suite) -> None:
    for name, (value, way_out) in suite.refused.items():
        with pytest.raises(NotRecordable) as refused:
            CODECS.encode({"x": value})
        assert way_out in str(refused.value), name


def test_damaged_bytes_are_refused_or_read_and_nothing_crashes(suite: Suite) -> None:
    for value in suite.taken.values():
        encoded = CODECS.encode(value)
        if len(encoded) > 5000:
            continue
        for index in range(0, len(encoded), max(1, len(encoded) // 150)):
            for damaged in (
                encoded[:index],
                encoded[:index] + bytes([encoded[index] ^ 0x41]) + encoded[index + 1 :],
            ):
                with contextlib.suppress(NotReadable):
                    CODECS.decode(damaged)


def test_large_arrays_are_not_copied_to_be_written() -> None:
    np = pytest.importorskip("numpy")
    array = np.zeros(1_000_000)
    head, buffer = CODECS.encode_parts({"a": array})
    assert len(head) < 200
    assert np.shares_memory(np.frombuffer(buffer, np.uint8), array)


def test_arrays_that_come_back_can_be_written_to_and_share_nothing() -> None:
    np = pytest.importorskip("numpy")
    encoded = CODECS.encode([np.zeros(3), np.zeros(100_000)])
    small, large = CODECS.decode(encoded)
    small[0] = large[0] = 1
    assert CODECS.decode(encoded)[0][0] == 0
    assert CODECS.decode(encoded)[1][0] == 0


@settings(max_examples=30)
@given(st.data())
def test_any_array_comes_back(data: st.DataObject) -> None:
    pytest.importorskip("numpy")
    from hypothesis.extra import numpy as arrays

    dtype = data.draw(arrays.scalar_dtypes())
    array = data.draw(arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0)))
    again = CODECS.decode(CODECS.encode(array))
    assert again.dtype == array.dtype
    assert again.shape == array.shape
    assert again.tobytes() == array.tobytes()


def test_looking_for_a_codec_imports_no_library() -> None:
    program = (
        "import sys\n"
        "from asyncflow.storage.codecs import Codecs\n"
        "try: Codecs().encode([object()])\n"
        "except TypeError: pass\n"
        "print([m for m in ('numpy', 'pandas', 'polars', 'pyarrow') if m in sys.modules])"
    )
    assert output_of(program) == "[]"


def test_a_library_that_is_not_installed_is_named_when_its_values_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    np = pytest.importorskip("numpy")
    encoded = CODECS.encode(np.zeros(3))
    from asyncflow.storage import libraries

    monkeypatch.setitem(libraries.LIBRARIES, "numpy", ("numpy", "asyncflow.storage.not_there"))
    monkeypatch.setattr(libraries, "_loaded", {})
    assert library_codec("numpy") is None
    with pytest.raises(NotReadable, match="codec 'numpy'"):
        CODECS.decode(encoded)
