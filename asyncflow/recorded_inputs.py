"""What a run was given: recorded, compared when it is resumed, and filled in where left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from asyncflow.engine.deferring import keep
from asyncflow.engine.restoring import Values
from asyncflow.errors import NotReadable, NotRecordable, RunConflict, StorageError
from asyncflow.graph.node import MISSING
from asyncflow.request import RunRequest
from asyncflow.secret import Secret
from asyncflow.storage.codecs import Codecs
from asyncflow.storage.fs import Directory
from asyncflow.storage.records import Blob, Inputs

__all__ = ["encode_inputs", "with_recorded_inputs"]

Encoded = Mapping[str, bytes | Blob | None]


def encode_inputs(request: RunRequest, codecs: Codecs, blobs: Directory) -> Inputs:
    """What a run is given, as it is recorded; secrets and what no codec takes as None."""

    def one(value: Any) -> bytes | Blob | None:
        if isinstance(value, Secret):
            return None
        try:
            return keep(codecs, blobs, value, type(value))
        except NotRecordable:
            return None

    return Inputs(
        {name: one(value) for name, value in request.inputs.items()},
        {name: one(value) for name, value in request.given.items()},
    )


def with_recorded_inputs(
    request: RunRequest, run_id: str, known: Inputs, encoded: Inputs, values: Values
) -> RunRequest:
    """The request with the inputs of the run that is there, where none were given.

    Or none but those that were not recorded, such as a secret.

    Raises:
        RunConflict: others were given, or what has to be given again was not.
    """
    comparison = _Comparison(run_id, values)
    comparison.check("given", known.given, encoded.given, request.given)
    given = request.inputs
    if not known.inputs or any(known.inputs.get(name, b"") is not None for name in given):
        comparison.check("inputs", known.inputs, encoded.inputs, given)
        return request
    left_out = {name: kept for name, kept in known.inputs.items() if name not in given}
    read = _read(request, run_id, left_out, values)
    return msgspec.structs.replace(request, inputs={**read, **given})


def _read(request: RunRequest, run_id: str, known: Encoded, values: Values) -> dict[str, Any]:
    found: dict[str, Any] = {}
    missing: list[str] = []
    declared = request.graph.inputs or {}
    for name, kept in known.items():
        try:
            if kept is None:
                missing.append(name)
            else:
                found[name] = values.decode(kept, declared.get(name, MISSING))
        except NotReadable:
            missing.append(name)
    if missing:
        raise RunConflict(
            f"run {run_id!r} was given {', '.join(map(repr, missing))}, which cannot be read back "
            "(a secret is never recorded, and other values only if a codec takes them); pass "
            "it again in inputs=",
            run_id=run_id,
        )
    return found


class _Comparison:
    """Compares what a run was given with what it is given now."""

    def __init__(self, run_id: str, values: Values) -> None:
        self._run_id = run_id
        self._values = values

    def check(self, what: str, known: Encoded, now: Encoded, given: Mapping[str, Any]) -> None:
        """Raise RunConflict if the two differ."""
        different = [name for name in {**known, **now} if self._differs(name, known, now, given)]
        if different:
            raise RunConflict(
                f"there is a run {self._run_id!r} with other {what}: "
                f"{', '.join(map(repr, different))}; take another run id, the same {what}, or "
                "on_existing='restart'",
                run_id=self._run_id,
            )

    def _differs(self, name: str, known: Encoded, now: Encoded, given: Mapping[str, Any]) -> bool:
        if name not in known or name not in now:
            return True
        before, after = known[name], now[name]
        if before is None or after is None or before == after:
            return False  # what cannot be recorded cannot be compared either
        try:
            # The same dict in another order, say.
            return bool(self._values.decode(before, type(given[name])) != given[name])
        except (NotReadable, StorageError):
            return True
        except Exception:  # noqa: BLE001 - what compares is the user's, an array for one
            return True
