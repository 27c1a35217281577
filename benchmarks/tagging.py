"""How fast the tagger reads, and how much of the public data each concept level covers.

    python benchmarks/tagging.py [--data ../shared/data] [--hierarchy builtin ...]
                                 [--forget-root MU:S0001 ...] [--repeat 3]

For each data set: characters per second of finding concepts alone and of tagging whole records
(with negation, family history and doubt told apart in patients' records), the best of several
passes in one process; and for each level the share of records that mention it, mentions per
record, and the share of characters inside mentions. A data set that is not there is left out.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medunlearn_client.records import Record, prompt_from_question, read_records
from medunlearn_client.tagging import ConceptTagger
from medunlearn_common.concepts import load_hierarchies

LEVELS = (1, 2, 3, 4)


def main() -> None:
    """Read what is there, measure, print one block per data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("MEDUNLEARN_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--hierarchy", nargs="+", default=["builtin"])
    parser.add_argument("--forget-root", nargs="*", default=["MU:S0001"])
    parser.add_argument("--repeat", type=int, default=3)
    asked = parser.parse_args()
    started = time.process_time()
    hierarchy = load_hierarchies(asked.hierarchy).with_forget_roots(asked.forget_root)
    tagger = ConceptTagger(hierarchy)
    print(f"{len(hierarchy.hierarchy)} concepts of {hierarchy.hierarchy.source}, tagger built in "
          f"{time.process_time() - started:.1f} s")
    for name, (file, read) in DATA_SETS.items():
        path = asked.data / file
        if path.is_file():
            report(name, read(path), tagger, repeat=asked.repeat)
        else:
            print(f"{name}: no file {path}, left out")


def report(name: str, records: Sequence[Record], tagger: ConceptTagger, *, repeat: int) -> None:
    """Print speed and coverage of one data set."""
    texts = [record.text for record in records]
    characters = sum(map(len, texts))
    alone = min(seconds(tagger.tag, texts) for _ in range(repeat))
    whole = min(seconds(tagger.tag_record, records) for _ in range(repeat))
    print(f"{name}: {len(records)} records, {characters / 1e6:.2f} M characters; concepts "
          f"{characters / alone / 1e6:.1f} M/s, whole records {characters / whole / 1e6:.1f} M/s")
    mentions, covered, holding = Counter[int](), Counter[int](), Counter[int]()
    said = Counter[str]()
    for record in records:
        spans = tagger.tag_record(record)
        mentions.update(int(span.level) for span in spans)
        said.update(span.assertion.value for span in spans)
        holding.update({int(span.level) for span in spans})
        for span in spans:
            covered[int(span.level)] += span.end - span.start
    for level in LEVELS:
        print(f"  level {level}: {holding[level] / len(records):6.1%} of records, "
              f"{mentions[level] / len(records):5.2f} mentions per record, "
              f"{covered[level] / characters:5.1%} of characters")
    print("  " + ", ".join(f"{count} {kind}" for kind, count in sorted(said.items())))


def seconds(tag: Callable[[Any], object], items: Sequence[Any]) -> float:
    """CPU seconds of one pass."""
    started = time.process_time()
    for item in items:
        tag(item)
    return time.process_time() - started


def read_medquad(path: Path) -> list[Record]:
    """Question and answer of each row that has both."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [
        Record(
            record_id=str(number), prompt=prompt_from_question(row["question"]),
            answer=row["answer"].strip(),
        )
        for number, row in enumerate(rows)
        if (row["answer"] or "").strip()
    ]


DATA_SETS: dict[str, tuple[str, Callable[[Path], list[Record]]]] = {
    "MedMCQA": ("medmcqa_validation.jsonl.gz", read_records),
    "MedQuAD": ("medquad.jsonl.gz", read_medquad),
    "Synthea": ("synthea_r4_patients.jsonl.gz", read_records),
}

if __name__ == "__main__":
    main()
