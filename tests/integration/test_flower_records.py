"""How a message lies in Flower's records: in few parts, and as the other side reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.app import Message as FlowerMessage
from flwr.supercore.task_identity import TaskIdentity

from medunlearn_common.errors import Rejected
from medunlearn_common.flower_records import from_records, to_records
from medunlearn_common.messages import Message
from medunlearn_server.flower_app import _to_reply
from medunlearn_server.transport import SiteFailure
from medunlearn_server.waiting import Waiting

LONG = bytes(range(256)) * 5000
FIELDS = {"site_id": "a", "kind": "not the kind", "payload": "text", "round": 3, "sigma": 0.5,
          "last": True, "": "", "field.x": "y"}


@pytest.fixture(autouse=True)
def _within_a_task() -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


@pytest.mark.parametrize("payload", [b"", b"\0short", LONG], ids=["none", "short", "long"])
def test_a_message_arrives_as_it_was(payload: bytes) -> None:
    message = Message(kind="step", fields=FIELDS, payload=payload)
    asked = FlowerMessage(to_records(message), dst_node_id=1, message_type="train")
    assert from_records(asked.content) == message
    asked.metadata.__dict__["_message_id"] = "m"
    answer = FlowerMessage(to_records(message), reply_to=asked)
    assert _to_reply(answer) == message


def test_a_short_message_is_one_table() -> None:
    """Each part is several calls and writes at the SuperLink, at the node and at the app."""
    records = to_records(Message(kind="step", fields=FIELDS, payload=b"x" * 1000))
    assert [type(part) for part in records.values()] == [ConfigRecord]


@pytest.mark.parametrize("records", [
    RecordDict(), RecordDict({"head": ConfigRecord({"kind": "step"})}),
    RecordDict({"head": ConfigRecord({"payload": b""})}),
    RecordDict({"head": ConfigRecord({"kind": "step", "payload": "text"})}),
    RecordDict({"head": ConfigRecord({"kind": "step"}), "numbers": ArrayRecord()}),
])
def test_what_lacks_a_part_is_refused_with_a_code(records: RecordDict) -> None:
    with pytest.raises(Rejected, match="MESSAGE_RECORDS"):
        from_records(records)
    asked = FlowerMessage(RecordDict(), dst_node_id=1, message_type="train")
    asked.metadata.__dict__["_message_id"] = "m"
    assert _to_reply(FlowerMessage(records, reply_to=asked)) == SiteFailure(
        code="SITE_MALFORMED")


SITES = ("a", "b", "c")


def test_an_exchange_leaves_its_times(tmp_path: Path) -> None:
    ticks = iter(range(100))
    waiting = Waiting(times_in=tmp_path / "times", clock=lambda: float(next(ticks)))
    for _ in range(2):
        waiting.asking()
        waiting.asked(SITES)
        for missing in (SITES, SITES[:1], ()):
            waiting.missing(missing)
        waiting.exchanged()
    lines = [json.loads(line) for line in (tmp_path / "times").read_text().splitlines()]
    assert len(lines) == 2
    for line in lines:
        assert line["began"] < line["asked"] < line["answered"][0] < line["ended"]
        assert len(line["answered"]) == 3
