"""The GPU models we know, from the most capable to the least, and how their names are read."""

from __future__ import annotations

import re

__all__ = ["gpu_matches", "gpu_rank"]


_BEST_FIRST = """
gb300 b300 mi355x mi350x
gb200 b200 b100
mi325x
h200
gh200
h100 h800
mi300x mi300a
gaudi3
h20
a100 a800 mi250x mi250
gaudi2
l40s
rtx-pro-6000
a40
a6000 rtx-6000-ada 6000-ada
l40
mi210
a30
v100 v100s mi100
a10g a10
l4
rtx-5090
rtx-4090 rtx-5000-ada a5500 a5000
rtx-5080 rtx-4080
rtx-3090 rtx-4500-ada a4500 quadro-rtx-8000 quadro-rtx-6000 rtx-8000 rtx-6000 titan-rtx titan-v
rtx-5070 rtx-4070 rtx-3080 a4000 rtx-4000-ada
rtx-5060 rtx-4060 rtx-3070 rtx-2080 quadro-rtx-5000 rtx-5000
rtx-3060 rtx-2070 rtx-2000-ada a2000 quadro-rtx-4000 rtx-4000
a16 a2
t4 t4g
rtx-2060 rtx-3050
p100 gp100
p40 p6000
gtx-1080 titan-xp
p4
m40
k80
m60 k40
k20 k10
"""

_TIERS = [line.split() for line in _BEST_FIRST.split("\n") if line]
_RANKS: dict[tuple[str, ...], int] = {
    tuple(model.split("-")): len(_TIERS) - place
    for place, tier in enumerate(_TIERS)
    for model in tier
}
_SAME_MODEL: dict[tuple[str, ...], tuple[str, ...]] = {
    ("v100s",): ("v100",),
    ("6000", "ada"): ("rtx", "6000", "ada"),
    ("rtx", "8000"): ("quadro", "rtx", "8000"),
    ("rtx", "6000"): ("quadro", "rtx", "6000"),
    ("rtx", "5000"): ("quadro", "rtx", "5000"),
    ("rtx", "4000"): ("quadro", "rtx", "4000"),
}
_LONGEST_MODEL = max(map(len, _RANKS))


def gpu_rank(name: str | None) -> int | None:
    """Return how capable a GPU model is, higher meaning better, or None for an unknown one.

    The order is by typical deep-learning throughput of the best variant of each model, and is
    ours; cards of one tier share a rank.

    Parameters:
        name: as users and drivers spell it: `"A100"`, `"nvidia-tesla-v100"`,
            `"NVIDIA A100-SXM4-80GB"`.

    Example:
        >>> gpu_rank("H100") > gpu_rank("nvidia-tesla-t4")
        True
    """
    model = _model(name)
    return None if model is None else _RANKS[model]


def gpu_matches(wanted: str | None, device_type: str | None) -> bool:
    """Return whether a device serves a request for a type of GPU.

    Parameters:
        wanted: the type asked for; None asks for any.
        device_type: the type of the device; None is a declared device that stands for any.

    Example:
        >>> gpu_matches("nvidia-a100", "NVIDIA A100-SXM4-80GB"), gpu_matches("A10", "A100")
        (True, False)
    """
    if wanted is None or device_type is None:
        return True
    model = _model(wanted)
    if model is not None and model == _model(device_type):
        return True
    return wanted.casefold() == device_type.casefold()


def _model(name: str | None) -> tuple[str, ...] | None:
    """Find the longest run of whole tokens that names a known model."""
    spaced = re.sub(r"(rtx|gtx)(?=a?[0-9])", r"\1 ", (name or "").lower())
    tokens: list[str] = re.findall(r"[a-z0-9]+", spaced)
    if "mig" in tokens:  # A slice of a card must not pass for the card.
        return None
    for length in range(_LONGEST_MODEL, 0, -1):
        for start in range(len(tokens) - length + 1):
            model = tuple(tokens[start : start + length])
            if model in _RANKS:
                return _SAME_MODEL.get(model, model)
    return None
