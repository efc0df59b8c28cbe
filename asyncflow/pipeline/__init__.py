"""Pipelines of steps: the Python-first dialect."""
