"""A coordinator's ServerApp that greets whoever is there and writes down what comes back."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Say HELLO, then something that is not sealed properly; one line of JSON each."""
    # Flower puts a bundle first on the path; of one with modules named as ours, the hospital's
    # side is looked at, and this side needs the installed ones.
    bundles = Path(os.environ["FLWR_HOME"], "apps")
    sys.path[:] = [entry for entry in sys.path if not Path(entry).is_relative_to(bundles)]
    from medunlearn_common.flower_records import from_records, to_records
    from medunlearn_common.messages import Message as OurMessage

    out, roster = Path(os.environ["PROBE_OUT"]), Path(os.environ["PROBE_ROSTER"]).read_bytes()
    deadline = time.monotonic() + 90
    while not (nodes := list(grid.get_node_ids())) and time.monotonic() < deadline:
        time.sleep(0.2)
    for kind, message_type, payload in (
        ("hello", "query.hello", roster), ("sealed", "train.sealed", b"Jane Roe"),
    ):
        ours = OurMessage(kind=kind, fields={"round": 0}, payload=payload)
        asked = Message(to_records(ours), dst_node_id=nodes[0], message_type=message_type, ttl=90.0)
        began = time.monotonic()
        found = _answer(
            grid, str(next(iter(grid.push_messages([asked])))), deadline, from_records)
        with out.open("a") as stream:
            stream.write(json.dumps({**found, "seconds": time.monotonic() - began}) + "\n")


def _answer(
    grid: Grid, message_id: str, deadline: float, read: Callable[[Any], Any]
) -> dict[str, object]:
    while time.monotonic() < deadline:
        for answer in grid.pull_messages([message_id]):
            if answer.has_error():
                return {"error": answer.error.code, "reason": str(answer.error.reason)}
            found = read(answer.content)
            return {"kind": found.kind, **found.fields}
        time.sleep(0.05)
    return {"error": "silent"}
