"""Many requests at once: they wait for their turn, and nothing else waits behind them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from hospital_lab import holds

from medunlearn_client.service import worker
from medunlearn_client.service.wire import listen, server_options
from medunlearn_client.service.worker_client import WorkerClient
from medunlearn_common.messages import STEP, Message
from medunlearn_common.service.worker_pb2_grpc import add_WorkerServicer_to_server


class Site:
    """Answers once it is let."""

    def __init__(self) -> None:
        self.status = SimpleNamespace(site_id="site-0", state="answering", last_kind="")
        self.begun = 0
        self.go_on = threading.Event()

    def handle(self, message: Message) -> Message:
        self.begun += 1
        assert self.go_on.wait(60.0)
        return message

    def note(self, *, state: str) -> None:
        self.status.state = state

    def settle(self, now: float) -> None:
        self.note(state="idle")


@pytest.fixture
def site() -> Iterator[Site]:
    found = Site()
    yield found
    found.go_on.set()


def test_looks_and_drains_pass_requests_that_wait(site: Site, tmp_path: Path) -> None:
    socket, serving = tmp_path / "s" / "worker.sock", worker.Worker(site)  # type: ignore[arg-type]
    server = grpc.server(ThreadPoolExecutor(worker._GRPC_THREADS), options=server_options())
    add_WorkerServicer_to_server(serving, server)
    listen(server, socket)
    server.start()

    def client() -> WorkerClient:
        return WorkerClient(socket, timeout_s=60.0, patience_s=30.0)

    many = worker._GRPC_THREADS + 12
    with ThreadPoolExecutor(many + 1) as callers:
        answers: list[Future[Any]] = [
            callers.submit(client().ask, Message(kind=STEP)) for _ in range(many)]
        holds(lambda: sum(one.done() for one in answers) == many - worker._MOST_WAITING)
        assert client().look().state == "answering"
        drained = callers.submit(client().drain)
        assert serving._stopping.wait(30.0)
        site.go_on.set()
        drained.result(60.0)
        codes = [one.result(60.0).fields.get("code") for one in answers]
    server.stop(grace=5.0).wait()
    assert site.begun == 1
    assert codes.count("SITE_BUSY") == many - worker._MOST_WAITING
    assert codes.count("SITE_STOPPING") == worker._MOST_WAITING - 1 and codes.count(None) == 1


def test_an_error_after_an_answer_is_logged_and_the_worker_is_idle(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits for that part: for good the status said that it answers."""
    def fails(now: float) -> None:
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(site, "settle", fails)
    site.go_on.set()
    serving = worker.Worker(site)  # type: ignore[arg-type]
    serving._turns.submit(serving._in_turn, Message(kind=STEP)).result(60.0)
    serving._turns.submit(int).result(60.0)  # comes after what the answer left to do
    assert site.status.state == "idle" and "CUDA error" in caplog.text
