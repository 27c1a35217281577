"""``medunlearn concepts``: what it shows, and what names in a file cannot make it do."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import terminology_samples as samples
from rich.console import Console

from medunlearn_common.cli import CommandLine
from medunlearn_common.concepts import Concept, ConceptHierarchy
from medunlearn_common.concepts.search import search_terms
from medunlearn_common.concepts.views import concept_tree, explanation, printable


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


def run(*arguments: str) -> int:
    line = CommandLine()
    return line.run(line.build([]), ["concepts", *arguments])


def out(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_explain_says_level_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", "Inguinal Hernia", "--forget-root", "MU:S0001") == 0
    text = out(capsys)
    assert "4 target: below the forget root MU:S0001 (surgery)" in text
    assert "MU:S0451 (inguinal hernia) < MU:S0450 (hernia) < MU:S0001 (surgery)" in text
    assert run("explain", "MU:S0451") == 0
    assert "3 specialty: its source gives this level" in out(capsys)


def test_explain_follows_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mesh, plan = tmp_path / "desc.xml", tmp_path / "plan.toml"
    mesh.write_text(samples.mesh_xml(), encoding="utf-8")
    plan.write_text(
        f'[concepts]\nhierarchies = ["{mesh}"]\ntype_levels = ["disease=3"]\ndeepest_general = 1\n'
    )
    assert run("explain", "cancer", "--plan", str(plan)) == 0
    assert "3 specialty: the plan gives this level to the semantic type 'disease'" in out(capsys)
    assert run("explain", "Female", "--plan", str(plan)) == 0
    captured = capsys.readouterr()
    assert "3 specialty: it has neither parents nor children" in captured.out
    assert "nor children (1): MESH:D005260" in captured.err
    assert run("explain", "MESH:C", "--plan", str(plan)) == 0
    assert "3 specialty: the plan gives this level to the semantic type" in out(capsys)
    assert run("explain", "MESH:C", "--hierarchy", str(mesh)) == 0
    assert "1 fundamental: its depth is 0" in out(capsys)
    assert run("explain", "MESH:C04.588", "--plan", str(plan), "--forget-root", "MESH:C") == 0
    assert "4 target: below the forget root MESH:C (Diseases)" in out(capsys)


def test_a_forget_concept_of_the_plan_is_a_root_here_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run counts it as one; ``explain --plan`` must not say level 3."""
    plan = tmp_path / "plan.toml"
    plan.write_text('[forget]\nconcepts = ["MU:S0001"]\n')
    assert run("explain", "inguinal hernia", "--plan", str(plan)) == 0
    assert "4 target: below the forget root MU:S0001 (surgery)" in out(capsys)
    assert run("explain", "inguinal hernia", "--plan", str(plan), "--forget-root", "MU:M0001") == 0
    assert "4 target" not in out(capsys)


def test_a_type_of_a_file_is_no_markup(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outline = tmp_path / "x.outline"
    outline.write_text("!outline 1\nA:1 limb {type=[/x]; level=2}\n")
    assert run("explain", "A:1", "--hierarchy", str(outline)) == 0
    assert "[/x]" in out(capsys)


def test_explain_shows_every_concept_of_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outline = tmp_path / "x.outline"
    outline.write_text("!outline 1\nA:1 fever\nA:2 pyrexia | fever\n")
    assert run("explain", "fever", "--hierarchy", str(outline)) == 0
    text = out(capsys)
    assert "A:1" in text and "A:2" in text
    assert run("tree", "fever", "--hierarchy", str(outline)) == 2
    assert "CONCEPT_AMBIGUOUS" in capsys.readouterr().err


def test_an_unknown_term_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", "hernia inguinal") == 2
    error = capsys.readouterr().err
    assert "[CONCEPT_UNKNOWN]" in error
    assert "MU:S0451 (inguinal hernia)" in error
    assert run("explain", "xyzzy") == 2
    assert run("tree", "xyzzy") == 2
    assert run("explain", "fever", "--forget-root", "nowhere") == 2
    assert "CONCEPT_ROOT_UNKNOWN" in capsys.readouterr().err


@pytest.mark.parametrize("code", ["K40.9", "k40.9"])
def test_a_code_without_its_terminology_is_taken_where_one_alone_has_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], code: str
) -> None:
    outline = tmp_path / "x.outline"
    outline.write_text("!outline 1\nICD10CM:K40.9 inguinal hernia\nA:2 K40.9 or the like\n")
    for command in ("explain", "tree"):
        assert run(command, code, "--hierarchy", str(outline)) == 0
        shown = out(capsys)
        assert "ICD10CM:K40.9" in shown and "A:2" not in shown
    outline.write_text("!outline 1\nICD10CM:K40.9 inguinal hernia\nICD10:K40.9 a hernia\n")
    for command in ("explain", "tree"):
        assert run(command, code, "--hierarchy", str(outline)) == 2
        error = capsys.readouterr().err
        assert "ICD10CM:K40.9 (inguinal hernia)" in error and "ICD10:K40.9 (a hernia)" in error


@pytest.mark.parametrize(
    ("written", "concept_id"),
    [
        ("Inguinal Hernias", "MU:S0451"), ("INGUINAL  HERNIAS", "MU:S0451"),
        ("hiatal-hernias", "MU:S0315"), ("gastro oesophageal reflux disease", "MU:S0315"),
        ("Crohns disease", "MU:S0354"), ("Crohn disease", "MU:S0354"),
        ("Richter\u2019s hernias", "MU:S0455"), ("SSRIs", "MU:M0902"), ("ssri", "MU:M0902"),
    ],
)
def test_a_name_is_known_in_the_spellings_that_the_tagger_finds(
    capsys: pytest.CaptureFixture[str], written: str, concept_id: str
) -> None:
    """``tag`` finds them in a text: an id that nobody can look up is no help to a clinician."""
    for command in ("explain", "tree"):
        assert run(command, written) == 0
        assert concept_id in out(capsys)
    assert run("search", written) == 0
    assert concept_id in out(capsys).splitlines()[1]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("hernias", "MU:S0450"), ("Crohns", "MU:S0354"), ("crohn's", "MU:S0354"),
        ("hernias mesh", "MU:S0458"), ("nonabsorbable", "non-absorbable suture"),
        ("appendectomies", "appendectomy"),
    ],
)
def test_search_finds_other_forms_of_words(
    capsys: pytest.CaptureFixture[str], asked: str, found: str
) -> None:
    assert run("search", asked) == 0
    assert found in out(capsys)


def test_another_form_of_a_word_is_a_whole_word_and_an_acronym_has_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outline = tmp_path / "x.outline"
    outline.write_text("!outline 1\nA:1 pancreas\nA:2 pancreatitis\nA:3 tip of a finger\n"
                       "A:4 Anemia, unspecified\nA:5 Vitamin B 12\nA:6 TIPS\n")
    for asked, found, others in (
        ("pancreas", "A:1", ("A:2",)), ("TIPS", "A:6", ("A:3",)), ("tips", "A:3", ()),
        ("vitamin B12", "A:5", ()),
    ):
        assert run("search", asked, "--hierarchy", str(outline)) == 0
        shown = out(capsys)
        assert found in shown and not any(other in shown for other in others)
    for term, found in (("anaemia", "A:4"), ("vitamin B12", "A:5"), ("TIPS", "A:6")):
        assert run("explain", term, "--hierarchy", str(outline)) == 0
        assert found in out(capsys)
    assert run("explain", "TIPSs", "--hierarchy", str(outline)) == 0
    assert run("explain", "TIP", "--hierarchy", str(outline)) == 2


def test_an_unknown_term_is_told_as_one_and_where_to_look(
    capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("explain", "tree"):
        assert run(command, "nonsense") == 2
        error = " ".join(capsys.readouterr().err.split())
        assert "no concept has the id or name 'nonsense'" in error
        assert "medunlearn concepts search" in error and "MU:F0001" not in error
    assert run("explain", "MU:S045") == 2
    assert "MU:S0458 (hernia mesh)" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("blank", ["", "  "])
def test_a_search_for_nothing_is_refused(capsys: pytest.CaptureFixture[str], blank: str) -> None:
    assert run("search", blank) == 2
    assert "CONCEPT_SEARCH_EMPTY" in capsys.readouterr().err


def test_search_lists_the_best_first_and_says_how_many_more(
    capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("search", "hernia", "--limit", "2") == 0
    lines = out(capsys).splitlines()
    assert lines[1].split()[:4] == ["3", "specialty", "MU:S0450", "hernia"]
    assert "more; --limit shows them" in lines[-1]
    assert run("search", "xyzzy [red]") == 0
    assert "no name contains 'xyzzy [red]'" in out(capsys)


def test_search_ranks() -> None:
    names = ["a lung cancer", "cancer", "cancerous", "precancer", "cancer in a lung", "lung"]
    hierarchy = ConceptHierarchy.from_concepts(
        [Concept(concept_id=f"X:{n}", name=name) for n, name in enumerate(names)], source="x"
    )
    assert [hit.term for hit in search_terms(hierarchy, " CANCER ")] == [
        "cancer", "cancerous", "cancer in a lung", "a lung cancer", "precancer",
    ]  # fmt: skip
    assert [hit.term for hit in search_terms(hierarchy, "lung cancer")] == [
        "a lung cancer", "cancer in a lung",
    ]  # fmt: skip
    assert search_terms(hierarchy, "  ") == []


def test_a_british_word_finds_an_american_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outline = tmp_path / "own.txt"
    outline.write_text("!outline 1\nA disease\n  B Esophageal anemia\n", encoding="utf-8")
    for command, text in (
        ("explain", "oesophageal anaemia"), ("tree", "oesophageal anaemia"),
        ("search", "anaemia oesoph"), ("search", "anemia"),
    ):
        assert run(command, text, "--hierarchy", str(outline)) == 0
        assert "Esophageal anemia" in out(capsys)


def test_tree_shows_ancestors_descendants_and_limits(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tree", "MU:S0450", "--depth", "1", "--limit", "2") == 0
    text = out(capsys)
    assert "medicine" in text.splitlines()[0]
    assert "hernia  MU:S0450  level 3" in text
    assert "more; --limit shows them" in text
    assert run("tree", "MU:S0450", "--depth", "0") == 0
    assert "below; --depth shows them" in out(capsys)


def test_notes_go_to_standard_error_and_join_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    obo, mesh = tmp_path / "a.obo", tmp_path / "desc.xml"
    obo.write_text("format-version: 1.2\n\n[Term]\nid: T:1\nname: tumour\nxref: MESH:D009369\n")
    mesh.write_text(samples.mesh_xml(), encoding="utf-8")
    both = ("--hierarchy", str(obo), "--hierarchy", str(mesh))
    assert run("explain", "MESH:D009369", *both, "--join") == 0
    captured = capsys.readouterr()
    assert "T:1  tumour" in captured.out
    assert "note: cross-references: 1 made one node" in captured.err
    assert run("explain", "MESH:D009369", *both) == 0
    assert "T:1" not in out(capsys)


def test_names_in_a_file_cannot_speak_to_the_terminal() -> None:
    hostile = "a\x1b]0;title\x07[red]b[/red]\u202e\u0000"
    hierarchy = ConceptHierarchy.from_concepts(
        [Concept(concept_id="X:\x1b1", name=hostile, synonyms=("[/]\x1b[2J",),
                 semantic_type="\x1bt")],
        source="x",
    )  # fmt: skip
    leveled = hierarchy.with_forget_roots([])
    stream = io.StringIO()
    console = Console(file=stream, width=100, color_system=None)
    console.print(explanation(leveled, "X:\x1b1"))
    console.print(concept_tree(leveled, "X:\x1b1", depth=1, limit=1))
    text = stream.getvalue()
    assert "\x1b" not in text and "\x07" not in text and "\u202e" not in text
    assert "[red]b[/red]" in text
    assert printable("a\x1bé") == "a?é"


def test_levels_are_coloured_on_a_terminal() -> None:
    hierarchy = ConceptHierarchy.from_concepts(
        [Concept(concept_id="X:1", name="x"), Concept(concept_id="Y", name="y", parents=("X:1",))],
        source="x",
    )
    codes = set()
    for roots in ([], ["X:1"]):
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=True, color_system="standard", width=80)
        console.print(concept_tree(hierarchy.with_forget_roots(roots), "X:1", depth=1, limit=1))
        codes.add(stream.getvalue())
    assert len(codes) == 2
    assert any("\x1b[7;32m" in text for text in codes)  # green: fundamental
    assert any("31m" in text for text in codes)  # red: target
