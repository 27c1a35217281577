"""What Flower's SuperNode keeps of the message under way, so that it waits for no dead process.

The node hands on one message at a time and waits for its answer without end. A process that dies
once it has taken up its task, but before it has fetched the message, leaves none, for Flower
answers in its place only where the message was fetched; and of one that dies while it brings its
answer, the node waits for the rest. Either would keep the hospital out until somebody starts its
service anew.

Guarantees:
    * As soon as no process is at work on a run, nor about to be, each of the run's messages has an
      answer: the process's own if it is whole, else Flower's CLIENT_APP_CRASHED.
    * An answer is handed to the node once all of it is there.
"""

from __future__ import annotations

from collections.abc import Sequence

from flwr.app import Message
from flwr.common.constant import Status
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.object_store.object_store import NoObjectInStoreError
from flwr.supernode.nodestate import nodestate_factory
from flwr.supernode.nodestate.in_memory_nodestate import (
    CLIENT_APP_CRASHED_ERROR,
    InMemoryNodeState,
    MessageEntry,
)

_AT_WORK = (Status.PENDING, Status.STARTING, Status.RUNNING)


class AnsweringNodeState(InMemoryNodeState):
    """Flower's own, but for what the node's loop waits for."""

    def get_messages_legacy(
        self, *, run_ids: Sequence[int] | None = None, is_reply: bool | None = None,
        limit: int | None = None,
    ) -> Sequence[Message]:
        """Messages that were not handed out before; of the answers, all that are whole."""
        if not is_reply:
            return super().get_messages_legacy(run_ids=run_ids, is_reply=is_reply, limit=limit)
        self._answer_for_the_dead()
        with self.lock_msg_store:
            whole = [
                entry for entry in self.msg_store.values()
                if _answers(entry) and not entry.is_retrieved and self._is_whole(entry)
                and (run_ids is None or entry.message.metadata.run_id in run_ids)
            ][:limit]
            for entry in whole:
                entry.is_retrieved = True
            return [entry.message for entry in whole]

    def _answer_for_the_dead(self) -> None:
        # First who is at work: a process that has ended brought all that it was to bring before.
        at_work = {task.run_id for task in self.get_tasks(statuses=_AT_WORK)}
        with self.lock_msg_store:
            left = [entry for entry in self.msg_store.values()
                    if entry.message.metadata.run_id not in at_work]
            for entry in left:
                if _answers(entry) and not entry.is_retrieved and not self._is_whole(entry):
                    self._drop(entry)
            answered = {entry.message.metadata.reply_to_message_id
                        for entry in self.msg_store.values()}
            lost = [entry for entry in left
                    if not _answers(entry) and entry.message.metadata.message_id not in answered]
            for entry in lost:
                self._take_as_fetched(entry)
        if lost:
            self._store_error_replies(
                {entry.message.metadata.run_id for entry in lost}, CLIENT_APP_CRASHED_ERROR)

    def _take_as_fetched(self, entry: MessageEntry) -> None:
        if not entry.is_retrieved:
            entry.is_retrieved = True
            self.record_message_processing_start(entry.message.metadata.message_id)
        self.object_store.delete(entry.message.metadata.message_id)  # nobody will fetch it

    def _drop(self, entry: MessageEntry) -> None:
        self.delete_messages(message_ids=[entry.message.metadata.message_id])
        self.object_store.delete(entry.message.metadata.message_id)

    def _is_whole(self, entry: MessageEntry) -> bool:
        try:
            tree = self.object_store.get_object_tree(entry.message.metadata.message_id)
        except NoObjectInStoreError:
            return False
        return all(self.object_store.get(part.object_id) for part in iterate_object_tree(tree))


def _answers(entry: MessageEntry) -> bool:
    return entry.message.metadata.reply_to_message_id != ""


def install() -> None:
    """Have this process's SuperNode keep its messages so."""
    vars(nodestate_factory)["InMemoryNodeState"] = AnsweringNodeState  # where the pinned flwr looks
