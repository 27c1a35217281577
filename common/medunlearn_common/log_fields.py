"""What a log line may say: every field with the values it takes, every event by name.

The same rule as for the audit log (:mod:`medunlearn_common.audit.kinds`): numbers, digests,
codes and identifiers that the protocol gave, and no free text at all.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from medunlearn_common.audit.kinds import code, count, digest, name, real, run_id, version

Check = Callable[[Any], bool]


def one_of(*values: str) -> Check:
    """One of a few words."""
    return lambda value: isinstance(value, str) and value in values


RUN_STATES = ("pending", "running", "paused", "stopped", "finished", "failed")
KINDS = (
    "hello", "ready", "vote", "step", "evaluate", "finish", "mask_keys", "mask_shares",
    "mask_agree", "mask_open", "publish", "collect", "received", "sealed", "error",
)

FIELDS: Mapping[str, Check] = MappingProxyType({
    "run_id": run_id, "site": name, "child": name, "kind": one_of(*KINDS), "code": code,
    "state": one_of(*RUN_STATES, "starting", "ready", "waiting", "working", "stopping",
                    "connected", "disconnected", "unhealthy", "healthy", "idle", "answering"),
    "gate": one_of("norm", "canary", "utility"),
    "round": count, "rounds": count, "sites": count, "asked": count, "answered": count,
    "attempts": count, "starts": count, "restarts": count, "pid": count, "port": count,
    "bytes": count, "bytes_up": count, "bytes_down": count, "exit_status": count,
    "signal": count, "count": count, "status": count, "days": count, "dropped": count,
    "seconds": real, "epsilon": real, "budget": real, "delta": real,
    "plan_digest": digest, "adapter_digest": digest, "attestation_digest": digest,
    "version": version,
})
"""Field to its check; a value that does not pass is left out of the line, and named as unlawful."""

EVENTS: frozenset[str] = frozenset({
    # Both sides.
    "started", "stopping", "stopped", "child_started", "child_ended", "child_failed",
    "serving", "disk_full", "disk_has_room", "unhealthy", "healthy", "certificate_renewed",
    "failed",
    # The coordinator's.
    "run_started", "run_paused", "run_stopped", "run_failed", "run_finished", "run_delayed",
    "sites_admitted", "site_not_admitted", "caller_refused", "exchange_failed",
    # A hospital's.
    "worker_ready", "request_answered", "request_refused", "request_timed",
    # Whatever a library logs through Python's logging: its text stays in the private file.
    "library", "uncaught",
})
"""Every event; any other is written as ``unnamed``."""

EVENT_KEY = "medunlearn_event"


@dataclass(frozen=True)
class Event:
    """What a line of Python's ``logging`` says besides its text; made by :func:`event`."""

    name: str
    fields: Mapping[str, Any]


def event(name: str, **fields: Any) -> dict[str, Event]:
    """For ``extra=``, so that a line of ``logging`` becomes an event with fields.

    The text of the line goes to the private file as ever; where no log was started, as in a
    test, the text alone is seen::

        _LOG.info("run %s: start %d", run, n, extra=event("run_started", run_id=run, starts=n))
    """
    return {EVENT_KEY: Event(name, fields)}


_PLAIN = (str, int, float, type(None))
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_FILE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\.py")
_FILES: set[str] = set()
_OWN = ("medunlearn", "py", "root")


def lawful(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a line may carry; ``unlawful`` names known fields with a bad value.

    Guarantees:
        No key and no value of ``given`` is in the result unless :data:`FIELDS` allows it; of
        unknown keys there is a number only (``unknown``), as a key may be text as well.
    """
    known = {key: value for key, value in given.items() if key in FIELDS}
    kept = {key: value for key, value in known.items() if _passes(FIELDS[key], value)}
    unlawful = sorted(known.keys() - kept.keys())
    if unlawful:
        kept["unlawful"] = unlawful
    if len(known) < len(given):
        kept["unknown"] = len(given) - len(known)
    return kept


def lawful_event(event: str) -> str:
    """The event's name, or ``unnamed``."""
    return event if event in EVENTS else "unnamed"


def lawful_logger(logger: str) -> str:
    """The package that logged; a name that is no loaded package's is not repeated."""
    package = logger.partition(".")[0]
    return package if package in _OWN or package in sys.modules else "unnamed"


def lawful_class(kind: type) -> str:
    """Name of a class as the code that defines it has it; one made up at run time has none."""
    named = getattr(sys.modules.get(kind.__module__), kind.__name__, None)
    return kind.__name__ if named is kind and _WORD.fullmatch(kind.__name__) else "unnamed"


def lawful_place(path: str, line: int) -> str:
    """File and line of code, without folders; a file that no loaded module has is not repeated."""
    file = path.rpartition("/")[2]
    if path not in _FILES and any(
        getattr(module, "__file__", None) == path for module in list(sys.modules.values())
    ):
        _FILES.add(path)
    return f"{file}:{line}" if path in _FILES and _FILE.fullmatch(file) else "unnamed"


def _passes(check: Check, value: Any) -> bool:
    # A value of a subclass could compare as one text and be written as another.
    return type(value) in _PLAIN and check(value)
