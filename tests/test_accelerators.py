"""GPU names are recognised however they are spelled, and models are told apart."""

from __future__ import annotations

from itertools import pairwise

import pytest

from asyncflow.resources import gpu_matches, gpu_rank


@pytest.mark.parametrize(
    "model, spellings",
    [
        ("A100", ["a100", "nvidia-a100", "NVIDIA A100-SXM4-80GB", "nvidia-a100-80gb"]),
        ("V100", ["nvidia-tesla-v100", "nvidia-v100", "Tesla V100S-PCIE-32GB"]),
        ("H100", ["NVIDIA H100 80GB HBM3", "nvidia_h100_pcie", "H100 NVL"]),
        ("GH200", ["NVIDIA GH200 480GB"]),
        ("MI300X", ["AMD Instinct MI300X"]),
        ("T4", ["nvidia-tesla-t4", "Tesla T4"]),
        ("RTX 4090", ["rtx4090", "NVIDIA GeForce RTX 4090"]),
        ("RTX A6000", ["NVIDIA RTX A6000", "a6000", "rtxa6000"]),
        ("RTX 6000 Ada", ["NVIDIA RTX 6000 Ada Generation"]),
        ("Quadro RTX 6000", ["RTX 6000"]),
    ],
)
def test_a_model_is_recognised_in_every_spelling(model: str, spellings: list[str]) -> None:
    for spelling in spellings:
        assert gpu_matches(model, spelling), spelling
        assert gpu_matches(spelling, model), spelling
        assert gpu_rank(spelling) == gpu_rank(model) is not None


@pytest.mark.parametrize(
    "one, other",
    [
        ("A100", "A10"),
        ("A10", "A10G"),
        ("L4", "L40"),
        ("L40", "L40S"),
        ("H100", "GH200"),
        ("GB200", "B200"),
        ("RTX 6000 Ada", "Quadro RTX 6000"),
        ("P4", "P40"),
        ("A100", "NVIDIA A100-SXM4-40GB MIG 1g.5gb"),
        ("T4", "quantum-1"),
        ("quantum-1", "quantum-2"),
    ],
)
def test_models_whose_names_contain_one_another_do_not_match(one: str, other: str) -> None:
    assert not gpu_matches(one, other)
    assert not gpu_matches(other, one)


def test_newer_and_larger_models_rank_higher() -> None:
    falling = ["GB300", "B200", "H200", "H100", "MI300X", "A100", "L40S", "A40", "A6000", "L40"]
    falling += ["A30", "V100", "A10", "L4", "RTX 4090", "T4", "P100", "P4", "K80", "M60"]
    ranks = [gpu_rank(name) for name in falling]
    assert None not in ranks
    assert all(better > worse for better, worse in pairwise(ranks) if better and worse)


def test_an_unknown_model_has_no_rank_and_matches_only_its_own_name() -> None:
    assert gpu_rank("quantum-1") is None
    assert gpu_rank(None) is None
    assert gpu_matches("Quantum-1", "quantum-1")


def test_no_type_on_either_side_matches_anything() -> None:
    assert gpu_matches(None, "T4")
    assert gpu_matches("T4", None)
