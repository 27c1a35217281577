"""MeSH: descriptor XML and JSON lines, generated, real and broken."""

from __future__ import annotations

import gzip
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import terminology_samples as samples

from medunlearn_common.concepts import ConceptHierarchy, detect_format, load_hierarchy
from medunlearn_common.concepts.mesh import load_mesh_jsonl, load_mesh_xml
from medunlearn_common.errors import Misconfigured

ROWS = [
    {"id": "D009369", "name": "Neoplasms", "tree_numbers": ["C04"], "parents": []},
    {"id": "D006547", "name": "Hernia, Hiatal", "tree_numbers": ["C04.100", "E04.200"],
     "parents": ["D009369", "D013514"]},
    {"id": "D013514", "name": "Surgical Procedures", "tree_numbers": ["E04"], "parents": []},
]  # fmt: skip


def write(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "mesh"
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def lines(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def refusal(load: Callable[[Path], ConceptHierarchy], path: Path) -> Misconfigured:
    with pytest.raises(Misconfigured) as caught:
        load(path)
    return caught.value


def test_tree_numbers_make_parents_and_are_aliases(tmp_path: Path) -> None:
    mesh = load_mesh_xml(write(tmp_path, samples.mesh_xml()))
    assert mesh.parents("MESH:D008175") == ("MESH:D009371", "MESH:D012140")
    assert mesh.resolve("MESH:C08.381") == "MESH:D008175"
    assert mesh.parents("MESH:D009369") == ("MESH:C",)
    assert mesh["MESH:C"].name == "Diseases"
    assert mesh.roots() == ("MESH:A", "MESH:C", "MESH:D005260")
    assert mesh["MESH:D001829"].semantic_type == "anatomy"


def test_entry_terms_are_synonyms_but_for_permuted_and_broader_ones(tmp_path: Path) -> None:
    mesh = load_mesh_xml(write(tmp_path, samples.mesh_xml()))
    assert mesh["MESH:D008175"].synonyms == (
        "Cancer of Lung", "B & W < tumour", "Pulmonary Carcinoma",
    )  # fmt: skip
    assert mesh["MESH:D005260"].synonyms == ("Women’s",)


def test_the_format_is_told_by_content_zipped_or_not(tmp_path: Path) -> None:
    path = write(tmp_path, b"\xef\xbb\xbf" + samples.mesh_xml().encode())
    assert detect_format(path) == "mesh-xml"
    digest = load_hierarchy(str(path)).digest()
    path.write_bytes(gzip.compress(samples.mesh_xml().replace("\n", "\r\n").encode()))
    assert load_hierarchy(str(path)).digest() == digest
    path.write_text(lines(ROWS))
    assert detect_format(path) == "mesh-jsonl"


def test_json_lines_and_the_natural_order_of_inverted_names(tmp_path: Path) -> None:
    mesh = load_mesh_jsonl(write(tmp_path, lines(ROWS)))
    assert mesh.parents("MESH:D006547") == ("MESH:D009369", "MESH:D013514")
    assert mesh["MESH:D006547"].synonyms == ("Hiatal Hernia",)


def bomb(depth: int = 12) -> str:
    """Ten to the power of twelve laughs from half a kilobyte."""
    inner = "".join(
        f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, depth + 1)
    )
    return f'[<!ENTITY l0 "lol">{inner}]'


@pytest.mark.parametrize(
    "text",
    [
        samples.mesh_xml(before=bomb()),
        samples.mesh_xml(
            [samples.MESH_RECORDS[0].replace("Tumors", "&l12;")], before=bomb()
        ),
        samples.mesh_xml(
            [samples.MESH_RECORDS[0].replace('"1"', '"&l12;"')], before=bomb()
        ),
        samples.mesh_xml(
            [samples.MESH_RECORDS[0].replace("Tumors", "&x;")],
            before='[<!ENTITY x SYSTEM "file:///etc/hostname">]',
        ),
        samples.mesh_xml(before='[<!ENTITY % p SYSTEM "http://127.0.0.1:9/x.dtd"> %p;]'),
    ],
    ids=["declared", "in a text", "in an attribute", "a file", "a parameter from the web"],
)
def test_entities_are_refused_without_being_expanded(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = refusal(load_mesh_xml, path)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert refused.code == "CONCEPT_FILE_INVALID"
    assert grown_kib < 32 * 1024


@pytest.mark.parametrize("cut", [40, 300, 1000, -30])
def test_a_cut_file_is_refused(cut: int, tmp_path: Path) -> None:
    assert refusal(load_mesh_xml, write(tmp_path, samples.mesh_xml()[:cut])).code == (
        "CONCEPT_FILE_INVALID"
    )
    zipped = gzip.compress(samples.mesh_xml().encode())
    assert refusal(load_mesh_xml, write(tmp_path, zipped[:-20])).code == "CONCEPT_FILE_TRUNCATED"


@pytest.mark.parametrize(
    ("records", "code", "named"),
    [
        ([samples.MESH_RECORDS[1]], "CONCEPT_PARENT_UNKNOWN", "C04"),
        ([samples.MESH_RECORDS[0]] * 2, "CONCEPT_DUPLICATE_ID", "D009369"),
        ([samples.MESH_RECORDS[0].replace("D009369", "9369")], "CONCEPT_FILE_INVALID", "9369"),
        ([samples.MESH_RECORDS[0].replace(">C04<", ">4.C<")], "CONCEPT_FILE_INVALID", "4.C"),
        (["<DescriptorRecord/>"], "CONCEPT_FILE_INVALID", "line 4"),
        (
            [samples.mesh_record("D2000000", " ", ["C04"], [])], "CONCEPT_FILE_INVALID", "no name",
        ),
        (
            [samples.MESH_RECORDS[0], samples.mesh_record("D2000000", "x", ["C04"], [])],
            "CONCEPT_FILE_INVALID",
            "share",
        ),
    ],
)
def test_damaged_descriptors(records: list[str], code: str, named: str, tmp_path: Path) -> None:
    refused = refusal(load_mesh_xml, write(tmp_path, samples.mesh_xml(records)))
    assert refused.code == code
    assert named in refused.message


def test_a_cycle_between_descriptors_is_broken_and_told(tmp_path: Path) -> None:
    """Two headings can stand below each other in different trees."""
    records = [
        samples.mesh_record("D000001", "Ethics", ["F01.100", "F01.200.300"], []),
        samples.mesh_record("D000002", "Morals", ["F01.200", "F01.100.300"], []),
        samples.mesh_record("D000003", "Behavior", ["F01"], []),
    ]
    forward = load_mesh_xml(write(tmp_path, samples.mesh_xml(records)))
    backward = load_mesh_xml(write(tmp_path, samples.mesh_xml(records[::-1])))
    assert forward.digest() == backward.digest()
    assert "D000001" in forward.notes[0]
    assert forward.descendants("MESH:D000003") == {"MESH:D000001", "MESH:D000002"}


def test_an_endless_record_and_an_endless_file_stop(tmp_path: Path) -> None:
    filler = "<Annotation>" + "x" * 70_000 + "</Annotation>\n"
    record = samples.MESH_RECORDS[0].replace("</DescriptorRecord>", filler * 200)
    refused = refusal(load_mesh_xml, write(tmp_path, samples.mesh_xml([record])))
    assert "record ends within" in refused.message
    path = write(tmp_path, gzip.compress(samples.mesh_xml().encode() + b" " * 10**6))
    with pytest.raises(Misconfigured) as caught:
        load_mesh_xml(path, max_bytes=10**5)
    assert caught.value.code == "CONCEPT_FILE_TOO_LARGE"


@pytest.mark.parametrize(("junk", "each"), [("<a/>" * 5000, 200), (f"<a>{'x' * 60_000}</a>", 700)])
def test_what_stands_between_records_is_bounded(junk: str, each: int, tmp_path: Path) -> None:
    """It stays in the tree, and no single piece of it is long."""
    records = [
        samples.mesh_record(f"D{number:06d}", f"Thing {number}", [], []) + junk
        for number in range(each)
    ]
    refused = refusal(load_mesh_xml, write(tmp_path, samples.mesh_xml(records)))
    assert refused.code == "CONCEPT_FILE_INVALID"
    assert "between records" in refused.message


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """30 MB of descriptors in well under 30 MB: finished records are freed."""
    path = tmp_path / "desc.xml"
    padding = "<Annotation>" + "text " * 3000 + "</Annotation></DescriptorRecord>"
    with path.open("w", encoding="utf-8") as stream:
        head, _, tail = samples.mesh_xml(["HERE"]).partition("HERE")
        stream.write(head)
        for number in range(2000):
            record = samples.mesh_record(f"D{number:06d}", f"Thing {number}", [], [])
            stream.write(record.replace("</DescriptorRecord>", padding))
        stream.write(tail)
    assert path.stat().st_size > 30_000_000
    script = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from medunlearn_common.concepts.mesh import load_mesh_xml\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert len(load_mesh_xml(Path(sys.argv[1]))) == 2000\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[2] / "common")}
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True,
        env=environment,
    )  # fmt: skip
    assert int(done.stdout) * 1024 < 20_000_000


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tree_numbers": ["C04.999.100"]}, "stands at C04.999.100"),
        ({"parents": ["D013514"]}, "are not those of its tree numbers"),
        ({"tree_numbers": "C04"}, "list of texts"),
        ({"name": ""}, "'name'"),
        ({"id": 7}, "'id'"),
    ],
)
def test_damaged_json_rows(change: dict[str, object], named: str, tmp_path: Path) -> None:
    rows = [dict(ROWS[0]), ROWS[1] | change, ROWS[2]]
    assert named in refusal(load_mesh_jsonl, write(tmp_path, lines(rows))).message


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (b'{"id": "D000001"', "not valid JSON"),
        (b'{"id": "D000001", "id": "D000002"}', "twice"),
        (b"[1]", "not a JSON object"),
        (b'{"id": "\xff"}', "not UTF-8"),
        (b'{"id": "D000001", "name": "\\ud800", "tree_numbers": []}', "surrogate"),
        (b'{"id": "D000001", "name": "a\x00", "tree_numbers": []}', "NUL"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"n": ' + b"9" * 5000 + b"}", "integer"),
        (b'"' + b"x" * (2**20) + b'"', "longer than"),
    ],
)
def test_damaged_json_lines(line: bytes, named: str, tmp_path: Path) -> None:
    content = lines(ROWS).encode() + line + b"\n"
    refused = refusal(load_mesh_jsonl, write(tmp_path, content))
    assert "line 4" in refused.message
    assert named in refused.message


@pytest.mark.real_data
def test_the_real_mesh(shared_data: Path) -> None:
    path = shared_data / "mesh2015_tree.jsonl.gz"
    mesh = load_hierarchy(str(path))
    assert len(mesh) == 27_455 + 16
    assert mesh.notes == ()
    assert mesh.resolve("MESH:E04") == "MESH:D013514"
    procedures = mesh.descendants("MESH:E04")
    assert "MESH:D010535" in procedures  # laparoscopy
    assert 400 < len(procedures) < 800
    assert mesh.find("Inguinal Hernia")[0].name == "Hernia, Inguinal"
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        for row in map(json.loads, stream):
            own = mesh.parents(f"MESH:{row['id']}")
            assert {f"MESH:{p}" for p in row["parents"]} == {i for i in own if len(i) > 6}
