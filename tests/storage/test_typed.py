"""Classes come back field by field, if the return annotation names them."""

from __future__ import annotations

import collections
import enum
import functools
import typing
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from datetime import date
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypedDict, TypeVar

import msgspec
import pytest

from asyncflow import step
from asyncflow.errors import NotReadable, NotRecordable
from asyncflow.graph.node import MISSING
from asyncflow.storage.codecs import Codecs
from asyncflow.storage.typed import annotation_of
from tests.storage.values import same

attrs: Any = pytest.importorskip("attrs")
pydantic: Any = pytest.importorskip("pydantic")

CODECS = Codecs()
T = TypeVar("T")


@dataclass
class Point:
    x: float
    y: Any = 0


@dataclass(frozen=True, slots=True)
class Line:
    start: Point
    end: Point | None = None


@dataclass
class Checked:
    """Its ``__init__`` would change what it is given."""

    value: int
    factor: InitVar[int] = 2
    made: list[int] = field(init=False, compare=False, default_factory=list)

    def __post_init__(self, factor: int) -> None:
        self.value *= factor

    @functools.cached_property
    def half(self) -> float:
        return self.value / 2


@dataclass
class Box(Generic[T]):
    content: T


class Colour(enum.Enum):
    RED = "r"
    CRIMSON = "r"  # noqa: PIE796 - another name of the same member
    BLUE = ("b", 1)


class Rights(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


class Level(enum.IntEnum):
    LOW = 1


class Pair(NamedTuple):
    left: Point
    right: tuple[int, ...] = ()


class Row(TypedDict):
    name: str
    point: Point


class Record(msgspec.Struct):
    name: str
    line: Line | None = None

    def __post_init__(self) -> None:
        self.name = self.name + "!" if not self.name.endswith("!!") else self.name


class Tagged(msgspec.Struct, frozen=True, tag=True, rename="camel", array_like=True):
    long_name: bytes


@attrs.define
class Size:
    width: int = attrs.field(converter=int)
    unit: Colour = Colour.RED


@attrs.frozen(cache_hash=True)
class Hashed:
    width: int


class Model(pydantic.BaseModel):  # type: ignore[misc]
    model_config = pydantic.ConfigDict(extra="allow")
    name: str
    when: date = date(2024, 1, 1)
    inner: Point | None = None
    _hidden: int = pydantic.PrivateAttr(default=1)


UserId = NewType("UserId", Point)


def marked(value: Record) -> Record:
    value.name = "x"
    return value


def checked_with_half() -> Checked:
    value = Checked(3)
    assert value.half == 3.0
    return value


def hidden(value: Model) -> Model:
    value._hidden = 7
    return value


CASES: list[tuple[Any, Any]] = [
    (Point(1, "a"), Point),
    (Point(1, (2, {3})), Point | None),
    (None, Point | None),
    ([Point(1), Point(2)], list[Point]),
    ({"a": (Point(1), 2)}, dict[str, tuple[Point, int]]),
    ({Pair(Point(1), (2,)).right: Pair(Point(1))}, dict[Any, Pair]),
    (Line(Point(1), Point(2)), Line),
    (checked_with_half(), Checked),
    (Box(Point(1)), Box[Point]),
    ([Box([1])], list[Box[list[int]]]),
    (Colour.CRIMSON, Colour),
    ({Colour.BLUE: Level.LOW}, dict[Colour, Level]),
    (Rights.READ | Rights.WRITE, Rights),
    (Rights(0), Rights),
    (Colour.RED, Literal[Colour.RED]),
    ({"name": "n", "point": Point(1)}, Row),
    (marked(Record("n", Line(Point(1)))), Record),
    (Tagged(b"x"), Tagged | Record),
    (Size(3, Colour.BLUE), Size),  # type: ignore[call-arg]
    (Hashed(3), Hashed),  # type: ignore[call-arg]
    (Model(name="n", inner=Point(1), more=(1, 2)), Model),
    (hidden(Model(name="n")), Model),
    (Point(1), UserId),
    (Point(1), Annotated[Point, ["anything"]]),
    (Point(1), typing.Union[int, "str", Point]),
    (collections.OrderedDict(a=Point(1)), collections.OrderedDict[str, Point]),
    (collections.Counter("aab"), collections.Counter[str]),
    (collections.deque([1, 2], maxlen=2), collections.deque[int]),
    (collections.deque([Point(1)]), collections.deque[Point]),
]


@pytest.mark.parametrize("value, annotation", CASES, ids=lambda case: f"{case!r:.40}")
def test_named_classes_come_back_as_they_were(value: Any, annotation: Any) -> None:
    encoded = CODECS.encode(value, annotation)
    again = CODECS.decode(encoded, annotation)
    assert type(again) is type(value)
    assert again == value
    assert repr(again) == repr(value)
    assert b"tests" not in encoded  # a name, and no path to a module


def test_hashes_and_hidden_state_come_back_too() -> None:
    assert hash(CODECS.decode(CODECS.encode(Hashed(3), Hashed), Hashed)) == hash(Hashed(3))  # type: ignore[call-arg]
    model = hidden(Model(name="n"))
    again = CODECS.decode(CODECS.encode(model, Model), Model)
    assert again._hidden == 7
    assert again.model_fields_set == {"name"}


def test_types_inside_of_classes_are_kept() -> None:
    value = Point((1, [2.0]), {"x": {1}})  # type: ignore[arg-type]
    again = CODECS.decode(CODECS.encode(value, Point), Point)
    assert same((again.x, again.y), ((1, [2.0]), {"x": {1}}))


@pytest.mark.parametrize("annotation", [MISSING, None, Any, dict, list[int], "Point"])
def test_a_class_that_is_not_named_is_refused_with_the_annotation_to_write(annotation: Any) -> None:
    with pytest.raises(NotRecordable, match="-> list\\[Point\\]") as refused:
        CODECS.encode({"a": [Point(1)]}, annotation)
    assert refused.value.path == "result['a'][0]"


def test_the_path_leads_through_fields() -> None:
    with pytest.raises(NotRecordable) as refused:
        CODECS.encode([Line(Point(1, [object()]))], list[Line])
    assert refused.value.path == "result[0].start.y[0]"


@dataclass
class Sphere(Point):
    radius: float = 1


@dataclass
class Loose(dict):  # type: ignore[type-arg]
    name: str = ""


class WithSlot:
    __slots__ = ("hidden",)


@dataclass(slots=True)
class Slotted(WithSlot):
    name: str = ""


def with_attribute() -> Point:
    point = Point(1)
    point.extra = 1  # type: ignore[attr-defined]
    return point


def without_field() -> Point:
    point = Point(1)
    del point.x
    return point


@pytest.mark.parametrize(
    "value, annotation, why",
    [
        (Sphere(1), Point, "return annotation"),
        (Loose(name="n"), Loose, "also a dict"),
        (Slotted(), Slotted, "slot 'hidden'"),
        (with_attribute(), Point, "'extra' is no field"),
        (without_field(), Point, "not set"),
        (Model.model_construct(), Model, "more or less than its fields"),
        (collections.defaultdict(int), collections.defaultdict[str, int], "dict(…)"),
    ],
)
def test_what_holds_more_than_its_fields_is_refused(value: Any, annotation: Any, why: str) -> None:
    with pytest.raises(NotRecordable) as refused:
        CODECS.encode(value, annotation)
    assert why in str(refused.value)


def test_namesakes_are_refused() -> None:
    other: Any = dataclass(type("Point", (), {"__annotations__": {"x": int}}))
    other.__qualname__ = "Point"
    with pytest.raises(NotRecordable, match="several classes named 'Point'"):
        CODECS.encode(Point(1), Point | other)


def test_a_class_that_has_other_fields_now_is_not_read() -> None:
    written = CODECS.encode(Point(1), Point)
    changed: Any = dataclass(type("Point", (), {"__annotations__": {"x": float, "z": int}}))
    changed.__qualname__ = "Point"
    with pytest.raises(NotReadable, match=r"fields \['x', 'y'\].*\['x', 'z'\]"):
        CODECS.decode(written, changed)


@pytest.mark.parametrize("annotation", [MISSING, Line, "Point"])
def test_a_class_that_is_not_named_any_more_is_not_read(annotation: Any) -> None:
    written = CODECS.encode(Point(1), Point)
    if annotation is Line:
        assert CODECS.decode(written, annotation) == Point(1)  # Line holds Points
        return
    with pytest.raises(NotReadable, match=r"'Point'.*does not name"):
        CODECS.decode(written, annotation)


def test_a_member_that_is_gone_is_not_read() -> None:
    written = CODECS.encode(Colour.BLUE, Colour)
    fewer = enum.Enum("Colour", {"RED": "r"})  # type: ignore[misc]
    with pytest.raises(NotReadable):
        CODECS.decode(written, fewer)


# -- the annotation of a function ------------------------------------------------------


def test_an_annotation_in_text_is_looked_up_where_the_function_stands() -> None:
    @dataclass
    class Local:
        x: int

    def made() -> list[Local]:
        return [Local(1)]

    async def made_later() -> Point | None: ...

    assert annotation_of(made) == list[Local]
    assert annotation_of(made_later) == Point | None
    assert annotation_of(step(made_later).func) == Point | None
    assert annotation_of(functools.partial(made)) == list[Local]


def test_methods_and_callable_objects_have_annotations() -> None:
    class Maker:
        def make(self) -> Point:
            return Point(1)

        def __call__(self) -> Line:
            return Line(Point(1))

    assert annotation_of(Maker().make) is Point
    assert annotation_of(Maker()) is Line


def unknown() -> Nowhere: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize("func", [unknown, lambda: 1, len, step])
def test_what_cannot_be_looked_up_counts_as_no_annotation(func: Callable[..., Any]) -> None:
    if func is step:
        assert annotation_of(func) is Any
    else:
        assert annotation_of(func) is MISSING
