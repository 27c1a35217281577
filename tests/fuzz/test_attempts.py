"""What counts as a finding, and that the command keeps and counts it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attempts
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


@pytest.mark.slow
def test_the_command_counts_and_keeps_its_corpus(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(COMMAND), "--seconds", "0.5", "--target", "leave",
         "--corpus", str(tmp_path / "corpus"), "--findings", str(tmp_path / "findings")],
        capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("leave "))
    assert int(line.split()[1]) > 100 and line.endswith("0 findings")
    if importlib.util.find_spec("atheris") is None:
        assert "Atheris is not installed" in done.stdout
        return
    assert len(list((tmp_path / "corpus" / "leave").iterdir())) > 1
    hours = json.loads((tmp_path / "corpus" / "processor-seconds.json").read_text())
    assert hours["leave"] >= 0.5


def test_ours_is_no_finding_but_one_without_a_hint_is() -> None:
    from targets import accepted

    def refuse(hint: str) -> Callable[[], object]:
        def read() -> object:
            raise Rejected("CODE", "why", hint)

        return read

    assert not accepted(refuse("do this"))
    with pytest.raises(AssertionError):
        accepted(refuse(""))
