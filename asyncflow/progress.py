"""A live display of a run on the terminal."""

from __future__ import annotations

from asyncflow.run import Run

__all__ = ["show_progress"]


async def show_progress(run: Run) -> None:
    """Show a run until it is over."""
    await run.wait()
