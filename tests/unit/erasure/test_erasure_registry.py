"""The registry under attack: other writers, tampering, crashes, files that are none."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from medunlearn_client.erasure import (
    Claim,
    ErasureRequest,
    Registry,
    RunFigures,
    State,
    claim_on,
    forget_set,
    history,
    schema,
)
from medunlearn_client.erasure.registry import NewRequest
from medunlearn_client.erasure.requests import Match, next_step
from medunlearn_client.erasure.shown import requests_table
from medunlearn_common.digests import digest_of
from medunlearn_common.errors import MedunlearnError, Misconfigured, Rejected, Transient
from medunlearn_simulation.erasure import new_claim

AUTHOR = "A. Officer"
FIGURES = RunFigures(
    run_id="run", adapter_digest="ab" * 32, forget_records=2, forget_accuracy=None, chance=None,
    retrained_accuracy=None, forget_exact=0.0, retrained_exact=None, identifiers_asked=None,
    identifiers_leaked=None, has_identifiers=False, preservation=0.97,
)
Adder = Callable[..., ErasureRequest]


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(MedunlearnError) as caught:
        action()
    return caught.value.code


# -- what comes in -------------------------------------------------------------------------


def test_two_requests_for_one_patient(registry: Registry, add: Adder) -> None:
    first = add()
    assert code_of(add) == "ERASURE_DUPLICATE"
    second = add(again=True)
    assert (first.number, second.number) == (1, 2)
    for number in (1, 2):
        registry.validate(number, author=AUTHOR, identity="seen")
    assert claim_on(registry).numbers == (1, 2)
    assert forget_set(registry, (1, 2)).patients == ("p1",)
    for number in (1, 2):
        registry.withdraw(number, author=AUTHOR, reason="taken back")
    assert add().number == 3  # closed requests stand in nobody's way


def test_an_id_that_is_part_of_another_is_another_request(add: Adder) -> None:
    assert [add(target).number for target in ("p1", "p11", "p", "P1")] == [1, 2, 3, 4]


def test_a_request_for_somebody_unknown_can_only_be_refused(
    registry: Registry, add: Adder
) -> None:
    number = add(None).number
    assert add(None).number == 2  # two strangers are not one
    assert code_of(lambda: registry.validate(number, author=AUTHOR, identity="seen")) == (
        "ERASURE_NOTHING_HELD"
    )
    assert registry.refuse(number, author=AUTHOR, reason="nothing held").state is State.REFUSED


def test_dates_and_texts_are_checked_before_anything_is_written(
    registry: Registry, add: Adder
) -> None:
    assert code_of(lambda: add(received=date(2026, 2, 1))) == "ERASURE_DATE"
    assert code_of(lambda: add(basis="")) == "ERASURE_TEXT"
    assert code_of(lambda: add(kind="person")) == "ERASURE_KIND"
    add()
    assert code_of(lambda: registry.refuse(1, author=" ", reason="x")) == "ERASURE_TEXT"
    assert code_of(lambda: registry.refuse(1, author=AUTHOR, reason="a\nb")) == "ERASURE_TEXT"
    for number in (7, 0, -1, 1 << 63, 10**40, -(10**40)):
        assert code_of(lambda n=number: registry.refuse(n, author=AUTHOR, reason="x")) == (
            "ERASURE_UNKNOWN")
    assert [request.number for request in registry.requests()] == [1]
    assert len(registry.events(1)) == 1


def test_the_forget_set_joins_patients_records_and_concepts(registry: Registry) -> None:
    def add(kind: str, target: str, *matches: Match) -> None:
        registry.add(NewRequest(
            kind=kind, target=target, matches=matches, basis="a",  # type: ignore[arg-type]
            received=date(2026, 1, 1),
        ), author=AUTHOR)

    file = "f" * 64
    add("patient", "p1", Match(record_id="x", file_digest=file, reason="r", owned=True),
        Match(record_id="loose", file_digest=file, reason="r"))
    add("record", "r1", Match(record_id="r1", file_digest=file, reason="r"))
    add("data_set", file, Match(record_id="s1", file_digest=file, reason="r"),
        Match(record_id="r1", file_digest=file, reason="r"))
    add("concept", "X:1", Match(record_id="c1", file_digest=file, reason="r"))
    found = forget_set(registry, (1, 2, 3, 4))
    assert found.patients == ("p1",)
    assert found.records == ("loose", "r1", "s1")
    assert found.concepts == ("X:1",)


# -- deadlines -----------------------------------------------------------------------------


def test_due_shows_the_most_urgent_first(
    registry: Registry, add: Adder, clock: object
) -> None:
    add("late", received=date(2025, 12, 1))
    add("later", received=date(2026, 1, 31))
    add("soon", received=date(2026, 1, 5))
    add("closed", received=date(2025, 12, 1))
    registry.refuse(4, author=AUTHOR, reason="no ground")
    assert [r.number for r in registry.due(within_days=5)] == [1, 4, 3]
    registry.told(4, author=AUTHOR, reason="letter sent")
    assert [r.number for r in registry.due(within_days=5)] == [1, 3]
    assert [r.number for r in registry.due(within_days=28)] == [1, 3, 2]


@pytest.mark.parametrize("zone", ["Etc/GMT+12", "Etc/GMT-14"])  # one of them has another day
def test_days_are_those_of_the_hospital_s_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    """West of Greenwich the day in UTC is tomorrow in the evening: a deadline a day too late."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        registry = Registry(tmp_path / "erasure.sqlite", create=True)
        assert registry.today == date.today()
        match = Match(record_id="r", file_digest="d" * 64, reason="patient id", owned=True)
        new = NewRequest(kind="patient", target="p", matches=(match,), basis="b",
                         received=date.today())
        assert registry.add(new, author=AUTHOR).received == date.today()
        assert registry.events(1)[0].at.endswith("+00:00")
    finally:
        monkeypatch.undo()
        time.tzset()


def test_an_extension_is_told_within_the_first_month_and_once(
    registry: Registry, add: Adder, clock: object
) -> None:
    add()
    clock.day = date(2026, 3, 2)  # type: ignore[attr-defined]  # Monday after the 28th
    extended = registry.extend(1, author=AUTHOR, reason="many requests")
    assert (extended.deadline, extended.state) == (date(2026, 4, 28), State.RECEIVED)
    assert code_of(lambda: registry.extend(1, author=AUTHOR, reason="more")) == "ERASURE_EXTENDED"
    clock.day = date(2026, 3, 3)  # type: ignore[attr-defined]
    add("p2")
    assert code_of(lambda: registry.extend(2, author=AUTHOR, reason="x")) == "ERASURE_TOO_LATE"
    registry.withdraw(2, author=AUTHOR, reason="taken back")
    assert code_of(lambda: registry.extend(2, author=AUTHOR, reason="x")) == "ERASURE_TRANSITION"


def test_an_extension_moves_what_is_due_once_the_requester_was_told(
    registry: Registry, add: Adder, clock: object
) -> None:
    add()
    registry.validate(1, author=AUTHOR, identity="seen")
    clock.day = date(2026, 2, 27)  # type: ignore[attr-defined]
    extended = registry.extend(1, author=AUTHOR, reason="many requests")
    assert [r.number for r in registry.due(within_days=1)] == [1]
    step = next_step(extended, registry.events(1))
    assert "erasure report 1" in step and "send it by 2026-03-02" in step and "simulate" in step
    told = registry.told(1, author=AUTHOR, reason="letter sent")
    assert not registry.due(within_days=1)
    assert (told.act_by, told.state) == (date(2026, 4, 28), State.VALIDATED)
    assert code_of(lambda: registry.told(1, author=AUTHOR, reason="x")) == "ERASURE_NOTHING_TO_TELL"
    registry.check()


@pytest.mark.parametrize(("day", "left"), [
    (27, "1 day"), (28, "today"), (29, "1 day"), (30, "today"), (31, "1 day late"),
])
def test_the_list_calls_nobody_late_at_a_weekend(
    registry: Registry, add: Adder, clock: object, day: int, left: str
) -> None:
    """The 28th is a Saturday: the period ends with Monday, the 30th."""
    clock.day = date(2026, 3, day)  # type: ignore[attr-defined]
    add(received=date(2026, 2, 28))
    table = requests_table(registry, registry.requests())
    assert [str(cell) for cell in table.columns[4].cells] == [left]
    assert bool(table.rows[0].style) is left.endswith("late")


# -- runs ----------------------------------------------------------------------------------


def test_claims_are_all_or_nothing_and_one_run_s(registry: Registry, add: Adder) -> None:
    for target in ("p1", "p2"):
        add(target)
    registry.validate(1, author=AUTHOR, identity="seen")
    both = Claim(registry=registry, numbers=(1, 2), token="one")
    assert code_of(lambda: both.take("run")) == "ERASURE_CLAIMED"
    assert registry.request(1).state is State.VALIDATED
    registry.validate(2, author=AUTHOR, identity="seen")
    both.take("run")
    both.take("run")
    assert len(registry.events(1)) == 3
    other = Claim(registry=registry, numbers=(1,), token="two")
    assert code_of(lambda: other.take("run")) == "ERASURE_CLAIMED"
    other.release("not mine")
    assert registry.request(1).state is State.IN_RUN
    registry.reopen(1, author=AUTHOR, reason="the machine burnt down")
    other.take("run")
    assert code_of(lambda: both.take("run")) == "ERASURE_CLAIMED"
    assert registry.request(2).state is State.IN_RUN


@pytest.mark.parametrize("close", ["withdraw", "refuse"])
def test_a_request_closed_within_a_run_holds_up_no_other(
    registry: Registry, add: Adder, close: str
) -> None:
    """One of many patients takes the request back while the run works for all of them."""
    for number, target in enumerate(("p1", "p2"), start=1):
        add(target)
        registry.validate(number, author=AUTHOR, identity="seen")
    claim = Claim(registry=registry, numbers=(1, 2), token="one")
    claim.take("run")
    registry.reopen(2, author=AUTHOR, reason="letter of 3 May")
    getattr(registry, close)(2, author=AUTHOR, reason="letter of 3 May")
    closed = registry.events(2)
    stranger = Claim(registry=registry, numbers=(2,), token="two")
    assert code_of(lambda: stranger.take("other")) == "ERASURE_CLAIMED"
    claim.take("run")  # resumed
    assert claim.settle(dict.fromkeys((1, 2), FIGURES)) == {1: ()}
    assert claim.settle(dict.fromkeys((1, 2), FIGURES)) == {1: ()}
    assert registry.request(1).state is State.VERIFIED
    assert registry.events(2) == closed


def test_a_figure_that_is_no_number_is_kept_as_not_measured(registry: Registry, add: Adder) -> None:
    add()
    registry.validate(1, author=AUTHOR, identity="seen")
    claim = Claim(registry=registry, numbers=(1,), token="one")
    claim.take("run")
    claim.settle({1: replace(FIGURES, preservation=float("nan"))})
    detail = registry.events(1)[-1].detail
    assert detail["preservation"] is None
    assert detail["shortfalls"] == ["preservation was not measured"]


def test_reopening_needs_a_run(registry: Registry, add: Adder) -> None:
    add()
    assert code_of(lambda: registry.reopen(1, author=AUTHOR, reason="x")) == "ERASURE_TRANSITION"


# -- other writers and crashes -------------------------------------------------------------

WRITER = """
import sys
from datetime import date
from pathlib import Path
from medunlearn_client.erasure import Match, NewRequest, Registry
registry = Registry(Path(sys.argv[1]), create=True)
for n in range(20):
    target = f"{sys.argv[2]}-{n}"
    match = Match(record_id=target, file_digest="d", reason="patient id", owned=True)
    registry.add(NewRequest(kind="patient", target=target, matches=(match,), basis="b",
                            received=date(2026, 1, 1)), author=sys.argv[2])
"""


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "shared.sqlite"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name],
                         stderr=subprocess.PIPE, text=True)
        for name in ("one", "two", "three")
    ]
    for writer in writers:
        assert writer.wait(timeout=120) == 0, writer.communicate()[1]
    registry = Registry(path)
    registry.check()
    assert [r.number for r in registry.requests()] == list(range(1, 61))
    assert {e.author for n in range(1, 61) for e in registry.events(n)} == {"one", "two", "three"}


def test_a_registry_held_too_long_is_a_passing_error(
    registry: Registry, add: Adder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medunlearn_client.erasure.schema.BUSY_S", 0.05)
    with closing(sqlite3.connect(registry.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Transient, match="ERASURE_REGISTRY_UNAVAILABLE"):
            add()
        other.execute("ROLLBACK")
    assert add().number == 1


def test_a_crash_within_a_step_leaves_no_part_of_it(
    registry: Registry, add: Adder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medunlearn_client.erasure import history

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    add()
    head = registry.check()
    with monkeypatch.context() as patch:
        patch.setattr(history, "append", crash)
        with pytest.raises(KeyboardInterrupt):
            add("p2")
    assert registry.check() == head
    assert add("p2").number == 2


KILLED = """
import os, signal, sys
from pathlib import Path
from medunlearn_client.erasure import Claim, Registry
from medunlearn_client.erasure.registry import Registry as Real

def die(self, *arguments, **named):
    result = move(self, *arguments, **named)
    os.kill(os.getpid(), signal.SIGKILL)
    return result

move, Real.move = Real.move, die
Claim(registry=Registry(Path(sys.argv[1])), numbers=(1, 2), token="t").take("run")
"""


def test_a_process_killed_within_a_step_leaves_no_part_of_it(
    registry: Registry, add: Adder
) -> None:
    for number, target in enumerate(("p1", "p2"), start=1):
        add(target)
        registry.validate(number, author=AUTHOR, identity="seen")
    head = registry.check()
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(registry.path)], timeout=120, check=False,
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert registry.check() == head
    Claim(registry=registry, numbers=(1, 2), token="u").take("run")
    assert {r.state for r in registry.requests()} == {State.IN_RUN}


# -- the file ------------------------------------------------------------------------------


def test_only_its_owner_may_read_the_registry(registry: Registry, add: Adder) -> None:
    with registry.transaction() as connection:
        connection.execute("UPDATE requests SET events = events")
        files = sorted(registry.path.parent.glob("erasure.sqlite*"))
        assert [f.name for f in files][:2] == ["erasure.sqlite", "erasure.sqlite-shm"]
        assert all(f.stat().st_mode & 0o777 == 0o600 for f in files)
    with closing(sqlite3.connect(registry.path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA user_version").fetchone() == (3,)
    registry.path.chmod(0o640)
    assert code_of(lambda: Registry(registry.path)) == "ERASURE_REGISTRY_MODE"


def test_umask_does_not_open_the_registry(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        Registry(tmp_path / "new.sqlite", create=True)
    finally:
        os.umask(old)
    assert (tmp_path / "new.sqlite").stat().st_mode & 0o777 == 0o600


def write_private(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def test_a_registry_from_before_texts_were_digested_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "old.sqlite"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        Registry(path, create=True)
    facts = [[1, "patient", "p", "b", "2026-01-01"], [["r", "d", "patient id", 1]]]
    with schema.transaction(path) as connection:
        connection.execute("INSERT INTO requests VALUES (1, 'patient', 'p', 'b', '2026-01-01',"
                           " 'received', 0)")
        connection.execute("INSERT INTO matches VALUES (1, 'r', 'd', 'patient id', 1)")
        history.append(
            connection, request=1, at="2026-01-01T00:00:00+00:00", author=AUTHOR, before=None,
            after=State.RECEIVED, detail={history.FACTS: digest_of(facts)},
        )
    registry = Registry(path)
    registry.check()
    assert registry.matches(1) == (
        Match(record_id="r", file_digest="d", reason="patient id", owned=True),
    )
    new = Match(record_id="s", file_digest="d", reason="record id", text_digest="e" * 64)
    registry.add(NewRequest(kind="record", target="s", matches=(new,), basis="b",
                            received=date(2026, 1, 1)), author=AUTHOR)
    registry.check()
    assert registry.matches(2) == (new,)


def test_a_registry_of_one_record_per_id_is_brought_up_with_its_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "old.sqlite"
    matches = [Match(record_id=name, file_digest="d", reason="record id", text_digest=digest)
               for name, digest in (("s", "e" * 64), ("r", None), ("t", "f" * 64))]
    new = NewRequest(kind="record", target="s", matches=matches, basis="b",
                     received=date(2026, 1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:2])
        old = Registry(path, create=True)
        old.add(new, author=AUTHOR)
        head, before = old.check(), old.matches(1)
    registry = Registry(path)
    assert (registry.check(), registry.matches(1)) == (head, before)
    assert [match.record_id for match in before] == ["r", "s", "t"]
    for statement in ("UPDATE matches SET reason = 'x'", "DELETE FROM matches"):
        with (closing(sqlite3.connect(path)) as connection,
              pytest.raises(sqlite3.IntegrityError, match="append-only")):
            connection.execute(statement)


def test_records_that_share_an_id_are_each_kept_with_their_words(registry: Registry) -> None:
    """A hospital's run forgets all that bear the id; which words each had must be known."""
    words = ("e" * 64, "d" * 64, "d" * 64)
    matches = tuple(Match(record_id="1", file_digest=str(place), reason="record id",
                          text_digest=digest) for place, digest in enumerate(words))
    registry.add(NewRequest(kind="record", target="1", matches=matches, basis="b",
                            received=date(2026, 1, 1)), author=AUTHOR)
    registry.check()
    assert registry.matches(1) == (matches[1], matches[2], matches[0])


def test_files_that_are_no_registry_are_refused_and_left_alone(
    tmp_path: Path, registry: Registry
) -> None:
    garbage = write_private(tmp_path / "garbage", b"name,birth date\n" * 300)
    assert code_of(lambda: Registry(garbage, create=True)) == "ERASURE_REGISTRY_FOREIGN"
    assert garbage.read_bytes() == b"name,birth date\n" * 300
    foreign = write_private(tmp_path / "foreign", b"")
    with closing(sqlite3.connect(foreign)) as connection:
        connection.execute("CREATE TABLE mine (x)")
        connection.commit()
    assert code_of(lambda: Registry(foreign, create=True)) == "ERASURE_REGISTRY_FOREIGN"
    assert code_of(lambda: Registry(tmp_path / "none")) == "ERASURE_REGISTRY_MISSING"
    assert not (tmp_path / "none").exists()
    link = tmp_path / "link"
    link.symlink_to(registry.path)
    assert code_of(lambda: Registry(link, create=True)) == "ERASURE_REGISTRY_FOREIGN"
    assert code_of(lambda: Registry(tmp_path, create=True)) == "ERASURE_REGISTRY_FOREIGN"
    with closing(sqlite3.connect(registry.path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert code_of(lambda: Registry(registry.path)) == "ERASURE_REGISTRY_NEWER"


@pytest.mark.parametrize("create", [False, True])
def test_an_empty_file_is_a_registry_that_was_lost(tmp_path: Path, create: bool) -> None:
    """It passed as a sound registry in which nobody was ever forgotten, and was filled anew."""
    empty = write_private(tmp_path / "empty", b"")
    with pytest.raises(Misconfigured, match="ERASURE_REGISTRY_FOREIGN") as caught:
        Registry(empty, create=create)
    assert "empty" in caught.value.message and "backup" in caught.value.hint
    assert empty.read_bytes() == b"" and list(tmp_path.iterdir()) == [empty]
    for statements in ("PRAGMA user_version = 0; VACUUM", f"CREATE TABLE requests (x); "
                       f"PRAGMA application_id = {schema.APPLICATION_ID}"):
        empty.write_bytes(b"")
        with closing(sqlite3.connect(empty)) as connection:
            connection.executescript(statements)
        assert code_of(lambda: Registry(empty, create=create)) == "ERASURE_REGISTRY_FOREIGN"


def test_a_registry_appears_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(schema, "_bring_up", fail)
        assert code_of(lambda: Registry(tmp_path / "new", create=True)) == (
            "ERASURE_REGISTRY_UNAVAILABLE")
    assert not list(tmp_path.iterdir())
    assert Registry(tmp_path / "new", create=True).begun
    assert not Registry(tmp_path / "new", create=True).begun


def test_no_folder_is_made_for_a_registry(tmp_path: Path) -> None:
    """A mistyped path began a second registry beside the hospital's own."""
    with pytest.raises(Misconfigured, match="ERASURE_REGISTRY_MISSING") as caught:
        Registry(tmp_path / "nofolder" / "new.sqlite", create=True)
    assert str(tmp_path / "nofolder") in caught.value.message
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_registry_is_called_so_before_its_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text("[data]\n", encoding="utf-8")
    with pytest.raises(Misconfigured, match="ERASURE_REGISTRY_FOREIGN") as caught:
        Registry(plan)
    assert f"{plan} is no registry" in caught.value.message
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Misconfigured, match="ERASURE_REGISTRY_FOREIGN") as caught:
        Registry(Path())
    assert caught.value.message.startswith(". is ")
    with pytest.raises(Misconfigured, match=r"there is no registry lost/erasure\.sqlite"):
        Registry(Path("lost/erasure.sqlite"))


def test_a_torn_file_is_an_error_without_its_text(tmp_path: Path, registry: Registry) -> None:
    for n in range(60):
        registry.add(NewRequest(
            kind="patient", target=f"secret-{n}", basis="b", received=date(2026, 1, 1),
            matches=(Match(record_id=f"secret-{n}", file_digest="d", reason="r", owned=True),),
        ), author=AUTHOR)
    with closing(sqlite3.connect(registry.path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = registry.path.read_bytes()
    torn = write_private(tmp_path / "torn", data[: len(data) // 2])
    with pytest.raises(MedunlearnError) as caught:
        Registry(torn).check()
    assert caught.value.code == "ERASURE_REGISTRY_FOREIGN"
    assert "secret" not in str(caught.value)


# -- many requests -------------------------------------------------------------------------


def test_one_request_s_history_costs_nothing_for_the_others(registry: Registry, add: Adder) -> None:
    """A claim reads them with the registry locked: one on 4,000 requests held it 15 seconds."""

    def steps() -> int:
        """What SQLite's machine does, counted: times would hang on the computer."""
        count = 0

        def counted() -> int:
            nonlocal count
            count += 1
            return 0

        with registry.transaction(write=False) as connection:
            connection.set_progress_handler(counted, 1)
            assert len(history.events(connection, 1)) == 1
        return count

    add("p1")
    alone = steps()
    for n in range(2, 40):
        add(f"p{n}")
    assert steps() < 2 * alone  # with the one statement for all: 18 times


# -- tampering -----------------------------------------------------------------------------


@pytest.mark.parametrize("statement", [
    "UPDATE history SET author = 'Nobody'", "DELETE FROM history",
    "UPDATE requests SET basis = 'x'", "UPDATE requests SET received = '2020-01-01'",
    "DELETE FROM requests", "UPDATE matches SET reason = 'x'", "DELETE FROM matches",
])
def test_facts_and_history_are_append_only(
    registry: Registry, add: Adder, statement: str
) -> None:
    add()
    with (
        closing(sqlite3.connect(registry.path)) as connection,
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
    ):
        connection.execute(statement)


TAMPERING = {
    "author": "UPDATE history SET author = 'Nobody' WHERE position = 2",
    "date": "UPDATE history SET at = '2020-01-01T00:00:00+00:00' WHERE position = 2",
    "detail": """UPDATE history SET detail = '{"identity": "not seen"}' WHERE position = 3""",
    "detail is no object": "UPDATE history SET detail = '[]' WHERE position = 3",
    "detail is no json": "UPDATE history SET detail = '{' WHERE position = 3",
    "detail is a number": "UPDATE history SET detail = 7 WHERE position = 3",
    "author is a blob": "UPDATE history SET author = x'ff' WHERE position = 3",
    "match is a blob": "UPDATE matches SET reason = x'ff' WHERE request = 2",
    "unknown state": "UPDATE history SET after = 'forgotten' WHERE position = 3",
    "last event lost": "DELETE FROM history WHERE position = 4",
    "middle event lost": "DELETE FROM history WHERE position = 3",
    "two events swapped": "UPDATE history SET position = CASE position WHEN 1 THEN -2 ELSE 1 END"
                          " WHERE position IN (1, 2);"
                          "UPDATE history SET position = 2 WHERE position = -2",
    "a digest": "UPDATE history SET digest = 'x' WHERE position = 4",
    "state": "UPDATE requests SET state = 'attested' WHERE number = 1",
    "count": "UPDATE requests SET events = 1 WHERE number = 1",
    "receipt": "UPDATE requests SET received = '2026-01-30' WHERE number = 1",
    "target": "UPDATE requests SET target = 'p2' WHERE number = 1",
    "basis": "UPDATE requests SET basis = 'other' WHERE number = 2",
    "match lost": "DELETE FROM matches WHERE record_id = 'p1-0'",
    "match added": "INSERT INTO matches VALUES (1, 'p9', 'd', 'r', 1, NULL)",
    "text exchanged": "UPDATE matches SET text_digest = 'e'",
    "text named later": "UPDATE matches SET text_digest = 'e' WHERE record_id = 'p1-0'",
    "request lost": "DELETE FROM requests WHERE number = 2",
    "request slipped in": "INSERT INTO requests VALUES (9, 'patient', 'p9', 'b', '2026-01-01',"
                          " 'validated', 0)",
}


@pytest.mark.parametrize("name", list(TAMPERING))
def test_tampering_behind_the_triggers_is_found(
    registry: Registry, add: Adder, name: str
) -> None:
    add("p1")
    add("p2")
    registry.validate(1, author=AUTHOR, identity="seen")
    registry.validate(2, author=AUTHOR, identity="seen")
    registry.check()
    with closing(sqlite3.connect(registry.path)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for (trigger,) in names.fetchall():
            connection.execute(f"DROP TRIGGER {trigger}")
        connection.executescript(TAMPERING[name])
        connection.commit()
    with pytest.raises(Rejected, match="ERASURE_HISTORY_TAMPERED") as caught:
        registry.check()
    assert "p1" not in str(caught.value) and "p9" not in str(caught.value)
    assert code_of(lambda: claim_on(registry)) == "ERASURE_HISTORY_TAMPERED"


@pytest.mark.parametrize("change", ["received = 'yesterday'", "received = x'ff'", "state = 'x'"])
def test_rows_that_were_never_written_so_are_no_internal_error(
    registry: Registry, add: Adder, change: str
) -> None:
    add()
    with closing(sqlite3.connect(registry.path)) as connection:
        connection.execute("DROP TRIGGER requests_keep_facts")
        connection.execute(f"UPDATE requests SET {change}")
        connection.commit()
    assert code_of(registry.requests) == "ERASURE_HISTORY_TAMPERED"


def test_an_untouched_registry_checks_and_its_head_moves(registry: Registry, add: Adder) -> None:
    heads = {registry.check()}
    for target in ("p1", "p2"):
        add(target)
        heads.add(registry.check())
    assert len(heads) == 3


def test_misconfigured_is_what_an_officer_can_mend(registry: Registry) -> None:
    with pytest.raises(Misconfigured, match="ERASURE_NONE_VALIDATED"):
        new_claim(registry.path)


def test_who_finds_nothing_to_run_hears_which_run_has_the_requests(
    registry: Registry, add: Adder
) -> None:
    for target in ("p1", "p2"):
        registry.validate(add(target).number, author=AUTHOR, identity="seen")
    Claim(registry=registry, numbers=(1, 2), token="t").take("heart-1")
    with pytest.raises(Misconfigured, match="ERASURE_NONE_VALIDATED") as caught:
        new_claim(registry.path)
    assert "erasure list" in caught.value.hint and "erasure due" not in caught.value.hint
    assert f"no request in {registry.path} waits" in caught.value.message
    assert "1, 2 are in run heart-1: resume it, or" in caught.value.hint
    assert "erasure reopen NUMBER" in caught.value.hint
