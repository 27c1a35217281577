"""Logs: the attack is to get a text into a line; each test plants one and looks for it."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest

from medunlearn_common import logs
from medunlearn_common.errors import Misconfigured, Rejected, Transient
from medunlearn_common.full_disk import FULL_BYTES, DiskWatch
from medunlearn_common.log_fields import EVENTS, FIELDS, lawful
from medunlearn_common.logs import EventLog, start
from medunlearn_common.private_file import PrivateFile
from medunlearn_common.shared_checks import check_disk

CANARY = "Jane Doe, born 31.02.1970, HIV"
WORD = "Doesmith"

EVERYWHERE = f"""
import logging, os, sys, threading, warnings
from pathlib import Path
from medunlearn_common import logs
from medunlearn_common.errors import Rejected
logging.getLogger("flwr").addHandler(logging.StreamHandler())
log = logs.start(Path(sys.argv[1]), component="worker")
canary = {CANARY!r}
log.info("serving", port=1, site=canary, **{{canary: 1}})
log.info(canary)
log.error("failed", ValueError(canary), code=canary)
log.error("failed", Rejected(canary, canary, canary))
log.error("failed", type({WORD!r}, (Exception,), {{}})(canary))
logging.getLogger("flwr").error("record %s", canary)
logging.getLogger({WORD!r}).warning("%d", canary)
logging.getLogger("medunlearn.hospital").exception(canary)
class Angry:
    def __str__(self): raise ValueError(canary)
    __repr__ = __str__
logging.getLogger("x").error(Angry())
logging.getLogger("x").error("%s", Angry())
print(canary); sys.stderr.write(canary); os.write(1, canary.encode()); os.write(2, canary.encode())
os.system("echo " + canary)
warnings.warn(canary)
exec(compile("try:\\n raise ValueError(canary)\\nexcept ValueError as e: log.error('failed', e)",
             {WORD!r} + ".py", "exec"))
class Unraisable:
    def __del__(self): raise ValueError(canary)
Unraisable()
thread = threading.Thread(target=lambda: int(canary)); thread.start(); thread.join()
def patient(record): raise KeyError(record)
patient(canary)
"""


def test_no_way_to_speak_gets_a_text_past_the_log(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    process = subprocess.run(
        [sys.executable, "-c", EVERYWHERE, str(folder)], capture_output=True, text=True,
        timeout=60, check=False,
    )
    public = (folder / "worker.jsonl").read_text()
    for text in (public, process.stdout, process.stderr):
        assert "Jane" not in text and "HIV" not in text and WORD not in text
    assert process.stdout == public and process.stderr == ""
    lines = [json.loads(line) for line in public.splitlines()]
    assert len(lines) >= 14 and lines[-1]["event"] == "uncaught"
    assert lines[-1]["error"] == "KeyError"
    private = (folder / "worker.private.log").read_text()
    assert private.count(CANARY) >= 12, "the people of the hospital can still find out"
    for line in lines:
        assert line.get("ref", "ref=") in private
    assert stat.S_IMODE((folder / "worker.private.log").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.fixture
def stream() -> StringIO:
    return StringIO()


@pytest.fixture
def log(tmp_path: Path, stream: StringIO) -> Iterator[EventLog]:
    with closing(PrivateFile(tmp_path / "test.private.log")) as private:
        yield EventLog(
            component="test", private=private, path=tmp_path / "test.jsonl", stream=stream,
            clock=lambda: 1_790_000_000.25,
        )


def test_a_line_is_what_it_was_told(log: EventLog, stream: StringIO, tmp_path: Path) -> None:
    log.info("request_timed", run_id="r-1", round=3, sites=5, epsilon=1.5)
    assert json.loads(stream.getvalue()) == {
        "at": "2026-09-21T14:13:20.250Z", "level": "info", "component": "test",
        "event": "request_timed", "run_id": "r-1", "round": 3, "sites": 5, "epsilon": 1.5,
    }
    assert (tmp_path / "test.jsonl").read_text() == stream.getvalue()


def test_a_file_that_cannot_be_written_silences_no_stream(
    log: EventLog, stream: StringIO, tmp_path: Path
) -> None:
    """As on a full disk, which nobody would hear of otherwise."""
    (tmp_path / "test.jsonl").mkdir()
    log.error("disk_full", code="STORAGE_FULL")
    assert json.loads(stream.getvalue())["code"] == "STORAGE_FULL"


def test_a_closed_stream_keeps_nothing_out_of_the_file(
    log: EventLog, stream: StringIO, tmp_path: Path
) -> None:
    stream.close()
    log.info("serving", port=1)
    assert json.loads((tmp_path / "test.jsonl").read_text())["event"] == "serving"


def test_a_disk_that_fills_is_said_once_and_once_that_it_has_room(
    log: EventLog, stream: StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, disk = DiskWatch(tmp_path, log), SimpleNamespace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: disk)
    for disk.free in (FULL_BYTES, FULL_BYTES - 1, FULL_BYTES, 0, FULL_BYTES, 2 * FULL_BYTES,
                      FULL_BYTES):
        watch.look()
        watch.look()
    said = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert said == ["disk_full", "disk_has_room"]
    disk.free = 0
    (finding,) = check_disk(tmp_path)
    assert (finding.code, finding.level) == ("STORAGE_FULL", "problem")


def test_a_disk_that_is_not_there_is_no_news(log: EventLog, stream: StringIO) -> None:
    DiskWatch(Path("/nowhere"), log).look()
    assert stream.getvalue() == ""


class Liar(str):
    """Says that it is equal to everything, and hashes like a state."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash("running")


HOSTILE: list[object] = [
    CANARY, f"{CANARY}\n", "a b", "", b"x", [CANARY], {CANARY: 1}, float("nan"), float("inf"),
    -1, 2**70, object(), True, "x" * 200, "Müller", "\u202ex", Liar(CANARY),
]


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_a_field_takes_no_text(field: str) -> None:
    for value in HOSTILE:
        assert lawful({field: value}) == {"unlawful": [field]}, value


def test_an_unknown_event_is_unnamed_and_a_known_one_is_no_sentence() -> None:
    assert all(event.replace("_", "").isalpha() for event in EVENTS)


def test_private_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.private.log"
    path.write_text("")
    path.chmod(0o640)
    with pytest.raises(Misconfigured) as caught:
        PrivateFile(path)
    assert caught.value.code == "LOG_READABLE"


def test_private_file_under_a_wide_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with closing(PrivateFile(tmp_path / "a" / "x.private.log")) as private:
            private.write("said")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a" / "x.private.log").stat().st_mode) == 0o600


def test_a_link_laid_in_the_private_files_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "x.private.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Transient) as caught:
        PrivateFile(tmp_path / "x.private.log")
    assert caught.value.code == "LOG_UNWRITABLE" and not (tmp_path / "elsewhere").exists()


def test_private_file_stays_small_and_0600(tmp_path: Path) -> None:
    with closing(PrivateFile(tmp_path / "x.private.log", max_bytes=2000)) as private:
        for number in range(200):
            private.write(f"message {number} " + "x" * 50)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2 and sum(file.stat().st_size for file in files) < 4500
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert "message 199" in (tmp_path / "x.private.log").read_text()


def test_a_private_file_that_could_not_be_replaced_once_is_written_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many open files, for a moment: all that was logged later was lost."""
    def refused(file: PrivateFile) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with closing(PrivateFile(tmp_path / "x.private.log", max_bytes=10)) as private:
        private.write("the first message")
        with monkeypatch.context() as patched:
            patched.setattr(PrivateFile, "_open", refused)
            private.write("a lost message")
        private.write("a later message")
    assert "a later message" in (tmp_path / "x.private.log").read_text()
    assert "the first message" in (tmp_path / "x.private.1.log").read_text()


def test_a_private_file_that_another_process_replaced_is_not_replaced_again(
    tmp_path: Path
) -> None:
    path = tmp_path / "x.private.log"
    with closing(PrivateFile(path, max_bytes=50)) as ours, \
            closing(PrivateFile(path, max_bytes=50)) as theirs:
        ours.write("a long earlier message")
        theirs.write("short")
        ours.write("ours")
    assert "a long earlier message" in (tmp_path / "x.private.1.log").read_text()
    assert path.read_text().count("ref=") == 2


def test_a_closed_private_file_writes_into_no_other_file(tmp_path: Path) -> None:
    private = PrivateFile(tmp_path / "x.private.log")
    private.close()
    with (tmp_path / "other").open("wb"):  # it gets the same number
        assert private.write("said")
    private.close()
    assert all(not file.read_bytes() for file in tmp_path.iterdir())


def test_a_full_disk_stops_no_work(log: EventLog) -> None:
    log.path = Path("/dev/full")
    log.info("started")
    log.error("failed", ValueError("x"))


def test_many_threads_write_whole_lines(log: EventLog, tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=lambda: [log.info("request_timed", round=n) for n in range(100)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (tmp_path / "test.jsonl").read_text().splitlines()
    assert len(lines) == 800 and all(json.loads(line)["event"] == "request_timed" for line in lines)


def test_two_who_find_the_file_full_at_once_lose_no_line(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one made the new file the predecessor of the next, and the full one was gone."""
    monkeypatch.setattr(logs, "MAX_PUBLIC_BYTES", 1000)
    file, replace, others = tmp_path / "test.jsonl", os.replace, list[threading.Thread]()
    file.write_text("x" * 1001 + "\n")

    def replaced_while_another_writes(old: Path, new: Path) -> None:
        if not others:
            others.append(threading.Thread(target=logs._append, args=(file, "theirs")))
            others[0].start()
            others[0].join(0.3)
        replace(old, new)

    monkeypatch.setattr(os, "replace", replaced_while_another_writes)
    logs._append(file, "ours")
    others[0].join()
    assert sorted(file.read_text().split()) == ["ours", "theirs"]
    assert file.with_suffix(".1.jsonl").read_text() == "x" * 1001 + "\n"


def test_our_own_errors_keep_their_code(log: EventLog, stream: StringIO) -> None:
    record = logging.LogRecord("medunlearn.hospital", logging.ERROR, __file__, 12, "%s",
                               (Rejected("PLAN_UNKNOWN", "m", "h"),), None)
    log.library(record)
    told = json.loads(stream.getvalue())
    assert (told["code"], told["error"], told["logger"]) == (
        "PLAN_UNKNOWN", "Rejected", "medunlearn")
    assert told["where"] == "test_logs.py:12"


@pytest.mark.usefixtures("quiet_output")
def test_start_refuses_a_component_that_is_a_path(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured) as caught:
        start(tmp_path, component="../x", take_output=False)
    assert caught.value.code == "LOG_COMPONENT" and list(tmp_path.iterdir()) == []


def test_what_others_wrote_commands_no_terminal(tmp_path: Path) -> None:
    """An engineer's `grep ref=` shows it: no character there moves the cursor or sets a title."""
    path = tmp_path / "x.private.log"
    with closing(PrivateFile(path)) as private:
        private.write("\x1b]0;owned\x07 \x9b2J a\rb\tc", ValueError("\x1b[2Jgone\nnext"))
    written = path.read_bytes().decode("utf-8")
    assert not {c for c in written if not c.isprintable()} - {"\n", "\t"}
    assert "\\x1b]0;owned" in written and "gone\nnext" in written
