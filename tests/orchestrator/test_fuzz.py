"""Whatever stands in a file, it is read or refused with a sentence, and quickly."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from asyncflow.errors import ConfigError
from asyncflow.orchestrator.checks import check_meaning
from asyncflow.orchestrator.config import load_config
from asyncflow.orchestrator.conversion import check_types, converted
from asyncflow.orchestrator.json_text import parse_json
from asyncflow.orchestrator.knots import Knot, Problems
from asyncflow.orchestrator.model import Document
from asyncflow.orchestrator.reading import SUFFIXES
from asyncflow.orchestrator.yaml_text import parse_yaml

# Reads every scalar as text; the same parser as ours.
LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)

WORDS = st.sampled_from(
    [
        *("pipeline", "name", "modules", "path", "script", "depends_on", "resources", "cpus"),
        *("gpus", "execution", "mode", "retry", "retries", "params", "from_env", "checkpoint"),
        *("parallel", "m:A", "s.py:f", "a", "4Gi", "null", "true", "no", "1", "1e400", ".nan"),
        *("&a", "*a", "!!str", "<<", "---", "...", "%TAG", "- ", "? ", ": ", ", ", "\n", "  "),
        *("[", "]", "{", "}", '"', "'", "|", ">", "#", "\t", "\u2028", "\x85", "\ufeff", "\ud800"),
    ]
)
TEXTS = st.lists(WORDS, max_size=60).map("".join) | st.text(max_size=80)


def look_at(knot: Knot | None, problems: Problems) -> None:
    """What :func:`load_config` does with a tree."""
    if knot is None:
        assert problems
        return
    check_types(knot, Document, problems)
    check_meaning(knot, problems)
    if not problems:
        assert converted(knot, Document).pipeline.modules
    for sentence in problems.sentences():
        assert sentence.startswith("f")


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(text=TEXTS)
@example(text="? a\n? b\n")
@example(text="&a *a : 1")
@example(text="{[a]: 1}")
@example(text="{? *a : 1}")
@example(text="a: !<tag:x> [1]\n")
@example(text="%YAML 1.1\n---\nno: yes\n")
@example(text='{"a": 1e400, "a": -}')
@example(text="\ufeff\ufeff")
def test_any_text_is_read_or_refused(suffix: str, text: str) -> None:
    problems = Problems()
    look_at(SUFFIXES[suffix](text, "f", problems), problems)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["a", "b", "m:A", "s.py:f", "4Gi", "parallel", "thread"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("pipeline", "name", "modules", "path", "script", "depends_on", "resources"),
                    *("cpus", "gpus", "memory", "execution", "mode", "retry", "retries", "params"),
                    *("from_env", "timeout", "max_gpus", "logging", "size", "x"),
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@given(value=VALUES, overlay=VALUES, key=st.text(max_size=12) | WORDS, setting=VALUES)
def test_any_mapping_is_taken_or_refused(value: Any, overlay: Any, key: str, setting: Any) -> None:
    described = {"pipeline": {"name": "p", "modules": [value]}}
    for overlays in ([], [overlay if isinstance(overlay, dict) else {"pipeline": overlay}]):
        with suppress(ConfigError):
            assert load_config(described, overlays, {key: setting}).config.modules


@given(value=VALUES)
def test_a_tree_is_what_was_written(value: Any) -> None:
    problems = Problems()
    text = json.dumps(value, allow_nan=False) if is_json(value) else "null"
    knot = parse_json(text, "f", problems)
    if knot is not None:
        assert knot.plain() == json.loads(text)
    else:
        assert "surrogate" in problems.sentences()[0] or "e+" in text or len(text) > 64


def is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


@given(text=TEXTS)
def test_yaml_that_is_taken_is_what_the_safe_loader_reads_but_for_words(text: str) -> None:
    """Where both read a text, they read the same shape."""
    problems = Problems()
    knot = parse_yaml(text, "f", problems)
    if knot is None or problems:
        return
    assert shape_of(knot.plain()) == shape_of(yaml.load(text, LOADER))


def shape_of(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shape_of(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape_of(item) for item in value]
    return "scalar"
