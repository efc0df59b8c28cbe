"""The schema that editors get is the model that checks files, and the docs name all its keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asyncflow.orchestrator.config import load_config
from asyncflow.orchestrator.model import Document
from asyncflow.orchestrator.project import write_project
from asyncflow.orchestrator.schema import json_schema
from tests.test_seed_orchestrator import GPU, QUICK_START, SEQUENTIAL, STRUCTURE

DOCS = Path(__file__).resolve().parents[2] / "docs" / "orchestrator.md"
_ROW = re.compile(r"^\| `([a-z_.\[\]]+)` \| ([^|]*) \|", re.MULTILINE)


def keys_of(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with their fields, down to those that hold no keys of their own."""
    for field in msgspec.structs.fields(kind):
        inner = msgspec.inspect.type_info(field.type)
        below = structs_in(inner)
        name = f"{prefix}{field.encode_name}"
        is_list = isinstance(inner, msgspec.inspect.Metadata) and isinstance(
            inner.type, msgspec.inspect.ListType
        )
        if not below or name.endswith("retry"):
            yield name, field
        for struct in below:
            yield from keys_of(struct.cls, f"{name}{'[]' if is_list else ''}.")


def structs_in(kind: Any) -> list[msgspec.inspect.StructType]:
    if isinstance(kind, msgspec.inspect.Metadata):
        return structs_in(kind.type)
    if isinstance(kind, msgspec.inspect.ListType):
        return structs_in(kind.item_type)
    if isinstance(kind, msgspec.inspect.UnionType):
        return [struct for one in kind.types for struct in structs_in(one)]
    return [kind] if isinstance(kind, msgspec.inspect.StructType) else []


def documented() -> dict[str, str]:
    return {match[1]: match[2].strip() for match in _ROW.finditer(DOCS.read_text("utf-8"))}


def test_the_docs_name_every_key_and_no_other() -> None:
    expected = {name.removeprefix("pipeline.") for name, _ in keys_of(Document)}
    assert {key for key in documented() if key in expected or "." in key} == expected


def test_the_docs_name_the_right_defaults() -> None:
    rows = documented()
    for name, field in keys_of(Document):
        said = rows[name.removeprefix("pipeline.")].strip("`")
        if field.required:
            assert said == "–", name
        elif isinstance(field.default, bool):
            assert said == str(field.default).lower(), name
        elif isinstance(field.default, int | float | str):
            assert (
                said == f"{field.default:g}"
                if not isinstance(field.default, str)
                else (said == field.default)
            ), name


@pytest.mark.parametrize("text", [GPU, QUICK_START, SEQUENTIAL, STRUCTURE])
def test_the_schema_takes_what_the_model_takes(text: str, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="checks a schema as an editor would")
    (tmp_path / "p.yaml").write_text(text, encoding="utf-8")
    jsonschema.validate(load_config(tmp_path / "p.yaml").tree.plain(), json_schema())


def test_the_schema_refuses_unknown_keys_everywhere() -> None:
    definitions = json_schema()["$defs"]
    assert all(one["additionalProperties"] is False for one in definitions.values())
    assert {"path", "script"} <= definitions["ModuleEntry"]["properties"].keys()
    assert definitions["ModuleEntry"]["oneOf"] == [{"required": ["path"]}, {"required": ["script"]}]


def test_every_key_has_a_description() -> None:
    for name, definition in json_schema()["$defs"].items():
        for key, value in definition["properties"].items():
            assert "description" in value or "$ref" in value or "anyOf" in value, f"{name}.{key}"


def test_the_pipelines_in_the_docs_are_right(tmp_path: Path) -> None:
    pages = [DOCS, DOCS.parents[1] / "README.md"]
    blocks = [
        block
        for page in pages
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
        if block.startswith("pipeline:")
    ]
    assert len(blocks) >= 2
    for block in blocks:
        (tmp_path / "p.yaml").write_text(block, encoding="utf-8")
        assert load_config(tmp_path / "p.yaml").config.modules


def test_the_docs_show_what_init_writes(tmp_path: Path) -> None:
    write_project(tmp_path)
    written = (tmp_path / "pipeline.yaml").read_text("utf-8")
    assert written.partition("pipeline:")[2] in DOCS.read_text("utf-8")


def test_the_project_of_init_fits_the_schema(tmp_path: Path) -> None:
    write_project(tmp_path)
    assert load_config(tmp_path / "pipeline.yaml").config.name == "words"
