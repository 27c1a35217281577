"""A registry with a clock that tests set, and small record files."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from medunlearn_client.erasure import ErasureRequest, Match, NewRequest, Registry

AUTHOR = "A. Officer"


class Clock:
    """Noon of a day that a test may move."""

    def __init__(self, day: str) -> None:
        self.day = date.fromisoformat(day)

    def __call__(self) -> datetime:
        return datetime(self.day.year, self.day.month, self.day.day, 12, tzinfo=UTC)


@pytest.fixture
def clock() -> Clock:
    return Clock("2026-01-31")


@pytest.fixture
def registry(tmp_path: Path, clock: Clock) -> Registry:
    return Registry(tmp_path / "erasure.sqlite", create=True, clock=clock)


Adder = Callable[..., ErasureRequest]


@pytest.fixture
def add(registry: Registry) -> Adder:
    """Adds a request for a patient with two records."""

    def adder(target: str | None = "p1", **changes: Any) -> ErasureRequest:
        matches = () if target is None else tuple(
            Match(record_id=f"{target}-{n}", file_digest="d" * 64, reason="patient id", owned=True)
            for n in range(2)
        )
        given: dict[str, Any] = {
            "kind": "patient", "target": target, "matches": matches, "basis": "b",
            "received": date(2026, 1, 31), **changes,
        }
        return registry.add(NewRequest(**given), author=AUTHOR)

    return adder


@pytest.fixture
def backed_up(registry: Registry) -> Callable[[], Callable[[], None]]:
    """Copies the registry as it is now; what it returns puts the copy in its place."""

    def copier() -> Callable[[], None]:
        with closing(sqlite3.connect(registry.path)) as source:
            copy = source.serialize()

        def put_back() -> None:
            for suffix in ("-wal", "-shm"):
                registry.path.with_name(registry.path.name + suffix).unlink(missing_ok=True)
            registry.path.write_bytes(copy)

        return put_back

    return copier


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows of ``(id, patient id, text)`` as records; the text is marked as the patient's."""

    def writer(*rows: tuple[str, str | None, str], name: str = "records.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(
            json.dumps({"id": key, "prompt": text, "answer": "yes",
                        **({"patient_id": owner, "target_spans": [[0, len(text)]]}
                           if owner else {})}) + "\n"
            for key, owner, text in rows
        ), encoding="utf-8")
        return path

    return writer
