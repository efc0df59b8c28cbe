"""What clean-up and alert steps are told of the run they belong to."""

from __future__ import annotations

import msgspec

__all__ = ["RunFailure"]


class RunFailure(msgspec.Struct, frozen=True):
    """Received by the parameter of a step that is annotated ``RunFailure``.

    Only steps with ``when="failure"`` or ``when="always"`` may have one. Where nothing
    failed, and the run was not cancelled, the parameter is None.

    Attributes:
        run_id, pipeline_name: of the run.
        state: ``"failed"`` or ``"cancelled"``.
        reason: why the run was stopped; "" where it goes on (``collect_all``).
        errors: what went wrong so far, by node.
    """

    run_id: str
    pipeline_name: str
    state: str
    reason: str
    errors: dict[str, BaseException]
