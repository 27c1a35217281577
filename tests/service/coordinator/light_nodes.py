"""Nodes of several sites in one process, over Flower's own node connection.

Everything up to the ClientApp is Flower's: TLS, node keys, activation, heartbeats, object
transfer. What is left out is the new process that a SuperNode starts for every message, so that
tests of the *coordinator* spend their time on the coordinator.

``python light_nodes.py JSON`` with ``superlink``, ``root`` and ``sites`` (folders).
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Context, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode import fleet_http_connection
from flwr.supernode.fleet_http_connection import http_request_response
from quadratic_hospital import open_hospital

from medunlearn_client.flower_app import build_app

_LOG = logging.getLogger("light-node")


def live(superlink: str, root: bytes, folder: Path) -> None:
    """Connect, answer, and connect again, for ever."""
    key = load_ssh_private_key((folder / "node" / "node.key").read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("not an EC key")
    app = build_app({"site-folder": str(folder)}, opener=open_hospital)
    # In a thread its way to end a process would take the other sites along.
    fleet_http_connection.flwr_exit = _refuse
    while True:
        try:
            with http_request_response(
                superlink, False, root, (key, key.public_key())
            ) as connection:
                node_id, receive, send, _, _, pull, push, confirm = connection
                _LOG.info("%s is node %d", folder.name, node_id)
                while True:
                    found = receive()
                    if found is None:
                        time.sleep(0.05)
                        continue
                    run_id = found[0].metadata.run_id
                    try:
                        request = _inflated(*found, pull)
                        confirm(run_id, request.metadata.message_id)
                        context = Context(run_id=run_id, node_id=node_id, node_config={},
                                          state=RecordDict(), run_config={})
                        _send(app(request, context), send, push)
                    except RunNotRunningException:  # no Exception: the run died meanwhile
                        continue
        except Exception:
            _LOG.exception("%s lost its connection", folder.name)
        time.sleep(1.0)


def _refuse(code: int, message: str = "", **more: object) -> None:
    raise ConnectionError(f"{code} {message}")


def _inflated(message, tree, pull) -> Message:  # type: ignore[no-untyped-def]
    run_id, message_id = message.metadata.run_id, message.metadata.message_id
    contents = {}
    for one in iterate_object_tree(tree):
        while one.object_id not in contents:
            contents[one.object_id] = pull(run_id, one.object_id)
    request = inflate_object_from_contents(message_id, contents)
    request.metadata.__dict__["_message_id"] = message_id
    return request


def _send(answer, send, push) -> None:  # type: ignore[no-untyped-def]
    with no_object_id_recompute():
        answer.metadata.__dict__["_message_id"] = answer.object_id
        objects, tree = get_all_nested_objects(answer), get_object_tree(answer)
        wanted, session = send(answer, tree, 0.0)
        for object_id in wanted:
            push(answer.metadata.run_id, session, object_id, objects[object_id].deflate())


def main(argument: str) -> None:
    """Start one thread per site."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    given = json.loads(argument)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    threads = [
        threading.Thread(
            target=live, args=(given["superlink"], Path(given["root"]).read_bytes(), Path(site)),
            daemon=True,
        )
        for site in given["sites"]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1])
