"""Looks for answers: only where one is complete, and everywhere now and then."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.app import Message as FlowerMessage
from flwr.supercore.inflatable.inflatable_object import get_object_id
from flwr.supercore.inflatable.inflatable_utils import (
    inflate_object_from_contents,
    validate_object_content,
)
from flwr.supercore.task_identity import TaskIdentity
from test_gateway import OddSuperLink, known, node_key

from medunlearn_common.flower_records import to_records
from medunlearn_common.messages import Message
from medunlearn_server import flower_app as server_side
from medunlearn_server.answered import ANSWERED_FILE, NODES_FILE, AnswerBoard, Answered
from medunlearn_server.service.config import LimitsSection
from medunlearn_server.service.gateway import ANSWER, PULL, Gateway
from medunlearn_server.service.node_keys import NodeKeys
from medunlearn_server.transport import SITE_SILENT, SiteFailure


@dataclass
class Clock:
    """Both clocks of :class:`Answered`, in seconds."""

    now: float = 100.0

    def ns(self) -> int:
        return int(self.now * 1e9)

    def s(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _within_a_task() -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board(tmp_path: Path, clock: Clock) -> AnswerBoard:
    (tmp_path / NODES_FILE).write_text(json.dumps({"a": ["digest", "11"], "b": ["digest", "22"]}))
    return AnswerBoard(tmp_path / ANSWERED_FILE, clock=clock.ns)


@pytest.fixture
def answered(tmp_path: Path, clock: Clock) -> Answered:
    found = Answered(tmp_path, clock=clock.ns, monotonic=clock.s)
    found.asked()
    return found


def bring(board: AnswerBoard, clock: Clock, site: str) -> None:
    """A whole answer passes."""
    clock.now += 1.0
    board.begins(site)
    board.asks_again(site)


def test_a_complete_answer_is_looked_for_once(
    board: AnswerBoard, answered: Answered, clock: Clock
) -> None:
    assert answered.addresses(within_s=60.0) == frozenset()
    bring(board, clock, "a")
    assert answered.addresses(within_s=60.0) == {"11"}
    assert answered.addresses(within_s=60.0) == frozenset()
    bring(board, clock, "b")
    assert answered.addresses(within_s=60.0) == {"22"}


def test_an_answer_that_is_still_arriving_is_left_alone(
    board: AnswerBoard, answered: Answered
) -> None:
    board.asks_again("a")  # it has brought nothing
    board.begins("b")  # and of this one parts are missing
    assert answered.addresses(within_s=60.0) == frozenset()


def test_answers_of_an_earlier_exchange_do_not_count(
    board: AnswerBoard, answered: Answered, clock: Clock
) -> None:
    bring(board, clock, "a")
    clock.now += 1.0
    answered.asked()
    assert answered.addresses(within_s=60.0) == frozenset()


def test_everything_is_looked_at_now_and_then(
    board: AnswerBoard, answered: Answered, clock: Clock
) -> None:
    """A gateway that sees nothing, a site it does not know: nothing waits for the deadline."""
    bring(board, clock, "unknown")
    assert answered.addresses(within_s=3.0) == frozenset()
    clock.now += 3.0
    assert answered.addresses(within_s=3.0) is None
    assert answered.addresses(within_s=3.0) == frozenset()


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"a": "soon"}', '{"a": null}', "\xff"])
def test_a_board_that_says_nothing_means_that_everybody_is_looked_at(
    tmp_path: Path, clock: Clock, text: str | None
) -> None:
    if text is not None:
        (tmp_path / ANSWERED_FILE).write_text(text, encoding="latin-1")
    found = Answered(tmp_path, clock=clock.ns, monotonic=clock.s)
    found.asked()
    assert found.addresses(within_s=60.0) is None
    assert Answered().addresses(within_s=60.0) is None


@pytest.mark.parametrize("text", [None, "", "[]", '{"a": 11}'])
def test_nodes_that_nobody_knows_are_found_by_the_look_at_all(
    tmp_path: Path, board: AnswerBoard, answered: Answered, clock: Clock, text: str | None
) -> None:
    (tmp_path / NODES_FILE).unlink()
    if text is not None:
        (tmp_path / NODES_FILE).write_text(text)
    bring(board, clock, "a")
    assert answered.addresses(within_s=60.0) == frozenset()


@pytest.mark.parametrize(("status", "noted"), [(200, True), (401, False), (500, False)])
def test_the_gateway_notes_an_answer_once_its_node_asks_for_work_again(
    tmp_path: Path, status: int, noted: bool
) -> None:
    """And only if the SuperLink, which checks signatures, took the answer."""
    headers = known(node_key(tmp_path / "nodes", "hospital-0"))
    superlink = OddSuperLink(tmp_path, status=status)
    path = tmp_path / ANSWERED_FILE
    seen: list[Any] = []

    async def exchange() -> None:
        gateway = Gateway(
            superlink=f"127.0.0.1:{superlink.port}", certificate=superlink.certificate,
            keys=NodeKeys(tmp_path / "nodes"), limits=LimitsSection(),
            wake_file=tmp_path / "pushed", board=AnswerBoard(path),
        )
        transport = httpx.ASGITransport(gateway, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="https://gateway") as client:
            for call in (PULL, ANSWER, PULL):
                await client.post(call, headers=headers, content=b"x")
                seen.append(json.loads(path.read_text()))
        await gateway.close()

    try:
        asyncio.run(exchange())
    finally:
        superlink.stop()
    assert seen[:2] == [{}, {}]
    assert set(seen[2]) == ({"hospital-0"} if noted else set())


@dataclass
class SlowGrid:
    """A grid that notes which looks it was asked for."""

    looks: list[list[str]] = field(default_factory=list)
    there: set[str] = field(default_factory=set)
    pushed: dict[str, FlowerMessage] = field(default_factory=dict)

    def push_messages(self, messages: Iterable[FlowerMessage]) -> Iterable[str]:
        for message in messages:
            name = f"m{message.metadata.dst_node_id}"
            message.metadata.__dict__["_message_id"] = name
            self.pushed[name] = message
            yield name

    def pull_messages(self, names: Iterable[str]) -> Iterable[FlowerMessage]:
        self.looks.append(sorted(names))
        here = [name for name in self.looks[-1] if name in self.there]
        return [FlowerMessage(to_records(Message(kind="hello")), reply_to=self.pushed[name])
                for name in here]


def test_a_transport_looks_where_an_answer_is_complete_and_at_the_end_at_all(
    tmp_path: Path, board: AnswerBoard
) -> None:
    grid = SlowGrid(there={"m11", "m22"})
    steps = iter(("a", "", "b"))

    class Told(Answered):
        def addresses(self, *, within_s: float) -> frozenset[str] | None:
            site = next(steps, "")
            return frozenset({"a": ["11"], "b": ["22"]}.get(site, []))

    transport = server_side.FlowerTransport(
        grid, poll_s=0.001, answered=Told())  # type: ignore[arg-type]
    asked = dict.fromkeys(("11", "22", "33"), Message(kind="hello"))
    replies = transport.exchange(asked, deadline_s=0.1)
    assert grid.looks == [["m11"], ["m22"], ["m33"]]
    assert replies["33"] == SiteFailure(code=SITE_SILENT)
    assert isinstance(replies["11"], Message)


def test_one_hospitals_broken_answer_costs_no_other_its_own(tmp_path: Path) -> None:
    """Flower's store takes a message whose parts do not fit; the grid that puts it together raises,
    with every answer of that look lost. The run died of it, and again after each restart."""
    with pytest.raises(ValueError):
        inflate_object_from_contents(*broken_message())

    class Grid(SlowGrid):
        def pull_messages(self, names: Iterable[str]) -> Iterable[FlowerMessage]:
            found = super().pull_messages(names)
            if "m22" in self.looks[-1]:
                inflate_object_from_contents(*broken_message())
            self.there -= set(self.looks[-1])  # an answer is handed out once
            return found

    transport = server_side.FlowerTransport(
        Grid(there={"m11", "m22", "m33"}), poll_s=0.001)  # type: ignore[arg-type]
    asked = dict.fromkeys(("11", "22", "33"), Message(kind="hello"))
    replies = transport.exchange(asked, deadline_s=5.0)
    assert replies["22"] == SiteFailure(code="SITE_MALFORMED")
    assert isinstance(replies["11"], Message) and isinstance(replies["33"], Message)


def broken_message() -> tuple[str, dict[str, bytes]]:
    """Id and parts of a message that Flower's store has looked at and kept."""
    child = "0" * 64
    content = f"Message {child} 2".encode() + b"\x00\xff\xff"
    validate_object_content(content)
    return get_object_id(content), {get_object_id(content): content, child: b"RecordDict  0\x00"}


def test_a_superlink_that_is_away_is_no_hospitals_fault() -> None:
    class Grid(SlowGrid):
        def pull_messages(self, names: Iterable[str]) -> Iterable[FlowerMessage]:
            raise httpx.ConnectError("refused")

    transport = server_side.FlowerTransport(Grid(), poll_s=0.001)  # type: ignore[arg-type]
    with pytest.raises(httpx.ConnectError):
        transport.exchange({"11": Message(kind="hello")}, deadline_s=5.0)
