"""Journals of each format version, kept for ever, and what they have to say.

python -m tests.storage.golden        # writes those of the current version, once
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from asyncflow.storage.framing import FORMAT_VERSION, Scan, read_header
from asyncflow.storage.memory import RunMemory
from asyncflow.storage.records import decode
from asyncflow.storage.replay import Teller

FOLDER = Path(__file__).resolve().parents[1] / "data" / "journals"


def told_by(content: bytes) -> dict[str, Any]:
    """All that a journal says, in builtin values."""
    nonce = read_header(content)
    assert nonce is not None
    memory, teller, scan = RunMemory(), Teller("golden"), Scan(content, nonce)
    events: list[Any] = []
    for _, payload in scan:
        record = decode(payload)
        memory.take(record)
        events += [msgspec.to_builtins(event) for event in teller.tell(record)]
    assert scan.ending is not None
    found: dict[str, Any] = json.loads(
        msgspec.json.encode(
            {
                "ending": scan.ending.kind,
                "state": memory.state,
                "lives": len(memory.lives),
                "nodes": {name: msgspec.to_builtins(node) for name, node in memory.nodes.items()},
                "inputs": msgspec.to_builtins(memory.inputs),
                "events": events,
            }
        )
    )
    return found


def write() -> None:
    from tests.storage.test_journal import record_run

    with tempfile.TemporaryDirectory() as scratch:
        content = asyncio.run(record_run(Path(scratch)))
    path = FOLDER / f"everything-v{FORMAT_VERSION}.journal"
    if path.exists():
        raise SystemExit(f"{path} is there already: it must not change")
    path.write_bytes(content)
    path.with_suffix(".json").write_text(json.dumps(told_by(content), indent=1) + "\n")


if __name__ == "__main__":
    write()
