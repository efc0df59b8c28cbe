"""Which of the things that a function holds it changes itself.

A list that a function appends to is its state and not a part of what it is: it counts by its type
only, or every call would make another function of it.
"""

from __future__ import annotations

import ast
import dis
import functools
import inspect
import textwrap
import types
from collections.abc import Iterator
from typing import Final

__all__ = ["changed_attributes", "changed_names"]

# Methods of list, dict, set, bytearray and deque that change what they belong to.
_CHANGING: Final = frozenset(
    (
        *("add", "append", "appendleft", "clear", "difference_update", "discard", "extend"),
        *("extendleft", "insert", "intersection_update", "pop", "popitem", "popleft", "remove"),
        *("reverse", "rotate", "setdefault", "sort", "symmetric_difference_update", "update"),
    )
)
_ATTRIBUTES: Final = frozenset({"LOAD_METHOD", "LOAD_ATTR"})


@functools.lru_cache(maxsize=4096)
def changed_names(code: types.CodeType) -> frozenset[str]:
    """The free variables and parameters that a function assigns to, or whose content it changes."""
    tree = _tree_of(code)
    found = set(_assigned(code))
    if tree is None:
        found.update(_called(code))
    else:
        for target in _changed_targets(tree):
            if isinstance(target, ast.Name):
                found.add(target.id)
    parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return frozenset(found.intersection((*code.co_freevars, *parameters)))


@functools.lru_cache(maxsize=4096)
def changed_attributes(code: types.CodeType) -> frozenset[str]:
    """The attributes of its first parameter that a method assigns to, or changes."""
    tree = _tree_of(code)
    if tree is None or not code.co_argcount:
        return frozenset()
    own = code.co_varnames[0]
    return frozenset(
        target.attr
        for target in (*_changed_targets(tree), *_stored_attributes(tree))
        if isinstance(target, ast.Attribute)
        and isinstance(target.value, ast.Name)
        and target.value.id == own
    )


def _tree_of(code: types.CodeType) -> ast.AST | None:
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, TypeError, SyntaxError, IndexError, ValueError, RecursionError):
        return None


def _changed_targets(tree: ast.AST) -> Iterator[ast.expr]:
    """What stands before ``.append(…)`` and its like, and before ``[…] =``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in _CHANGING:
            yield _root(node.value)
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            yield _root(node)
        elif isinstance(node, ast.AugAssign):
            yield _root(node.target)


def _root(node: ast.expr) -> ast.expr:
    """What holds the part of a part that is assigned to."""
    while isinstance(node, ast.Subscript):
        node = node.value
    return node


def _stored_attributes(tree: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            yield node


def _assigned(code: types.CodeType) -> Iterator[str]:
    """Names that stand in a ``nonlocal`` and are assigned to, here or in a function within."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("STORE_DEREF", "DELETE_DEREF"):
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _assigned(constant)


def _called(code: types.CodeType) -> Iterator[str]:
    """Without source: the names right before a method that changes."""
    before = None
    for instruction in dis.get_instructions(code):
        changing = instruction.opname in _ATTRIBUTES and instruction.argval in _CHANGING
        if changing and before is not None and before.opname.startswith("LOAD_"):
            yield str(before.argval)
        before = instruction
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _called(constant)
