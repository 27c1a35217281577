"""A log line for a program, and the same line for a person at a terminal.

Both are made of fields that :mod:`medunlearn_common.log_fields` has let through: a terminal
shows no more text than the file does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

SERVICE = "service"
"""The component that a person starts, and that starts the others."""
_HEAD = ("at", "level", "component", "event")

_SENTENCES: Mapping[str, str] = MappingProxyType({
    "started": "starts, version {version}",
    "stopping": "ends, once what is under way is finished (Ctrl-C was heard)",
    "stopped": "has ended",
    "child_started": "{child} runs, process {pid}",
    "child_ended": "{child} ended and is started anew in {seconds} s",
    "child_failed": "{child} cannot work as configured and is not started again",
    "disk_full": "the disk is full: nothing more can be noted; free some space [{code}]",
    "disk_has_room": "the disk has room again",
    "run_started": "run {run_id}: start {starts}",
    "run_delayed": "run {run_id}: {code}; goes on in {seconds} s",
    "run_paused": "run {run_id} is paused",
    "run_stopped": "run {run_id} is stopped",
    "run_finished": "run {run_id} is finished",
    "run_failed": "run {run_id} failed: {code}",
    "sites_admitted": "{sites} hospitals may take part",
    "site_not_admitted": "the node of {site} is not let in: {code}",
    "worker_ready": "{site} is ready to answer",
    "request_answered": "run {run_id}: answered {kind}",
    "request_timed": "{kind} took {seconds} s",
    "request_refused": "run {run_id}: refused {kind}, {code}",
})


def as_json(line: Mapping[str, Any]) -> str:
    """One line of JSON, ASCII."""
    return json.dumps(line, allow_nan=False)


def readable(line: Mapping[str, Any]) -> str:
    """One line for a person; empty for what libraries only mention."""
    if line["event"] == "library" and line["level"] == "info":
        return ""
    head = f"{line['at'][11:19]}Z {line['component']:<9} "
    mark = "" if line["level"] == "info" else f"{line['level']}: "
    return f"{head}{mark}{_said(line)}"


def _said(line: Mapping[str, Any]) -> str:
    if line["event"] == "serving" and "port" in line:
        return f"{line.get('child', line['component'])} listens on port {line['port']}"
    if line["event"] == "started" and line["component"] == SERVICE:
        return f"medunlearn {line.get('version', '')} starts; Ctrl-C ends it in good order"
    sentence = _SENTENCES.get(line["event"])
    if sentence is not None:
        try:
            return sentence.format_map(line)
        except KeyError:  # written without a field that the sentence names
            pass
    fields = {key: value for key, value in line.items() if key not in (*_HEAD, "ref")}
    words = " ".join(f"{key}={value}" for key, value in fields.items())
    said = f"{line['event']} {words}".rstrip()
    if "ref" in line:
        said += f" (more: ref={line['ref']} in {line['component']}.private.log)"
    return said
