"""Which texts are versions."""

from __future__ import annotations

import re
from typing import Any, Final

from asyncflow.errors import GraphError

__all__ = ["NAME", "check_version"]

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


def check_version(version: Any) -> str:
    """A version that can be the name of a file.

    Raises:
        GraphError: it can not.
    """
    if not isinstance(version, str) or NAME.fullmatch(version) is None:
        raise GraphError(
            f"a version is a short text of letters, digits, dots, dashes, + and _, such as "
            f"'v0.1.0', got {version!r}"
        )
    return version
