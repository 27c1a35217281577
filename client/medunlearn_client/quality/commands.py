"""``medunlearn check-data``: what a person should look at before a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console

from medunlearn_common.errors import Misconfigured

if TYPE_CHECKING:
    from medunlearn_client.quality import DamagedWord, DuplicateGroup
    from medunlearn_client.records import Record

DUPLICATES_FILE: Final = "duplicates.csv"
DAMAGE_FILE: Final = "damaged_words.csv"
_DUPLICATE_COLUMNS: Final = ("group", "kind", "similarity", "record", "question", "answer")
_DAMAGE_COLUMNS: Final = (
    "record", "part", "start", "end", "word", "proposal", "other_proposals", "sure", "around",
)
_AROUND_CHARS: Final = 40


def check_data(
    files: Annotated[
        list[Path], typer.Argument(help="Record files (JSON lines, .gz too).", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the two tables.")
    ] = None,
    record_format: Annotated[str, typer.Option("--format", help="Record format.")] = "auto",
    threshold: Annotated[
        float, typer.Option("--threshold", help="Similarity of near-duplicates, 0 to 1.")
    ] = 0.8,
    lost: Annotated[
        list[str] | None, typer.Option("--lost", help="Letters that may be lost; repeatable.")
    ] = None,
    hierarchy: Annotated[
        list[str] | None, typer.Option("--hierarchy", help="Vouches for words; repeatable.")
    ] = None,
) -> None:
    """List near-duplicates, contradictions and damaged words; nothing is changed.

    The tables hold text of records, open in a spreadsheet, and are readable by their owner only.

    Examples:

      medunlearn check-data questions.jsonl.gz

      medunlearn check-data questions.jsonl.gz --out checked --lost rt --lost fi
    """
    from medunlearn_client.quality import damaged_words, near_duplicates, vocabulary_of
    from medunlearn_client.quality.glyphs import LOST_LETTERS
    from medunlearn_client.records import read_records
    from medunlearn_client.spreadsheets import write_table
    from medunlearn_common.concepts import load_hierarchies

    letters = tuple(lost or LOST_LETTERS)
    _check_options(threshold, letters)
    records = read_records(files, record_format=record_format)
    groups = near_duplicates(records, threshold=threshold)
    damage = damaged_words(
        records, vocabulary=vocabulary_of(load_hierarchies(hierarchy or ["builtin"])), lost=letters
    )
    console = Console(highlight=False)
    for line in summary(records, groups, damage):
        console.print(line, markup=False, soft_wrap=True)
    if out is not None:
        write_table(out / DUPLICATES_FILE, _DUPLICATE_COLUMNS, _duplicate_rows(records, groups))
        write_table(out / DAMAGE_FILE, _DAMAGE_COLUMNS, _damage_rows(records, damage))
        console.print(
            f"wrote {out / DUPLICATES_FILE} and {out / DAMAGE_FILE}", markup=False, soft_wrap=True
        )


def summary(
    records: Sequence[Record], groups: Sequence[DuplicateGroup], damage: Sequence[DamagedWord]
) -> list[str]:
    """Counts, without any record's text."""
    kinds = Counter(group.kind for group in groups)
    rows = Counter[str]()
    for group in groups:
        rows[group.kind] += len(group.record_ids)
    listed = ", ".join(f"{n} {kind} group(s) of {rows[kind]} rows" for kind, n in kinds.items())
    damaged = {one.record_id for one in damage}
    return [
        f"{len(records)} records",
        f"near-duplicates: {listed or 'none'}",
        f"damaged words: {len(damage)} in {len(damaged)} record(s), "
        f"{sum(one.sure for one in damage)} with one sure proposal",
    ]


def _check_options(threshold: float, letters: Sequence[str]) -> None:
    if not 0.0 < threshold <= 1.0:
        raise Misconfigured(
            "CHECK_THRESHOLD", f"the threshold {threshold} is outside (0, 1]", "use 0.8, say"
        )
    if not all(one.isalpha() and one.islower() for one in letters):
        raise Misconfigured(
            "CHECK_LETTERS", "lost letters are not lower-case letters", "use --lost rt, say"
        )


def _duplicate_rows(
    records: Sequence[Record], groups: Sequence[DuplicateGroup]
) -> Iterator[dict[str, str]]:
    by_id = {record.record_id: record for record in records}
    for number, group in enumerate(groups, start=1):
        for record_id in group.record_ids:
            yield {
                "group": str(number), "kind": group.kind.value,
                "similarity": f"{group.similarity:.3f}", "record": record_id,
                "question": by_id[record_id].prompt, "answer": by_id[record_id].answer,
            }


def _damage_rows(
    records: Sequence[Record], damage: Sequence[DamagedWord]
) -> Iterator[dict[str, str]]:
    by_id = {record.record_id: record for record in records}
    for one in damage:
        text = _part(by_id[one.record_id], one.part)
        yield {
            "record": one.record_id, "part": one.part, "start": str(one.start),
            "end": str(one.end), "word": one.word, "proposal": one.proposals[0],
            "other_proposals": " | ".join(one.proposals[1:]),
            "sure": "yes" if one.sure else "check",
            "around": text[max(0, one.start - _AROUND_CHARS) : one.end + _AROUND_CHARS],
        }


def _part(record: Record, part: str) -> str:
    if part == "prompt":
        return record.prompt
    if part == "answer":
        return record.answer
    return record.options[int(part.removeprefix("option ")) - 1]
