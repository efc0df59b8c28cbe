"""Arrow tables, batches, arrays and schemas, as Arrow's own stream format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pyarrow

from asyncflow.errors import NotRecordable

__all__ = ["CODEC"]

pa: Any = pyarrow
_COLUMN: Final = "0"


class ArrowCodec:
    """The codec with the tag ``arrow``."""

    tag = "arrow"

    def takes(self, value: Any) -> bool:
        kinds = (pa.Table, pa.RecordBatch, pa.Array, pa.ChunkedArray, pa.Schema, pa.DataType)
        return isinstance(value, kinds)

    def encode(self, value: Any) -> Any:
        _check(value)
        if isinstance(value, pa.Schema):
            return ("schema", memoryview(value.serialize()))
        if isinstance(value, pa.DataType):
            return ("type", memoryview(pa.schema([(_COLUMN, value)]).serialize()))
        if isinstance(value, pa.RecordBatch):
            return ("batch", _stream(value.schema, [value]))
        if isinstance(value, pa.Table):
            return ("table", _stream(value.schema, value.to_batches()))
        schema = pa.schema([(_COLUMN, value.type)])
        chunks = value.chunks if isinstance(value, pa.ChunkedArray) else [value]
        batches = [pa.record_batch([chunk], schema=schema) for chunk in chunks]
        return (
            "chunks" if isinstance(value, pa.ChunkedArray) else "array",
            _stream(schema, batches),
        )

    def decode(self, encoded: Any) -> Any:
        form, data = encoded
        if form == "schema":
            return pa.ipc.read_schema(pa.py_buffer(data))
        if form == "type":
            return pa.ipc.read_schema(pa.py_buffer(data)).field(0).type
        with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
            schema, batches = reader.schema, list(reader)
        for batch in batches:
            batch.validate(full=True)
        return _FORMS[form](schema, batches)


def _array(schema: Any, batches: list[Any]) -> Any:
    (batch,) = batches
    return batch.column(0)


def _chunks(schema: Any, batches: list[Any]) -> Any:
    return pa.chunked_array([batch.column(0) for batch in batches], type=schema.field(0).type)


def _batch(schema: Any, batches: list[Any]) -> Any:
    (batch,) = batches
    return batch


_FORMS: Final[dict[str, Any]] = {
    "array": _array,
    "chunks": _chunks,
    "batch": _batch,
    "table": lambda schema, batches: pa.Table.from_batches(batches, schema=schema),
}


def _stream(schema: Any, batches: list[Any]) -> memoryview:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return memoryview(sink.getvalue())


def _check(value: Any) -> None:
    """Extension types would need code of their own to be read."""
    if isinstance(value, pa.DataType):
        types = [value]
    elif isinstance(value, pa.Array | pa.ChunkedArray):
        types = [value.type]
    else:
        schema = value if isinstance(value, pa.Schema) else value.schema
        types = [field.type for field in schema]
    for kind in types:
        for inner in _types_in(kind):
            if isinstance(inner, pa.BaseExtensionType):
                raise NotRecordable(f"Arrow {kind}", "cast it to its storage type")


def _types_in(kind: Any) -> Iterator[Any]:
    yield kind
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        yield from _types_in(kind.value_type)
    else:
        for index in range(kind.num_fields):
            yield from _types_in(kind.field(index).type)


CODEC: Final = ArrowCodec()
