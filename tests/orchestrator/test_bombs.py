"""Files made to bring a process down; each is given to a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALLOWED_BYTES = 1_000_000_000

_VALIDATE = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({ALLOWED_BYTES}, {ALLOWED_BYTES}))
from asyncflow.cli import main
sys.argv = ["asyncflow", "validate", sys.argv[1]]
main()
"""


def deep_lists(opening: str, closing: str) -> str:
    return opening * 25_000 + closing * 25_000


def aliases_of_aliases() -> str:
    lines = ["a: &a [" + ", ".join(["lol"] * 9) + "]"]
    for above, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [" + ", ".join([f"*{above}"] * 9) + "]")
    return "\n".join(lines)


BOMBS = {
    "deep.yaml": (deep_lists("[", "]"), "error: deep.yaml:1:1"),
    "mappings.yaml": (deep_lists("{a: ", "}"), "nests deeper than 100 levels"),
    "blocks.yaml": ("\n".join(" " * n + "-" for n in range(2_000)), "nests deeper than 100"),
    "aliases.yaml": (aliases_of_aliases(), "uses the alias *h; write the value out"),
    "deep.json": (deep_lists("[", "]"), "deep.json:1:102: nests deeper than 100 levels"),
    "deep.toml": ("a = " + deep_lists("[", "]"), "nests so deep that it cannot be read"),
    "dots.toml": (".".join(["a"] * 50_000) + " = 1", "has a key of more than 100 parts"),
    "digits.json": ('{"pipeline": ' + "9" * 1_000_000 + "}", "digits.json:1:78: is not JSON"),
    "digits.toml": ("a = " + "9" * 1_000_000, "digits.toml"),
    "digits.yaml": ("pipeline: " + "9" * 1_000_000, "takes a mapping, got the text '999"),
    "exponent.yaml": ("pipeline: {name: 1e9999, modules: []}", "takes text, got inf"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is Linux's")
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_gets_a_plain_error(name: str, tmp_path: Path) -> None:
    text, sentence = BOMBS[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-c", _VALIDATE, name],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr[-2000:]
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr
