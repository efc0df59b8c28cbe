"""The JSON Schema of a pipeline's file, derived from the model that also checks it."""

from __future__ import annotations

from typing import Any

import msgspec

from asyncflow.orchestrator.model import Document

__all__ = ["json_schema"]


def json_schema() -> dict[str, Any]:
    """What ``asyncflow schema`` prints: for editors, and for whoever generates such files.

    Example:
        >>> json_schema()["title"]
        'asyncflow pipeline'
    """
    schema = msgspec.json.schema(Document)
    module = schema["$defs"]["ModuleEntry"]
    # The one thing that the types cannot say.
    module["oneOf"] = [{"required": ["path"]}, {"required": ["script"]}]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "asyncflow pipeline",
        **schema,
    }
