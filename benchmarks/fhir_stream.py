"""A FHIR bulk export through the reader: peak memory and rows per second, by size.

    python benchmarks/fhir_stream.py [--megabytes 20 300] [--folder DIR] [--keep] [--plain]

For each size an NDJSON export (one file per resource type, as bulk exports are) is generated
in the folder, then read by a fresh process each, so that peak memory is that of one size.
Bounded memory shows as equal peaks: ``--megabytes 50 5000`` needs 7 GB of disk. ``--plain``
leaves out validation, to show what it costs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONDITIONS = [("38341003", "Hypertension"), ("44054006", "Diabetes mellitus type 2"),
              ("195967001", "Asthma"), ("10509002", "Acute bronchitis"),
              ("444814009", "Viral sinusitis (disorder)"), ("271737000", "Anemia (disorder)")]
DRUGS = [("314076", "Lisinopril 10 MG Oral Tablet"), ("860975", "Metformin 500 MG Oral Tablet"),
         ("308136", "Amlodipine 2.5 MG Oral Tablet"), ("313782", "Acetaminophen 325 MG")]
MEASURES = [("8302-2", "Body Height", "cm", 170), ("29463-7", "Body Weight", "kg", 75),
            ("2339-0", "Glucose", "mg/dL", 95), ("2093-3", "Total Cholesterol", "mg/dL", 190),
            ("4548-4", "Hemoglobin A1c", "%", 5.5)]
OBSERVATIONS_PER_PATIENT = 120
BILLS_PER_PATIENT = 30


def main() -> None:
    """Generate, read and print one line per size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[20, 300])
    parser.add_argument("--folder", type=Path, default=None, help="where the exports are written")
    parser.add_argument("--keep", action="store_true", help="keep the exports")
    parser.add_argument("--plain", action="store_true", help="without FHIR validation")
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="fhir-stream-"))
    for megabytes in asked.megabytes:
        export = folder / f"export-{megabytes}"
        resources = generate(export, megabytes << 20)
        size = sum(path.stat().st_size for path in export.iterdir()) >> 20
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            figures = pool.apply(measure, (export, asked.plain))
        rate = resources / figures["seconds"]
        print(f"{size} MB, {resources} resources -> {figures['records']} records: "
              f"{figures['seconds']:.0f} s ({figures['cpu_seconds']:.0f} s of processor), "
              f"{rate:.0f} resources/s, "
              f"{size / figures['seconds']:.1f} MB/s, peak {figures['peak_mb']:.0f} MB resident "
              f"({figures['start_mb']:.0f} MB before reading)", flush=True)
        if not asked.keep:
            shutil.rmtree(export)


def generate(export: Path, size_bytes: int) -> int:
    """Writes patients until the export has the size; returns the number of resources."""
    export.mkdir(parents=True, exist_ok=True)
    generator = random.Random(0)
    written = count = number = 0
    streams: dict[str, Any] = {}
    try:
        while written < size_bytes:
            for item in patient_resources(number, generator):
                kind = item["resourceType"]
                if kind not in streams:
                    streams[kind] = (export / f"{kind}.ndjson").open("w", encoding="utf-8")
                written += streams[kind].write(json.dumps(item) + "\n")
                count += 1
            number += 1
    finally:
        for stream in streams.values():
            stream.close()
    return count


def patient_resources(number: int, generator: random.Random) -> Iterator[dict[str, Any]]:
    """A patient with conditions, prescriptions, measurements and bills."""
    me = f"p{number:08d}"
    subject = {"reference": f"Patient/{me}"}
    yield {
        "resourceType": "Patient", "id": me, "birthDate": day(generator, 1930, 2010),
        "name": [{"use": "official", "family": f"Family{number}", "given": [f"Given{number}"]}],
        "telecom": [{"system": "phone", "value": f"555-{number % 900 + 100}-{number % 9000}"}],
        "identifier": [{"type": {"coding": [{"code": "SS"}]}, "value": f"999-{number:07d}"}],
    }
    for index in range(4):
        yield {"resourceType": "Condition", "id": f"{me}-c{index}", "subject": subject,
               "code": concept(*generator.choice(CONDITIONS)),
               "onsetDateTime": moment(generator)}
        yield {"resourceType": "MedicationRequest", "id": f"{me}-m{index}", "subject": subject,
               "status": "active", "intent": "order", "authoredOn": moment(generator),
               "medicationCodeableConcept": concept(*generator.choice(DRUGS))}
    for index in range(OBSERVATIONS_PER_PATIENT):
        code, name, unit, middle = generator.choice(MEASURES)
        yield {"resourceType": "Observation", "id": f"{me}-o{index}", "status": "final",
               "subject": subject, "code": concept(code, name),
               "effectiveDateTime": moment(generator),
               "valueQuantity": {"value": middle * generator.uniform(0.8, 1.2), "unit": unit}}
    for index in range(BILLS_PER_PATIENT):
        yield {"resourceType": "Claim", "id": f"{me}-b{index}", "status": "active",
               "patient": subject, "created": moment(generator), "padding": "x" * 1500}


def concept(code: str, name: str) -> dict[str, Any]:
    """A CodeableConcept."""
    return {"coding": [{"code": code, "display": name}], "text": name}


def day(generator: random.Random, first: int, last: int) -> str:
    """A date between two years."""
    return f"{generator.randint(first, last)}-{generator.randint(1, 12):02d}-" \
           f"{generator.randint(1, 28):02d}"


def moment(generator: random.Random) -> str:
    """A date with a time."""
    return f"{day(generator, 2000, 2024)}T10:00:00+01:00"


def measure(export: Path, plain: bool) -> dict[str, float]:
    """Reads the export in this process; peak resident memory in MB."""
    from medunlearn_client.records import ReadOptions, stream_records
    from medunlearn_client.records.fhir import export as fhir_export
    from medunlearn_client.records.fhir import resources as fhir_resources

    if plain:
        fhir_export.validate = lambda resource: None
    fhir_resources.is_known_type("Patient")  # imports the library
    start_mb = resident_peak_mb()
    start, cpu_start = time.perf_counter(), time.process_time()
    records = sum(1 for _ in stream_records(export, options=ReadOptions(record_format="fhir")))
    return {"seconds": time.perf_counter() - start, "records": records,
            "cpu_seconds": time.process_time() - cpu_start,
            "peak_mb": resident_peak_mb(), "start_mb": start_mb}


def resident_peak_mb() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
