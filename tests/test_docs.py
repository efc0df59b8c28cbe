"""The docs are complete and their examples run: what is public appears in them, as code."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]

# Whose keyword parameters a reader must be able to look up.
CALLABLES_WITH_DOCUMENTED_KEYWORDS = (
    "GPUConfig",
    "Pipeline",
    "Pipeline.add_step",
    "Pipeline.run",
    "ResourceRequirements",
    "Retry",
    "Runtime",
    "step",
)
SHELL_BLOCKS_IN_README = 2
MARK_OF_A_RUNNING_BLOCK = "# runs"

FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"(`+)(?!`)(.+?)(?<!`)\1(?!`)")


class Block(NamedTuple):
    """A fenced piece of code in a page."""

    page: Path
    first_line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.first_line}"


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8") if page.exists() else ""


def _blocks(page: Path) -> Iterator[Block]:
    text = _text(page)
    for match in FENCED.finditer(text):
        first_line = text.count("\n", 0, match.start(2)) + 1
        yield Block(page, first_line, match[1], match[2])


BLOCKS = [block for page in PAGES for block in _blocks(page)]
RUNNING_BLOCKS = [
    block
    for block in BLOCKS
    if block.language == "python" and block.code.startswith(MARK_OF_A_RUNNING_BLOCK)
]


def _documented_code() -> str:
    inline = (
        match[2] for page in PAGES for match in INLINE_CODE.finditer(FENCED.sub("", _text(page)))
    )
    return "\n".join([*inline, *(block.code for block in BLOCKS)])


def _undocumented(names: set[str]) -> list[str]:
    assert names, "there is nothing to look for: the test looks in the wrong place"
    code = _documented_code()
    return sorted(
        name for name in names if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", code)
    )


def _public_classes(module_name: str, kind: type) -> set[str]:
    module = importlib.import_module(module_name)
    return {
        name
        for name, found in vars(module).items()
        if inspect.isclass(found)
        and issubclass(found, kind)
        and found.__module__ == module_name
        and not name.startswith("_")
    }


def _keywords(dotted: str) -> set[str]:
    found: Any = importlib.import_module("asyncflow")
    for name in dotted.split("."):
        found = getattr(found, name)
    return {
        name
        for name, parameter in inspect.signature(found).parameters.items()
        if name != "self"
        and not name.startswith("_")
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


def _commands_and_options(command: Any) -> Iterator[str]:
    for parameter in command.params:
        spellings = [*parameter.opts, *parameter.secondary_opts]
        yield from (spelling for spelling in spellings if spelling.startswith("--"))
    for name, nested in getattr(command, "commands", {}).items():
        yield name
        yield from _commands_and_options(nested)


def test_every_public_name_appears() -> None:
    public = set(importlib.import_module("asyncflow").__all__) - {"__version__"}
    assert not _undocumented(public)


def test_every_event_appears() -> None:
    assert not _undocumented(_public_classes("asyncflow.events", msgspec.Struct))


def test_every_error_appears() -> None:
    assert not _undocumented(_public_classes("asyncflow.errors", BaseException))


@pytest.mark.parametrize("name", CALLABLES_WITH_DOCUMENTED_KEYWORDS)
def test_every_keyword_appears(name: str) -> None:
    assert not _undocumented(_keywords(name))


def test_every_command_and_option_of_the_cli_appears() -> None:
    typer_main = importlib.import_module("typer.main")
    cli = importlib.import_module("asyncflow.cli")
    shown = set(_commands_and_options(typer_main.get_command(cli.app)))
    completion = {"--install-completion", "--show-completion"}  # the library's own options
    assert not _undocumented(shown - completion)


def test_the_readme_sets_up_in_two_shell_blocks() -> None:
    shell = [block for block in BLOCKS if block.page == README and block.language == "sh"]
    assert len(shell) == SHELL_BLOCKS_IN_README


def test_the_readme_shows_an_example_that_runs() -> None:
    assert any(block.page == README for block in RUNNING_BLOCKS)


@pytest.mark.parametrize("block", RUNNING_BLOCKS, ids=str)
def test_an_example_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Padded with empty lines, so that a traceback points at the line of the page.
    source = "\n" * (block.first_line - 1) + block.code
    exec(compile(source, str(block.page), "exec"), {"__name__": "__main__"})
