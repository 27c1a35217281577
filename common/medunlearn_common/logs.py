"""Logs in two places: lines of JSON without any text, and a private file with everything.

    logs/COMPONENT.jsonl        one object a line; may be collected, mailed, put into a ticket
    logs/COMPONENT.private.log  messages and tracebacks in full; 0600, stays on this machine

A library's message or an exception's text may quote a record, a request or a path, whoever
wrote it. So none of them is ever filtered or redacted: the public line says only *where*
something was logged (file and line of code), by which class of exception and with which stable
code, and gives a number, ``ref``, under which the private file has the rest.

Use it once in each process, first thing in ``main``::

    log = logs.start(folder / "state" / "logs", component="gateway")
    log.info("serving", port=9443)

From then on Python's ``logging``, uncaught exceptions of every thread, warnings and all that
native code writes to stdout and stderr go the same two ways. A process that people start is
wrapped in :func:`medunlearn_common.service_log.run` instead.

Neither file grows without bound: the first is replaced at 32 MiB, the second at 16 MiB, with one
predecessor each; and one place of code that keeps logging writes :data:`~.log_limits.MOST` lines
a minute, the next one with the number of those left out.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from medunlearn_common.errors import MedunlearnError, Misconfigured
from medunlearn_common.log_fields import (
    EVENT_KEY,
    FIELDS,
    Event,
    lawful,
    lawful_class,
    lawful_event,
    lawful_logger,
    lawful_place,
)
from medunlearn_common.log_limits import Throttle
from medunlearn_common.log_view import as_json, readable
from medunlearn_common.private_file import PrivateFile

MAX_PUBLIC_BYTES = 32 << 20
_THROTTLED = ("library", "caller_refused", "exchange_failed")
"""What others can cause as often as they like: a library's lines, and callers from outside."""
Clock = Callable[[], float]


@dataclass(kw_only=True)
class EventLog:
    """Writes events; safe to be used by several threads.

    Guarantees:
        A line consists of a time, a level, the component, an event of a closed list, and fields
        that :mod:`~medunlearn_common.log_fields` allows. Nothing that is passed to it can make
        it write anything else, and nothing can make it raise.

    Attributes:
        component: Which process speaks.
        private: Where everything else goes.
        path: The public file; None where lines only go to ``stream``.
        stream: Also written to, such as the process's original stdout for a journal; or None.
        shown: How a line looks on ``stream``; an empty text leaves it out there.
        clock: Unix seconds.
        throttle: Counts what comes too often.
    """

    component: str
    private: PrivateFile
    path: Path | None = None
    stream: TextIO | None = None
    shown: Callable[[Mapping[str, Any]], str] = as_json
    clock: Clock = time.time
    throttle: Throttle = field(default_factory=Throttle, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def info(self, event: str, **fields: Any) -> None:
        """Something expected happened."""
        self._write("info", event, lawful(fields))

    def warning(self, event: str, **fields: Any) -> None:
        """Something that a person may want to look at."""
        self._write("warning", event, lawful(fields))

    def error(self, event: str, error: BaseException | None = None, **fields: Any) -> None:
        """Something failed; the error's text and traceback go to the private file alone."""
        kept = lawful(fields)
        if error is not None:
            kept |= self._told(error)
        self._write("error", event, kept)

    def library(self, record: logging.LogRecord) -> None:
        """What came through Python's ``logging``, from us or from a library."""
        told = getattr(record, EVENT_KEY, None)
        event = lawful_event(told.name) if type(told) is Event else "library"
        where = lawful_place(record.pathname, record.lineno)
        dropped = self.throttle.admit((event, where)) if event in _THROTTLED else 0
        if dropped is None:
            return
        error = record.exc_info[1] if record.exc_info else None
        given = record.args if isinstance(record.args, tuple) else ()
        named = next((a for a in (error, *given) if isinstance(a, MedunlearnError)), None)
        about: dict[str, Any] = lawful(told.fields) if type(told) is Event else {
            "logger": lawful_logger(record.name), "where": where,
        }
        about["ref"] = self.private.write(_message(record), error)
        if dropped:
            about["dropped"] = dropped
        shown = named or error
        if shown is not None:
            about |= _kind_of(shown)
        self._write(_level(record.levelno), event, about)

    def _told(self, error: BaseException) -> dict[str, Any]:
        return {**_kind_of(error), "ref": self.private.write("", error)}

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        line = {
            "at": _instant(self.clock()), "level": level, "component": self.component,
            "event": lawful_event(event), **fields,
        }
        with self._lock:
            # A full disk or a closed stream stops neither what is being logged nor the other: the
            # stream is where a full disk is heard of.
            with suppress(OSError, ValueError):
                if self.path is not None:
                    _append(self.path, as_json(line))
            with suppress(OSError, ValueError):
                if self.stream is not None and (shown := self.shown(line)):
                    print(shown, file=self.stream, flush=True)


class _Handler(logging.Handler):
    """Hands every record of Python's ``logging`` to an :class:`EventLog`."""

    def __init__(self, log: EventLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Pass on; ``Handler.handleError`` would print the record's arguments."""
        try:
            self._log.library(record)
        except Exception:
            self._log._write("error", "failed", {"code": "LOG_RECORD_BROKEN"})


def start(
    folder: Path, *, component: str, level: int = logging.INFO, take_output: bool = True,
    to_stdout: bool = True,
) -> EventLog:
    """Send all that this process says to ``folder``; see the module.

    Args:
        folder: For the two files; made with mode 0700.
        component: Which process this is; names the files.
        level: Least level of Python's ``logging`` that is written.
        take_output: Also point file descriptors 1 and 2 at the private file, so that nothing,
            native code included, can print past the log.
        to_stdout: Also write the public lines to the process's original stdout: as they are for
            a journal or a container's log, and where that is a terminal as a person reads them.

    Raises:
        Misconfigured: LOG_COMPONENT, or LOG_READABLE if others may read the private file.
        Transient: LOG_UNWRITABLE.
    """
    if not FIELDS["child"](component):
        raise Misconfigured("LOG_COMPONENT", "a component's name has letters, digits, . _ -",
                            "report this: it is a defect")
    private = PrivateFile(folder / f"{component}.private.log")
    stream = os.fdopen(os.dup(1), "w", encoding="ascii") if to_stdout else None
    log = EventLog(
        component=component, private=private, path=folder / f"{component}.jsonl", stream=stream,
        shown=readable if stream is not None and stream.isatty() else as_json,
    )
    if take_output:
        private.take_output()
    _take_logging(log, level)
    _take_uncaught(log)
    return log


def _take_logging(log: EventLog, level: int) -> None:
    logging.raiseExceptions = False
    logging.captureWarnings(True)
    for known in list(logging.Logger.manager.loggerDict.values()):
        if isinstance(known, logging.Logger):  # flwr and others bring handlers of their own
            known.handlers.clear()
            known.propagate = True
    root = logging.getLogger()
    root.handlers[:] = [_Handler(log)]
    root.setLevel(level)


def _take_uncaught(log: EventLog) -> None:
    def of_process(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            log.error("uncaught", error)

    sys.excepthook = of_process
    threading.excepthook = lambda found: log.error("uncaught", found.exc_value)
    sys.unraisablehook = lambda found: log.error("uncaught", found.exc_value)


def _kind_of(error: BaseException) -> dict[str, Any]:
    """Class and code of an error, and the line of ours where it was raised; never its text."""
    told: dict[str, Any] = {"error": lawful_class(type(error))}
    if isinstance(error, MedunlearnError) and FIELDS["code"](error.code):
        told["code"] = error.code
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "medunlearn_" in file or "raised" not in told:
            told["raised"] = lawful_place(file, trace.tb_lineno)
        trace = trace.tb_next
    return told


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # wrong number of arguments, or one whose __str__ raises
        return "a message that could not be put together"


def _level(number: int) -> str:
    return "error" if number >= logging.ERROR else (
        "warning" if number >= logging.WARNING else "info"
    )


def _instant(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


def _append(path: Path, line: str) -> None:
    """One write of one line, so that lines of several processes stay whole."""
    with suppress(FileNotFoundError):
        if path.stat().st_size > MAX_PUBLIC_BYTES:
            _replace_full(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o640)
    try:
        os.write(descriptor, line.encode("ascii") + b"\n")
    finally:
        os.close(descriptor)


def _replace_full(path: Path) -> None:
    """Make a full file the predecessor; of several processes that find it full, one does."""
    with path.open("rb") as full:
        fcntl.flock(full, fcntl.LOCK_EX)
        found = os.fstat(full.fileno())
        if found.st_size > MAX_PUBLIC_BYTES and os.path.samestat(found, path.stat()):
            os.replace(path, path.with_suffix(".1.jsonl"))
