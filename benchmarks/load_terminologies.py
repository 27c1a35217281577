"""CPU time and peak memory of the terminology loaders, each in a process of its own.

    python benchmarks/load_terminologies.py                  generated releases
    python benchmarks/load_terminologies.py FILE FOLDER ...  these instead

Generated are a UMLS release with half a million rows in MRCONSO and as many in MRREL, MeSH
descriptor XML of about 300 MB, and a SNOMED CT Snapshot of 100,000 concepts. Names are made of
letters; sizes and columns are those of the publishers.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "terminologies"))

import terminology_samples as samples

_LOAD = """
import resource, sys, time
from medunlearn_common.concepts import load_hierarchy
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.process_time()
hierarchy = load_hierarchy(sys.argv[1])
seconds = time.process_time() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(f"{len(hierarchy):>8} concepts {seconds:7.1f} s CPU  peak {peak / 1024:7.0f} MiB"
      f"  (imports {base / 1024:.0f})")
"""


def write_umls(folder: Path, *, rows: int = 500_000) -> Path:
    """A tree of concepts with three names each."""
    folder.mkdir()
    cuis = [f"C{number:07d}" for number in range(rows // 3 + 1)]
    with (folder / "MRCONSO.RRF").open("w") as stream:
        for number in range(rows):
            concept, place = divmod(number, 3)
            term = f"Disorder {concept} of the part {number % 997} type {place}"
            stream.write(samples.conso(
                cuis[concept], term, number=number, ts="P" if place == 0 else "S",
                tty="MH" if place == 0 else "ET", code=f"D{concept:06d}",
            ))  # fmt: skip
    with (folder / "MRREL.RRF").open("w") as stream:
        for number in range(rows):
            child = 1 + number % (len(cuis) - 1)
            relation = ("PAR", "CHD", "RO")[number * 3 // rows]
            first, second = cuis[child], cuis[(child - 1) // 8]
            if relation == "CHD":
                first, second = second, first
            stream.write(samples.rel(first, relation, second, number=number))
    (folder / "MRSTY.RRF").write_text(
        "".join(f"{cui}|T047|B2.2.1.2.1|Disease or Syndrome|AT1||\n" for cui in cuis)
    )
    (folder / "MRSAB.RRF").write_text(samples.sab("MSH"))
    return folder


def write_mesh(path: Path, *, descriptors: int = 30_000, bytes_each: int = 10_000) -> Path:
    """Descriptors with ten entry terms each and the bulk of other elements that NLM adds."""
    head, _, tail = samples.mesh_xml(["HERE"]).partition("HERE")
    bulk = "".join(
        f"<AllowableQualifier><QualifierReferredTo><QualifierUI>Q{n:06d}</QualifierUI>"
        f"<QualifierName><String>qualifier {n}</String></QualifierName></QualifierReferredTo>"
        "</AllowableQualifier>" for n in range(bytes_each // 160)
    )  # fmt: skip
    with path.open("w") as stream:
        stream.write(head)
        for number in range(descriptors):
            tree = f"C{number // 1000 + 1:02d}" + (f".{number % 1000:03d}" if number % 1000 else "")
            terms = [f"Thing {number} named {n}" for n in range(10)]
            record = samples.mesh_record(
                f"D{number:06d}", f"Thing {number}", [tree], [("", f"Thing {number}", terms)]
            )
            stream.write(record.replace("</DescriptorRecord>", f"{bulk}</DescriptorRecord>"))
        stream.write(tail)
    return path


def write_snomed(folder: Path, *, concepts: int = 100_000) -> Path:
    """A tree of concepts with a fully specified name and two synonyms each."""
    headers = {name: text.split("\r\n")[0] for name, text in samples.snomed_tables().items()}
    concept_file, description_file, relationship_file, *_ = headers
    folder.mkdir()
    ids = [samples.snomed_id(1000 + number) for number in range(concepts)]
    core = "20260101\t1\t900000000000207008"
    with (folder / concept_file).open("w", newline="") as stream:
        stream.write(headers[concept_file] + "\r\n")
        stream.writelines(f"{i}\t{core}\t900000000000074008\r\n" for i in ids)
    with (folder / description_file).open("w", newline="") as stream:
        stream.write(headers[description_file] + "\r\n")
        for number in range(3 * concepts):
            kind = samples.SYNONYM if number % 3 else samples.FSN
            tag = "" if number % 3 else " (disorder)"
            description_id = samples.snomed_id(1000 + number, "01")
            stream.write(
                f"{description_id}\t{core}\t{ids[number // 3]}\ten\t{kind}\t"
                f"Disorder {number} of something{tag}\t900000000000448009\r\n"
            )
    with (folder / relationship_file).open("w", newline="") as stream:
        stream.write(headers[relationship_file] + "\r\n")
        for number in range(1, concepts):
            stream.write(
                f"{samples.snomed_id(1000 + number, '02')}\t{core}\t{ids[number]}\t"
                f"{ids[(number - 1) // 8]}\t0\t{samples.IS_A}\t900000000000011006\t"
                "900000000000451002\r\n"
            )
    return folder


def measure(path: Path) -> None:
    """Load one source in a fresh process and print what it took."""
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, str(path)], capture_output=True, text=True, check=False
    )
    size = sum(f.stat().st_size for f in ([path] if path.is_file() else path.iterdir()))
    told = done.stdout.rstrip() or done.stderr.strip().splitlines()[-1]
    print(f"{path.name:<24}{size / 2**20:6.1f} MiB {told}")


def main() -> None:
    """Measure the named sources, or generated ones."""
    if len(sys.argv) > 1:
        for name in sys.argv[1:]:
            measure(Path(name))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in (
            write_umls(folder / "umls-500k-rows"), write_mesh(folder / "mesh-desc.xml"),
            write_snomed(folder / "snomed-100k"),
        ):  # fmt: skip
            measure(path)


if __name__ == "__main__":
    main()
