"""Small terminologies in their publishers' own columns, with the quirks that real ones have.

Nothing here is copied: names are made up or plain medical words, ids follow the publishers'
patterns only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

IS_A = "116680003"
FSN, SYNONYM = "900000000000003001", "900000000000013009"
_CORE_MODULE = "900000000000207008"


# --- MeSH ------------------------------------------------------------------------------------

def mesh_record(
    ui: str, name: str, trees: Sequence[str], concepts: Sequence[tuple[str, str, Sequence[str]]]
) -> str:
    """A descriptor; concepts are (relation to the first, preferred term, further terms)."""
    numbers = "".join(f"<TreeNumber>{n}</TreeNumber>" for n in trees)
    relations = "".join(
        f'<ConceptRelation RelationName="{relation}"><Concept1UI>{ui}M0</Concept1UI>'
        f"<Concept2UI>{ui}M{place}</Concept2UI></ConceptRelation>"
        for place, (relation, _, _) in enumerate(concepts) if place
    )
    listed = "".join(
        f'<Concept PreferredConceptYN="{"N" if place else "Y"}"><ConceptUI>{ui}M{place}</ConceptUI>'
        f"<ConceptName><String>{escape(preferred)}</String></ConceptName>"
        + (f"<ConceptRelationList>{relations}</ConceptRelationList>" if not place else "")
        + "<TermList>"
        + "".join(mesh_term(term) for term in (preferred, *terms))
        + "</TermList></Concept>"
        for place, (_, preferred, terms) in enumerate(concepts)
    )
    # The published files indent, and descriptors without tree numbers lack the list.
    tree_list = f"\n  <TreeNumberList>\n{numbers}</TreeNumberList>" if trees else ""
    return (
        f'<DescriptorRecord DescriptorClass = "1">\n  <DescriptorUI>{ui}</DescriptorUI>\n'
        f"  <DescriptorName>\n   <String>{escape(name)}</String>\n  </DescriptorName>{tree_list}\n"
        f"  <ConceptList>\n{listed}  </ConceptList>\n</DescriptorRecord>\n"
    )


def mesh_term(term: str) -> str:
    """A term; one that begins with ~ is a permuted form."""
    permuted = "Y" if term.startswith("~") else "N"
    return (
        f'<Term ConceptPreferredTermYN="N" IsPermutedTermYN="{permuted}" LexicalTag="NON">'
        f"<TermUI>T1</TermUI><String>{escape(term.removeprefix('~'))}</String></Term>"
    )


MESH_RECORDS = (
    mesh_record("D009369", "Neoplasms", ["C04"], [("", "Neoplasms", ["Tumors", "Cancer"])]),
    mesh_record(
        "D009371", "Neoplasms by Site", ["C04.588"], [("", "Neoplasms by Site", [])]
    ),
    mesh_record(
        "D008175", "Lung Neoplasms", ["C04.588.894", "C08.381"],
        [
            ("", "Lung Neoplasms", ["Cancer of Lung", "~Neoplasms, Lung", "B & W < tumour"]),
            ("NRW", "Pulmonary Carcinoma", []),
            ("BRD", "Chest Mass", []),
        ],
    ),
    mesh_record("D012140", "Respiratory Tract Diseases", ["C08"], [("", "Respiratory Tract", [])]),
    mesh_record("D005260", "Female", [], [("", "Female", ["Women’s"])]),
    mesh_record("D001829", "Body Regions", ["A01"], [("", "Body Regions", [])]),
)


def mesh_xml(records: Iterable[str] = MESH_RECORDS, *, before: str = "") -> str:
    """Descriptor XML with NLM's document type, which names a DTD on the web."""
    return (
        '<?xml version="1.0"?>\n'
        "<!DOCTYPE DescriptorRecordSet SYSTEM "
        f'"https://www.nlm.nih.gov/databases/dtd/nlmdescriptorrecordset_20260101.dtd"{before}>\n'
        f'<DescriptorRecordSet LanguageCode = "eng">\n{"".join(records)}</DescriptorRecordSet>\n'
    )


# --- ICD-10-CM -------------------------------------------------------------------------------

ORDER_ROWS: tuple[tuple[str, int, str], ...] = (
    ("A00", 0, "Cholera"),
    ("A000", 1, "Cholera due to Vibrio cholerae 01, biovar cholerae"),
    ("C7A", 0, "Malignant neuroendocrine tumors"),
    ("C7A0", 0, "Malignant carcinoid tumors"),
    ("C7A00", 1, "Malignant carcinoid tumor of unspecified site"),
    ("O9A", 0, "Maternal malignant neoplasms, traumatic injuries and abuse"),
    ("O9A1", 0, "Malignant neoplasm complicating pregnancy, childbirth and the puerperium"),
    ("S00", 0, "Superficial injury of head"),
    ("S000", 0, "Superficial injury of scalp"),
    # Between S000 and the seventh characters no code S000XX of its own is listed.
    ("S000XXA", 1, "Unspecified superficial injury of scalp, initial encounter"),
    ("S000XXD", 1, "Unspecified superficial injury of scalp, subsequent encounter"),
)


def icd10cm_order(
    rows: Iterable[tuple[str, int, str]] = ORDER_ROWS, *, end: str = "\r\n"
) -> str:
    """An order file: fixed columns, the short description cut to 60 characters."""
    return "".join(
        f"{number:05d} {code:<7} {billable} {name[:60]:<60} {name}{end}"
        for number, (code, billable, name) in enumerate(rows, start=1)
    )


ICD10CM_XML = """<?xml version="1.0" encoding="utf-8"?>
<ICD10CM.tabular>
  <version>2026</version><title>ICD-10-CM TABULAR LIST</title>
  <introduction><introSection type="title"><title>Reading</title></introSection></introduction>
  <chapter>
    <name>1</name>
    <desc>Certain infectious and parasitic diseases (A00-B99)</desc>
    <includes><note>diseases generally recognized as communicable</note></includes>
    <sectionIndex><sectionRef first="A00" last="A09" id="A00-A09">Intestinal</sectionRef>
    </sectionIndex>
    <section id="A00-A09">
      <desc>Intestinal infectious diseases (A00-A09)</desc>
      <diag><name>A00</name><desc>Cholera</desc>
        <diag><name>A00.0</name><desc>Cholera due to Vibrio cholerae 01</desc>
          <inclusionTerm><note>Classical cholera</note><note>Asiatic  cholera</note></inclusionTerm>
        </diag>
        <diag><name>A00.9</name><desc>Cholera, unspecified</desc></diag>
      </diag>
      <diag><name>A01</name><desc>Typhoid fever</desc>
        <sevenChrDef><extension char="A">initial encounter</extension></sevenChrDef>
      </diag>
    </section>
    <section id="B99"><desc>Other infectious diseases (B99)</desc>
      <diag><name>B99</name><desc>Other and unspecified infectious diseases</desc></diag>
    </section>
  </chapter>
</ICD10CM.tabular>
"""


# --- UMLS ------------------------------------------------------------------------------------

def conso(
    cui: str, term: str, *, number: int, source: str = "MSH", tty: str = "MH", code: str = "NOCODE",
    language: str = "ENG", ts: str = "P", stt: str = "PF", preferred: str = "Y", level: str = "0",
    suppress: str = "N",
) -> str:
    """A row of MRCONSO: 18 columns, each closed by a pipe."""
    return (
        f"{cui}|{language}|{ts}|L{number:07d}|{stt}|S{number:07d}|{preferred}|A{number:08d}||"
        f"M{number:07d}|D{number:06d}|{source}|{tty}|{code}|{term}|{level}|{suppress}|256|\n"
    )


def rel(
    first: str, relation: str, second: str, *, number: int = 1, source: str = "MSH",
    label: str = "", suppress: str = "N",
) -> str:
    """A row of MRREL: what the second concept is to the first."""
    return (
        f"{first}|A0000001|AUI|{relation}|{second}|A0000002|AUI|{label}|R{number:08d}||{source}|"
        f"{source}|||{suppress}||\n"
    )


def sab(name: str, *, level: str = "0", current: str = "Y") -> str:
    """A row of MRSAB: 25 columns."""
    return (
        f"C4550001|C1140284|{name}_2026|{name}|Some name; with a subtitle|{name}|2026|||2026AA||"
        f"A, B|C, D|{level}|100|100|FULL|MH,PT|AN|ENG|UTF-8|{current}|Y|{name}|;;;;|\n"
    )


def umls_tables() -> dict[str, str]:
    """A small release: other languages, suppressed rows, self-loops, both directions, a cycle."""
    names = [
        conso("C0012634", "Disease", number=1, code="D004194"),
        conso("C0012634", "Diseases", number=2, ts="S", tty="PM", code="D004194"),
        conso("C0012634", "Krankheit", number=3, language="GER", source="MSHGER"),
        conso("C0006826", "Malignant Neoplasms", number=4, source="NCI", tty="PT", code="C9305"),
        conso("C0006826", "cancer", number=5, ts="S", source="NCI", tty="SY", code="C9305"),
        conso("C0006826", 'The "big C"', number=6, ts="S", source="NCI", tty="SY", code="C9305"),
        conso("C0006826", "CA - obsolete", number=7, ts="s", suppress="O", source="NCI"),
        conso("C0242379", "Malignant neoplasm of lung", number=8, code="D008175"),
        conso("C0242379", "Lung Cancer", number=9, ts="S", stt="VC", code="D008175", tty="ET"),
        conso("C0242379", "Malignant neoplasm of bronchus", number=10, ts="S", source="ICD10CM",
              tty="HT", code="C34"),
        conso("C0007115", "Malignant neoplasm of thyroid gland", number=11, source="ICD10CM",
              tty="PT", code="C73"),
        conso("C0000001", "Nur deutsch", number=12, language="GER", source="MSHGER"),
    ]  # fmt: skip
    relations = [
        rel("C0006826", "PAR", "C0012634", number=1),
        rel("C0012634", "CHD", "C0006826", number=2),  # the same link, told from the other end
        rel("C0006826", "CHD", "C0242379", number=3, source="NCI", label="isa"),
        rel("C0242379", "PAR", "C0242379", number=4),  # a self-loop: two atoms, one concept
        rel("C0007115", "PAR", "C0006826", number=5, source="NCI", label="inverse_isa"),
        rel("C0242379", "PAR", "C0007115", number=6, source="NCI", label="part_of"),
        rel("C0007115", "RB", "C0242379", number=7),
        rel("C0007115", "PAR", "C0242379", number=8, suppress="O"),
        rel("C0007115", "PAR", "C0000001", number=9),  # a concept without English names
        rel("C0012634", "PAR", "C0242379", number=10, source="ICD10CM"),  # closes a cycle
    ]
    types = [
        "C0012634|T047|B2.2.1.2.1|Disease or Syndrome|AT17683839|256|\n",
        "C0006826|T191|B2.2.1.2.1.2|Neoplastic Process|AT17683840||\n",
        "C0242379|T191|B2.2.1.2.1.2|Neoplastic Process|AT17683841||\n",
        "C0242379|T023|A1.2.3.1|Body Part, Organ, or Organ Component|AT17683842||\n",
        "C9999999|T061|B1.3.1.3|Therapeutic or Preventive Procedure|AT17683843||\n",
    ]
    sources = [
        sab("MSH"), sab("NCI"), sab("MSHGER", level="3"), sab("ICD10CM"),
        sab("MSH", level="9", current="N"),
    ]
    return {
        "MRCONSO.RRF": "".join(names), "MRREL.RRF": "".join(relations),
        "MRSTY.RRF": "".join(types), "MRSAB.RRF": "".join(sources),
    }


# --- SNOMED CT -------------------------------------------------------------------------------

def snomed_id(number: int, kind: str = "00") -> str:
    """An identifier with its partition; the last digit is not checked by anyone here."""
    return f"{number}{kind}{number % 10}"


def snomed_tables() -> dict[str, str]:
    """A small Snapshot: retired rows, active descriptions of retired concepts, quotation marks."""
    numbers = (138875, 404684, 222, 333, 444)
    root, clinical, infarct, hernia, retired = (snomed_id(number) for number in numbers)
    concepts = "".join(
        f"{i}\t20260101\t{flag}\t{_CORE_MODULE}\t90000000000007{status}\r\n"
        for i, flag, status in (
            (root, 1, "4008"), (clinical, 1, "4008"), (infarct, 1, "3002"), (hernia, 1, "4008"),
            (retired, 0, "4008"),
        )
    )
    described = (
        (root, FSN, "SNOMED CT Concept (SNOMED RT+CTV3)", 1),
        (clinical, FSN, "Clinical finding (finding)", 1),
        (infarct, FSN, "Myocardial infarction (disorder)", 1),
        (infarct, SYNONYM, "Myocardial infarction", 1),
        (infarct, SYNONYM, "Heart attack", 1),
        (infarct, SYNONYM, "Cardiac infarct", 0),
        (hernia, FSN, 'Hernia "sensu stricto" (morphologic abnormality)', 1),
        (retired, FSN, "Retired thing (disorder)", 1),
    )
    descriptions = "".join(
        f"{snomed_id(1000 + n, '01')}\t20260101\t{flag}\t{_CORE_MODULE}\t{i}\ten\t{kind}\t{term}\t"
        "900000000000448009\r\n"
        for n, (i, kind, term, flag) in enumerate(described)
    )
    related = (
        (clinical, root, IS_A, 1), (infarct, clinical, IS_A, 1), (hernia, clinical, IS_A, 1),
        (retired, clinical, IS_A, 0), (clinical, infarct, IS_A, 0),
        (infarct, hernia, "363698007", 1), (hernia, infarct, "116676008", 1),
    )
    relationships = "".join(
        f"{snomed_id(2000 + n, '02')}\t20260101\t{flag}\t{_CORE_MODULE}\t{child}\t{parent}\t0\t"
        f"{kind}\t900000000000011006\t900000000000451002\r\n"
        for n, (child, parent, kind, flag) in enumerate(related)
    )
    columns = "id\teffectiveTime\tactive\tmoduleId\t"
    return {
        "sct2_Concept_Snapshot_INT_20260101.txt": f"{columns}definitionStatusId\r\n{concepts}",
        "sct2_Description_Snapshot-en_INT_20260101.txt":
            f"{columns}conceptId\tlanguageCode\ttypeId\tterm\tcaseSignificanceId\r\n{descriptions}",
        "sct2_Relationship_Snapshot_INT_20260101.txt":
            f"{columns}sourceId\tdestinationId\trelationshipGroup\ttypeId\tcharacteristicTypeId\t"
            f"modifierId\r\n{relationships}",
        # What a release also holds, and nobody must take for the files above.
        "sct2_StatedRelationship_Snapshot_INT_20260101.txt": "id\r\n",
        "sct2_TextDefinition_Snapshot-en_INT_20260101.txt": "id\r\n",
    }  # fmt: skip


def write_tables(folder: Path, tables: dict[str, str]) -> Path:
    """Write a release's files; gives the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in tables.items():
        (folder / name).write_bytes(text.encode("utf-8"))
    return folder
