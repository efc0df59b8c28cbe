"""What operations write down, from whatever process, for tests to read."""

from __future__ import annotations

from pathlib import Path

__all__ = ["note", "noted"]


def note(path: str, text: str) -> None:
    """Append a line to the notes of a project."""
    with Path(path, "notes").open("a") as notes:
        notes.write(text + "\n")


def noted(path: str) -> list[str]:
    """The lines so far."""
    file = Path(path, "notes")
    return file.read_text().splitlines() if file.exists() else []
