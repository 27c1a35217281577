"""What counts as a finding, and that the command keeps and counts it."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import attempts
import groups
import pytest
from attempts import Attempts
from targets import Target

from medunlearn_common.errors import Rejected

COMMAND = Path(__file__).with_name("fuzz.py")


def findings_of(folder: Path, attempt: Callable[[bytes], bool], *inputs: bytes) -> list[str]:
    """The tracebacks that are kept."""
    target = Target(seeds=[b"seed"], attempt=lambda _, content: attempt(content),
                    most_memory=64 << 20)
    made = Attempts("a, target", target, scratch=folder / "input", findings=folder / "findings")
    made.warm_up()
    for content in inputs:
        made.attempt(content)
    assert made.tally.attempts == 1 + len(inputs)
    return [(folder / "findings" / f"{stem}.txt").read_text() for stem in made.tally.findings]


def test_one_example_of_each_error_is_kept_with_its_input(tmp_path: Path) -> None:
    def attempt(content: bytes) -> bool:
        return bool({b"seed": 1, b"ok": 1}[content])

    found = findings_of(tmp_path, attempt, b"ok", b"other", b"third")
    assert len(found) == 1 and "KeyError" in found[0]
    kept, = (tmp_path / "findings").glob("a-target-*.input")
    assert kept.read_bytes() == b"other"


def test_a_panic_that_is_no_exception_is_a_finding(tmp_path: Path) -> None:
    class Panic(BaseException):
        pass

    def attempt(content: bytes) -> bool:
        if content == b"bad":
            raise Panic
        return True

    assert len(findings_of(tmp_path, attempt, b"bad")) == 1


def test_an_error_of_ours_that_has_swallowed_the_time_limit_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "SLOWEST_S", 0.05)

    def attempt(content: bytes) -> bool:
        try:
            while content == b"slow":
                pass
        except BaseException:
            return False
        return True

    assert "TooSlow" in findings_of(tmp_path, attempt, b"slow")[0]


def test_memory_beyond_what_a_target_may_take_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak = 1 << 30

    def attempt(content: bytes) -> bool:
        nonlocal peak
        peak += {b"some": 60 << 20, b"more": 65 << 20}.get(content, 0)
        return True

    monkeypatch.setattr(attempts, "peak_bytes", lambda: peak)
    # What all of them take together may be the fuzzer's own.
    assert findings_of(tmp_path, attempt, b"some", b"some", b"none") == []
    assert "memory grew by 65 MiB" in findings_of(tmp_path, attempt, b"some", b"more", b"none")[0]


GUIDED = importlib.util.find_spec("atheris") is not None


def command(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command, at the cheapest of targets unless another is named."""
    return subprocess.Popen(
        [sys.executable, str(COMMAND), "--corpus", str(folder / "corpus"),
         "--findings", str(folder / "findings"), "--target", "leave", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder)


def hours(folder: Path) -> dict[str, float]:
    """Processor seconds that the corpus remembers."""
    path = folder / "corpus" / "processor-seconds.json"
    return json.loads(path.read_text()) if path.is_file() else {}


@pytest.mark.slow
def test_the_command_counts_and_keeps_its_corpus(tmp_path: Path) -> None:
    done = command(tmp_path, "--seconds", "0.5", "--target", "cbor", "--jobs", "2")
    output, _ = done.communicate()
    assert done.returncode == 0, output
    lines = {line.split()[0]: line for line in output.splitlines()}
    for name in ("leave", "cbor"):
        assert int(lines[name].split()[1]) > 100 and lines[name].endswith("0 findings")
    if not GUIDED:
        assert "Atheris is not installed" in output
        return
    assert len(list((tmp_path / "corpus" / "leave").iterdir())) > 1
    assert min(hours(tmp_path).values()) >= 0.5

    had = hours(tmp_path)["leave"]
    again = command(tmp_path, "--up-to", str(had + 0.5))
    output, _ = again.communicate()
    assert again.returncode == 0 and had + 0.5 <= hours(tmp_path)["leave"] < had + 3
    again = command(tmp_path, "--up-to", str(had))
    assert "leave  " not in again.communicate()[0]


@pytest.mark.slow
@pytest.mark.skipif(not GUIDED, reason="Atheris is not installed: no minutes are kept")
def test_ctrl_c_keeps_the_minutes_and_leaves_no_process_behind(tmp_path: Path) -> None:
    running = command(tmp_path, "--seconds", "600")
    corpus = tmp_path / "corpus" / "leave"
    until = time.monotonic() + 60
    while not (corpus.is_dir() and len(list(corpus.iterdir())) > 3):
        assert time.monotonic() < until and running.poll() is None
        time.sleep(0.05)
    time.sleep(1)  # of which some is its own even on a loaded machine
    running.send_signal(signal.SIGINT)
    output, _ = running.communicate(timeout=30)  # the pipe ends with the last process
    assert running.returncode == 0 and "0 findings" in output
    assert 0 < hours(tmp_path)["leave"] < 100


def test_every_target_is_of_one_loader_or_parser() -> None:
    from targets import TARGETS

    grouped = [name for names in groups.GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(TARGETS)


@pytest.mark.parametrize(
    ("had", "up_to", "expected"),
    [
        ((0.0, 0.0), 60.0, (30.0, 30.0)), ((10.0, 0.0), 60.0, (20.0, 30.0)),
        ((50.0, 0.0, 2.0), 60.0, (0.0, 5.0, 3.0)), ((70.0, 0.0), 60.0, (0.0, 0.0)),
        ((7.0,), 60.0, (53.0,)), ((4.0, 1.0, 4.0), 12.0, (0.0, 3.0, 0.0)),
    ],
)
def test_what_a_group_lacks_goes_to_its_targets_that_had_least(
    had: tuple[float, ...], up_to: float, expected: tuple[float, ...]
) -> None:
    names = [f"t{place}" for place in range(len(had))]
    found = groups.lacking(names, dict(zip(names, had, strict=True)), up_to=up_to)
    assert [round(found[name], 6) for name in names] == list(expected)


def test_the_minutes_of_two_runs_at_once_add_up(tmp_path: Path) -> None:
    import fuzz

    one, other = fuzz.Hours(tmp_path), fuzz.Hours(tmp_path)
    one.add("cbor", 2.0)
    other.add("plan", 3.0)
    one.add("plan", 4.0)
    assert fuzz.Hours(tmp_path).seconds == {"cbor": 2.0, "plan": 7.0}


@pytest.mark.slow
def test_a_process_that_dies_leaves_its_last_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fuzz

    def die(content: bytes) -> bool:
        if content != b"seed":
            os.abort()
        return True

    monkeypatch.setitem(fuzz.TARGETS, "dies", Target(
        seeds=[b"seed"], attempt=lambda _, content: die(content), most_memory=64 << 20))
    findings = tmp_path / "findings"
    campaign = fuzz.Campaign(
        {"dies": 5.0}, hours=fuzz.Hours(None), seed=0,
        child=partial(fuzz.Child, findings=findings, corpus=tmp_path / "corpus"))
    (name, tally), = campaign.run(1)
    assert name == "dies" and len(tally.findings) == 1
    kept, = findings.glob("*.input")
    assert kept.read_bytes() != b"seed"
    assert "the process died: -6" in (findings / f"{tally.findings[0]}.txt").read_text()


def test_ours_is_no_finding_but_one_without_a_hint_is() -> None:
    from targets import accepted

    def refuse(hint: str) -> Callable[[], object]:
        def read() -> object:
            raise Rejected("CODE", "why", hint)

        return read

    assert not accepted(refuse("do this"))
    with pytest.raises(AssertionError):
        accepted(refuse(""))
