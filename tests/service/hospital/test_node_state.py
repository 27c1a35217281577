"""Flower's SuperNode waits for an answer without end: none may be waited for in vain."""

from __future__ import annotations

from datetime import timedelta

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode, SubStatus
from flwr.supercore.constant import TaskType
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.nodestate import NodeStateFactory, nodestate_factory
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

from medunlearn_client.service import node_state
from medunlearn_client.service.node_state import AnsweringNodeState

RUN, NODE = 7, 11


class Node:
    """A node's state with one message in it, as the node's loop and an app's process see it."""

    def __init__(self) -> None:
        self.state = AnsweringNodeState(ObjectStoreFactory().store())
        self.state.set_node_id(NODE)
        self.message, self.task = self.receive("first")

    def receive(self, word: str) -> tuple[Message, int]:
        """A message that came from the coordinator, and its task."""
        task = self.state.create_task(task_type=TaskType.CLIENT_APP, run_id=RUN)
        assert task is not None
        message = Message(content(word), dst_node_id=NODE, message_type="train.step")
        self.keep(message, whole=True)
        return message, task

    def keep(self, message: Message, *, whole: bool) -> None:
        message.metadata.__dict__["_message_id"] = message.object_id
        store = self.state.object_store
        store.preregister(RUN, get_object_tree(message))
        objects = list(get_all_nested_objects(message).items())
        for object_id, part in objects if whole else objects[:1]:
            store.put(object_id, part.deflate())
        self.state.store_message(message)

    def work(self, task: int) -> None:
        """A process takes up the task."""
        assert self.state.claim_task(task) and self.state.activate_task(task)

    def fetch(self) -> None:
        """It fetches its message."""
        (found,) = self.state.get_messages_legacy(run_ids=[RUN], is_reply=False, limit=1)
        self.state.record_message_processing_start(found.metadata.message_id)

    def answer(self, *, whole: bool = True) -> Message:
        reply = Message(content("answer"), reply_to=self.message)
        self.state.record_message_processing_end(self.message.metadata.message_id)
        self.keep(reply, whole=whole)
        return reply

    def die(self, task: int) -> None:
        """Its heartbeats have ended a while ago."""
        self.state.task_token_store[task].active_until = now() - timedelta(seconds=1)

    def answers(self) -> list[Message]:
        """What the node's loop finds when it looks for answers."""
        return list(self.state.get_messages_legacy(is_reply=True))


def content(word: str) -> RecordDict:
    return RecordDict({"word": ConfigRecord({"word": word})})


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the ServerApp that made the messages; a node has none, and sees only their bytes."""
    for name, value in (("_run_id", RUN), ("_node_id", 1), ("_task_id", 1)):
        monkeypatch.setattr(TaskIdentity, name, value)


@pytest.fixture
def node() -> Node:
    return Node()


def has_crashed(found: list[Message], message: Message) -> bool:
    (reply,) = found
    return (reply.has_error() and reply.error.code == ErrorCode.CLIENT_APP_CRASHED
            and reply.metadata.reply_to_message_id == message.metadata.message_id)


def test_a_process_that_died_before_it_fetched_its_message_is_answered_for(node: Node) -> None:
    node.work(node.task)
    assert node.answers() == []
    node.die(node.task)
    assert has_crashed(node.answers(), node.message)
    assert node.answers() == []
    message_id = node.message.metadata.message_id
    assert node.state.object_store.get(message_id) is None  # else each would stay in memory
    assert node.state.get_message_processing_duration(message_id) >= 0.0


def test_one_that_died_after_that_is_as_before(node: Node) -> None:
    node.work(node.task)
    node.fetch()
    assert node.answers() == []
    node.die(node.task)
    assert has_crashed(node.answers(), node.message)
    assert node.answers() == []


def test_an_answer_is_handed_out_once_it_is_whole(node: Node) -> None:
    node.work(node.task)
    node.fetch()
    reply = node.answer(whole=False)
    assert node.answers() == []
    node.keep(reply, whole=True)
    (found,) = node.answers()
    assert found.metadata.message_id == reply.metadata.message_id
    assert node.answers() == []


def test_the_part_of_an_answer_that_a_dead_process_brought_is_none(node: Node) -> None:
    node.work(node.task)
    node.fetch()
    reply = node.answer(whole=False)
    node.die(node.task)
    assert has_crashed(node.answers(), node.message)
    assert node.state.object_store.get(reply.metadata.message_id) is None


def test_a_whole_answer_counts_whatever_becomes_of_its_process(node: Node) -> None:
    node.work(node.task)
    node.fetch()
    reply = node.answer()
    node.die(node.task)
    (found,) = node.answers()
    assert found.metadata.message_id == reply.metadata.message_id and not found.has_error()


def test_a_process_that_gave_up_without_an_answer_is_answered_for(node: Node) -> None:
    node.work(node.task)
    assert node.state.finish_task(node.task, SubStatus.FAILED, "it could not fetch its message")
    assert has_crashed(node.answers(), node.message)


def test_a_message_whose_process_is_at_work_or_to_come_is_waited_for(node: Node) -> None:
    """Also after an earlier one died: each has a task of its own."""
    node.work(node.task)
    node.fetch()
    node.answer()
    assert len(node.answers()) == 1
    _, second = node.receive("second")
    node.die(node.task)  # it ended before it could say that it had finished
    assert node.answers() == []
    node.work(second)
    node.fetch()
    assert node.answers() == []
    node.die(second)
    assert len(node.answers()) == 1


def test_another_runs_answers_are_left_alone(node: Node) -> None:
    node.work(node.task)
    node.die(node.task)
    assert list(node.state.get_messages_legacy(is_reply=True, run_ids=[RUN + 1])) == []
    assert has_crashed(list(node.state.get_messages_legacy(is_reply=True, run_ids=[RUN])),
                       node.message)


def test_flowers_factory_makes_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else all of the above would be about nobody."""
    monkeypatch.setattr(nodestate_factory, "InMemoryNodeState", InMemoryNodeState)
    node_state.install()
    assert type(NodeStateFactory(ObjectStoreFactory()).state()) is AnsweringNodeState


def test_an_error_is_whole(node: Node) -> None:
    """It has no content; a node that waited for some would wait for ever."""
    node.work(node.task)
    node.fetch()
    reply = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "no"), reply_to=node.message)
    node.keep(reply, whole=True)
    (found,) = node.answers()
    assert found.has_error()
