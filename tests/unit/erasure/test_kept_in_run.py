"""A run that stops says how it goes on, and how its requests become free again."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from medunlearn_client.erasure import Claim, ErasureRequest, Registry, State
from medunlearn_client.erasure.claim_file import keep_claim, kept_claim
from medunlearn_client.erasure.run_figures import outcome_lines
from medunlearn_client.site_data import FederationRecords
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.plan import plan_from_text
from medunlearn_simulation import simulate
from medunlearn_simulation.progress import PhaseBoard
from medunlearn_simulation.run_folder import RunFolder
from medunlearn_simulation.stopping import Terminated, sigterm_like_ctrl_c, words_when_stopped

QUIET = PhaseBoard(quiet=True)
Adder = Callable[..., ErasureRequest]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "m2").mkdir(parents=True)
    return RunFolder(root=tmp_path / "runs" / "m2")


@pytest.fixture
def claim(registry: Registry, add: Adder) -> Claim:
    """On requests 1 and 2, which were validated."""
    for target in ("p1", "p2"):
        registry.validate(add(target).number, author="A", identity="passport seen")
    return Claim(registry=registry, numbers=(1, 2), token="t")


def hint_of(folder: RunFolder, claim: Claim | None, code: str = "GATE_UTILITY") -> str:
    with pytest.raises(Rejected) as caught, words_when_stopped(folder, claim, QUIET):
        raise Rejected(code, "too much was lost", "look into it")
    return caught.value.hint


def interrupted(folder: RunFolder, claim: Claim | None) -> str:
    """What stands on the terminal, although the board is quiet."""
    shown = io.StringIO()
    board = PhaseBoard(quiet=True, console=Console(file=shown))
    with pytest.raises(KeyboardInterrupt), words_when_stopped(folder, claim, board):
        raise KeyboardInterrupt
    return shown.getvalue()


def test_the_hint_of_a_failed_run_names_its_folder_reopen_and_the_requests(
    folder: RunFolder, claim: Claim
) -> None:
    claim.take("run")
    assert hint_of(folder, claim).startswith(
        "look into it; its erasure requests (1, 2) stay in_run until it is resumed with "
        "`medunlearn simulate --resume runs/m2`, or given up with `medunlearn erasure reopen"
    )
    assert hint_of(folder, None) == "look into it"


def test_requests_that_the_run_does_not_hold_are_not_spoken_of(
    folder: RunFolder, claim: Claim
) -> None:
    assert hint_of(folder, claim) == "look into it"
    claim.take("run")
    claim.registry.reopen(2, author="A", reason="given up")
    assert "its erasure requests (1) stay" in hint_of(folder, claim)
    assert hint_of(folder, claim, "RUN_LOCKED") == "look into it"  # another process has them


def test_requests_of_a_registry_that_cannot_be_asked_are_all_named(
    folder: RunFolder, claim: Claim
) -> None:
    claim.registry.path.unlink()
    assert "its erasure requests (1, 2) stay" in hint_of(folder, claim)


def test_an_interrupted_run_says_how_it_goes_on_also_where_it_is_quiet(
    folder: RunFolder, claim: Claim
) -> None:
    folder.run_file.touch()
    claim.take("run")
    shown = interrupted(folder, claim)
    assert shown.startswith("to go on: medunlearn simulate --resume runs/m2\nits erasure requests")
    assert "stay in_run" in shown
    assert interrupted(folder, None) == "to go on: medunlearn simulate --resume runs/m2\n"


def test_a_fault_says_it_too(folder: RunFolder, claim: Claim) -> None:
    shown = io.StringIO()
    board = PhaseBoard(quiet=True, console=Console(file=shown))
    with pytest.raises(KeyError), words_when_stopped(folder, claim, board):
        raise KeyError
    assert not shown.getvalue()
    claim.take("run")
    with pytest.raises(KeyError), words_when_stopped(folder, claim, board):
        raise KeyError
    assert shown.getvalue().startswith("its erasure requests (1, 2) stay in_run")


def test_an_interruption_before_the_start_says_that_nothing_was_begun(
    folder: RunFolder, claim: Claim
) -> None:
    assert interrupted(folder, claim) == (
        "nothing was begun and no request was taken: give the same command again\n")
    assert interrupted(folder, None) == "nothing was begun: give the same command again\n"
    claim.take("run")
    assert "nothing was begun" not in interrupted(folder, claim)


def test_sigterm_is_an_interruption_and_then_what_it_was_before() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), sigterm_like_ctrl_c():
        os.kill(os.getpid(), signal.SIGTERM)
    assert issubclass(Terminated, KeyboardInterrupt)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_registry_that_is_gone_is_put_back_and_not_made_anew(
    folder: RunFolder, claim: Claim
) -> None:
    keep_claim(folder.erasure_file, claim)
    claim.registry.path.unlink()
    with pytest.raises(Misconfigured, match="ERASURE_REGISTRY_MISSING") as caught:
        kept_claim(folder.erasure_file)
    assert "from its backup" in caught.value.hint and "erasure add" not in caught.value.hint


def test_a_run_does_not_go_on_with_an_older_copy_of_its_registry(
    folder: RunFolder, claim: Claim, add: Adder, backed_up: Callable[[], Callable[[], None]]
) -> None:
    """Its numbers are given again: the run forgot one patient and marked another's request."""
    put_back = backed_up()
    registry = claim.registry
    third = add("p3").number
    registry.validate(third, author="A", identity="passport seen")
    claim = replace(claim, numbers=(third,))
    claim.take("run")
    keep_claim(folder.erasure_file, claim)
    kept = kept_claim(folder.erasure_file)
    assert kept is not None and kept.held() == (third,)
    put_back()
    with pytest.raises(Misconfigured, match="ERASURE_REGISTRY_ROLLBACK") as caught:
        kept_claim(folder.erasure_file)
    assert "put the newest copy back" in caught.value.hint
    assert add("p4").number == third
    with pytest.raises(Misconfigured, match="ERASURE_REGISTRY_ROLLBACK"):
        kept_claim(folder.erasure_file)


def test_a_run_that_cannot_go_on_takes_back_no_request_that_was_reopened(
    folder: RunFolder, claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stayed in_run, and the next run left its records out."""
    claim.take("run")
    keep_claim(folder.erasure_file, claim)
    claim.registry.reopen(1, author="A", reason="given up")
    facts = SimpleNamespace(run_id="run", model="m", retrained=None)
    monkeypatch.setattr(RunFolder, "read_start", lambda _: (plan_from_text("[run]\n"), facts))
    monkeypatch.setattr(simulate, "prepare_records", lambda *_, **__: prepared)
    prepared = SimpleNamespace(federation=FederationRecords(sites=(), nonmembers=(), repeated=0))

    def changed(*_: object) -> None:
        raise Rejected("DATA_CHANGED", "the record files are others", "put them back")

    monkeypatch.setattr(simulate, "_require_models", lambda *_: None)
    monkeypatch.setattr(simulate, "_require_same_records", changed)
    with pytest.raises(Rejected, match="DATA_CHANGED"):
        simulate.restart(folder.root, QUIET)
    states = [claim.registry.request(number).state for number in (1, 2)]
    assert states == [State.VALIDATED, State.IN_RUN]


def test_of_a_request_that_was_withdrawn_meanwhile_the_adapter_forgets_the_records(
    claim: Claim
) -> None:
    claim.take("run")
    claim.registry.reopen(2, author="A", reason="given up")
    claim.registry.withdraw(2, author="A", reason="by telephone")
    first, second = outcome_lines(claim)
    assert first == "erasure request 1: in_run"
    assert second == ("erasure request 2: withdrawn, taken back from this run, whose adapter "
                      "forgets its records all the same")
