"""Commitments to requests: what they hide, what they bind, and what destroying the key does."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from medunlearn_client.erasure import Registry
from medunlearn_client.erasure.commitments import SLOTS, commit, destroy_key
from medunlearn_client.erasure.requests import ErasureRequest
from medunlearn_common.errors import MedunlearnError, Misconfigured

Adder = Callable[..., ErasureRequest]


def key_file(registry: Registry) -> Path:
    return registry.path.with_name(registry.path.name + ".key")


@pytest.fixture
def numbers(add: Adder) -> list[int]:
    return [add().number, add(again=True).number, add(again=True).number]


def test_same_run_same_root_and_another_run_another(
    registry: Registry, numbers: list[int]
) -> None:
    first = commit(registry, numbers, run_id="one")
    assert commit(registry, numbers, run_id="one") == first
    other = commit(registry, numbers, run_id="two")
    assert other.root != first.root
    assert not {o.key for o in first.openings.values()} & {o.key for o in other.openings.values()}
    assert stat.S_IMODE(key_file(registry).stat().st_mode) == 0o600


def test_a_root_does_not_tell_how_many(registry: Registry, numbers: list[int]) -> None:
    for some in (numbers[:1], numbers):
        commitments = commit(registry, some, run_id="one")
        assert {opening.size for opening in commitments.openings.values()} == {SLOTS}
        assert {len(opening.proof) for opening in commitments.openings.values()} == {10}
    assert len(commit(registry, [], run_id="one").root) == 64


def test_one_request_opened_and_nothing_else(registry: Registry, numbers: list[int]) -> None:
    commitments = commit(registry, numbers[:2], run_id="one")
    opening = commitments.openings[numbers[0]]
    assert opening.is_under(commitments.root)
    outside = commit(registry, numbers, run_id="one").openings[numbers[2]]
    assert not outside.is_under(commitments.root)
    for changed in (
        replace(opening, key=bytes(32)), replace(opening, index=opening.index ^ 1),
        replace(opening, facts={**opening.facts, "basis": "another"}),
        replace(opening, proof=opening.proof[1:]),
    ):
        assert not changed.is_under(commitments.root)


def test_a_guess_at_the_patient_is_of_no_use_without_the_key(
    registry: Registry, numbers: list[int]
) -> None:
    """The guesser knows every fact of the request, and the run; only the key is missing."""
    root = commit(registry, numbers, run_id="one").root
    copied = registry.path.with_name("stolen.sqlite")
    copied.write_bytes(registry.path.read_bytes())
    copied.chmod(0o600)
    guess = commit(Registry(copied), numbers, run_id="one")
    assert guess.root != root
    assert not any(opening.is_under(root) for opening in guess.openings.values())


def test_destroyed_key_makes_commitments_unlinkable(
    registry: Registry, numbers: list[int]
) -> None:
    before = commit(registry, numbers, run_id="one")
    given = before.openings[numbers[0]]
    destroy_key(registry.path)
    assert not key_file(registry).exists()
    after = commit(registry, numbers, run_id="one")  # a new key
    assert after.root != before.root
    assert not any(opening.is_under(before.root) for opening in after.openings.values())
    assert given.is_under(before.root)  # what was shown before stays shown
    destroy_key(registry.path)
    with pytest.raises(Misconfigured, match="ERASURE_KEY_MISSING"):
        destroy_key(registry.path)


def test_key_that_others_may_read_is_refused(registry: Registry, numbers: list[int]) -> None:
    commit(registry, numbers, run_id="one")
    key_file(registry).chmod(0o640)
    for act in (lambda: commit(registry, numbers, run_id="one"),
                lambda: destroy_key(registry.path)):
        with pytest.raises(MedunlearnError, match="KEY_FILE_MODE"):
            act()


def test_nothing_shows_ids_or_keys(registry: Registry, numbers: list[int]) -> None:
    commitments = commit(registry, numbers, run_id="one")
    target = registry.request(numbers[0]).target
    shown = repr(commitments) + repr(commitments.openings[numbers[0]])
    assert target is not None and target not in shown
    assert key_file(registry).read_text() not in shown and "key=" not in shown
