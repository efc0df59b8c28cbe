"""Files that are wrong in every way we could think of, and what is said of each.

Beside each file of ``wrong/`` stands, as ``.txt``, every sentence that the file deserves. To accept
new ones: ``REWRITE=1 pytest tests/orchestrator/test_wrong_files.py``, and read the difference.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from asyncflow.errors import ConfigError
from asyncflow.orchestrator import PipelineOrchestrator
from asyncflow.orchestrator.validation import faults_of
from tests.orchestrator.projects import Project

WRONG = Path(__file__).parent / "wrong"
SUFFIXES = (".yaml", ".json", ".toml", ".ini")
FILES = sorted(path.name for path in WRONG.iterdir() if path.suffix in SUFFIXES)


def what_is_said_of(file: str) -> str:
    with pytest.raises(ConfigError) as caught:
        faults_of(PipelineOrchestrator(file))
    return "".join(f"{problem}\n" for problem in caught.value.problems)


@pytest.mark.parametrize("file", FILES)
def test_every_fault_of_a_file_is_named(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(WRONG)
    expected = WRONG / f"{file}.txt"
    said = what_is_said_of(file)
    if os.environ.get("REWRITE"):
        expected.write_text(said, encoding="utf-8")
    assert said == expected.read_text(encoding="utf-8")


def test_the_corpus_is_as_large_as_it_should_be() -> None:
    assert len(FILES) >= 60


GOOD = b'pipeline:\n  name: p\n  modules: [{name: a, path: "m:A"}]\n'


def write_utf_16(path: Path) -> None:
    path.write_bytes(GOOD.decode().encode("utf-16"))


def write_utf_32(path: Path) -> None:
    path.write_bytes(GOOD.decode().encode("utf-32"))


def write_latin_1(path: Path) -> None:
    path.write_bytes(GOOD.replace(b"name: p", "name: caf\u00e9".encode("latin-1")))


def write_nul(path: Path) -> None:
    path.write_bytes(GOOD.replace(b"name: p", b"name: p\0"))


def write_control_character(path: Path) -> None:
    path.write_bytes(GOOD.replace(b"name: p", b"name: \x1b[31mred"))


def write_100_mb(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(100 * 1024**2)


def write_many_values(path: Path) -> None:
    path.write_bytes(b"[" + b"0, " * 100_001 + b"0]\n")


def write_program(path: Path) -> None:
    path.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(64))


def make_folder(path: Path) -> None:
    path.mkdir()


def leave_out(path: Path) -> None: ...


GENERATED: dict[str, tuple[Callable[[Path], None], str]] = {
    "utf-16": (write_utf_16, "p.yaml:1:1: is encoded as UTF-16; save it as UTF-8"),
    "utf-32": (write_utf_32, "p.yaml:1:1: is encoded as UTF-32; save it as UTF-8"),
    "latin-1": (
        write_latin_1,
        "p.yaml:2:12: is not encoded as UTF-8: the byte 0xe9 cannot stand here",
    ),
    "nul": (
        write_nul,
        "p.yaml:2:10: holds the character '\\x00', which no text file has; is it a text file?",
    ),
    "control character": (
        write_control_character,
        "p.yaml:2:9: holds the character '\\x1b', which no text file has; is it a text file?",
    ),
    "100 MB": (
        write_100_mb,
        "p.yaml: is larger than 4 MiB, which no pipeline is; is it the right file?",
    ),
    "many values": (
        write_many_values,
        "p.yaml:1:300002: holds more than 100,000 values; split the pipeline up",
    ),
    "a program": (
        write_program,
        "p.yaml:1:1: holds the character '\\x7f', which no text file has; is it a text file?",
    ),
    "a folder": (make_folder, "p.yaml: is a folder; name the file in it"),
    "nothing": (leave_out, "p.yaml: there is no such file"),
}


@pytest.mark.parametrize("make, sentence", GENERATED.values(), ids=list(GENERATED))
def test_what_is_no_text_gets_one_plain_sentence(
    make: Callable[[Path], None], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "p.yaml")
    assert what_is_said_of("p.yaml") == f"{sentence}\n"


def test_a_script_that_is_no_python_is_said_to_be_none(project: Project) -> None:
    project.write("broken.py", "def f(context:\n")
    orchestrator = project.orchestrator(
        """
        pipeline:
          name: p
          modules: [{name: a, script: "broken.py:f"}]
        """
    )
    with pytest.raises(ConfigError, match=r"broken.py is no Python: .* \(line 1\)"):
        faults_of(orchestrator)


def test_a_name_with_a_nul_byte_is_no_file() -> None:
    assert what_is_said_of("p\0.yaml") == "p\0.yaml: cannot be read: embedded null byte\n"


def test_a_byte_order_mark_of_utf_8_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD)
    assert PipelineOrchestrator(path).name == "p"


def test_looking_at_a_file_imports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(WRONG)
    (WRONG / "parts" / "things.py").read_text(encoding="utf-8").index("assert not __name__")
    described = {
        "pipeline": {
            "name": "p",
            "modules": [
                {"name": "a", "path": "parts.things:Good"},
                {"name": "b", "script": "parts/functions.py:calculate", "depends_on": ["a"]},
            ],
        }
    }
    orchestrator = PipelineOrchestrator(described)
    assert faults_of(orchestrator) == []
    assert "b" in str(orchestrator.plan())
    assert "b" in orchestrator.visualize("mermaid")


def test_a_module_that_is_not_installed_here_is_only_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(WRONG)
    described = {"pipeline": {"name": "p", "modules": [{"name": "a", "path": "part.things:A"}]}}
    assert faults_of(PipelineOrchestrator(described)) == [
        "the configuration: module 'part' is not to be found here; did you mean 'parts'?"
    ]
