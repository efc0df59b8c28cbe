"""How a run is shown to people: a live display on a terminal, plain lines elsewhere."""

from asyncflow.progress.showing import show_progress
from asyncflow.progress.words import shown

__all__ = ["show_progress", "shown"]
