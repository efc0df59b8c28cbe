"""Lanes: where the functions of steps run."""
