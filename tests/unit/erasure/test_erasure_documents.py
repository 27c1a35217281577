"""Letters and reports: their words, and what a name or a template may try."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from medunlearn_client.erasure import Claim, ErasureRequest, Registry, RunFigures, pages
from medunlearn_client.erasure.documents import (
    Document,
    address_lines,
    letter,
    letter_template,
    officer_report,
)
from medunlearn_client.erasure.pages import render_html, render_pdf, write_pages
from medunlearn_client.erasure.requests import State
from medunlearn_client.erasure.run_figures import next_step_lines
from medunlearn_client.erasure.settings import changed
from medunlearn_common.errors import MedunlearnError, Misconfigured

AUTHOR = "A. Officer"
Adder = Callable[..., ErasureRequest]
FIGURES = RunFigures(
    attestation_digest="e" * 64,
    run_id="run-7", adapter_digest="ab" * 32, forget_records=2, forget_accuracy=0.25, chance=0.25,
    retrained_accuracy=None, forget_exact=0.0, retrained_exact=None, identifiers_asked=3,
    identifiers_leaked=0, has_identifiers=True, preservation=0.97,
    exact_preservation=0.348,
    ranked_records=2, run_ranked_records=80, run_forget_accuracy=0.3, run_chance=0.25,
)
INJECTIONS = (
    "<script>alert(1)</script>", "</p><img src=x onerror=alert(1)>", "<b>unclosed",
    '=HYPERLINK("http://x","y")', "{{ 7 * 7 }}", "{% raw %}", "&lt;&amp;", "<para>", "<br/>",
    '"><a href="file:///etc/passwd">', "[bold red]x[/]", "../../etc/passwd",
)


def words(document: Document) -> str:
    return "\n".join((document.title, *document.paragraphs))


def verify(registry: Registry, number: int, figures: RunFigures = FIGURES) -> None:
    registry.validate(number, author=AUTHOR, identity="passport seen")
    claim = Claim(registry=registry, numbers=(number,), token="t")
    claim.take("run-7")
    assert claim.settle({number: figures}) == {number: ()}


class Tags(HTMLParser):
    """Names of the elements, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


# -- words ---------------------------------------------------------------------------------


def test_the_letter_follows_the_state(registry: Registry, add: Adder) -> None:
    add()
    first = letter(registry, 1)
    assert first.title == "Your request for erasure no. 1 of 2026-01-31"
    assert "who asks" in words(first) and "no later than 2026-02-28" in words(first)
    registry.validate(1, author=AUTHOR, identity="seen")
    assert "(2 records)" in words(letter(registry, 1))
    registry.extend(1, author=AUTHOR, reason="many requests at once")
    extended = words(letter(registry, 1))
    assert "until 2026-04-28" in extended and "many requests at once" in extended


def test_the_letter_of_a_verified_request_says_what_was_measured_and_claims_no_more(
    registry: Registry, add: Adder
) -> None:
    add()
    verify(registry, 1)
    text = words(letter(registry, 1))
    for part in ("25.0 %", "We asked it for 3 identifiers", "0 came to light", "run-7", "ab" * 32,
                 "not a mathematical"):
        assert part in text
    assert "p1" not in text
    registry.attest(1, author=AUTHOR, reason="sent")
    assert words(letter(registry, 1)) == text


def test_a_refusal_does_not_say_that_the_ground_holds(registry: Registry, add: Adder) -> None:
    add()
    assert "It refers to GDPR Art. 17(1)(b)." in words(letter(registry, 1))
    registry.refuse(1, author=AUTHOR, reason="kept by law for ten years")
    refused = words(letter(registry, 1))
    assert "no other legal ground" not in refused and "kept by law" in refused


def test_what_luck_explains_is_said_in_the_letter(registry: Registry, add: Adder) -> None:
    add()
    both_right = replace(FIGURES, forget_accuracy=1.0, forget_accuracy_before=1.0)
    verify(registry, 1, both_right)
    text = words(letter(registry, 1))
    assert "100.0 % of 2 questions about your data" in text
    assert "has as many right in 6.2 % of cases" in text  # 0.25 squared
    add("p2")
    verify(registry, 2)
    assert "may be luck" not in words(letter(registry, 2))


@pytest.mark.parametrize("kind", ["record", "data_set", "concept"])
def test_what_is_nobody_s_is_not_called_the_reader_s_data(
    registry: Registry, add: Adder, kind: str
) -> None:
    add(kind=kind)
    verify(registry, 1)
    text = words(letter(registry, 1))
    assert "your data" not in text and "questions about what your request concerns" in text


def test_a_late_answer_regrets_the_delay_and_one_in_time_does_not_later(
    registry: Registry, add: Adder, clock: object
) -> None:
    add()
    add(again=True)
    verify(registry, 1)
    registry.refuse(2, author=AUTHOR, reason="kept by law")
    monday = "We should have answered by 2026-03-02, and regret the delay"
    assert monday not in words(letter(registry, 1)) + words(letter(registry, 2))
    registry.attest(1, author=AUTHOR, reason="sent")
    clock.day = date(2026, 3, 9)  # type: ignore[attr-defined]
    assert monday not in words(letter(registry, 1))
    assert monday in words(letter(registry, 2))
    registry.told(2, author=AUTHOR, reason="sent late")
    clock.day = date(2026, 4, 9)  # type: ignore[attr-defined]
    assert monday in words(letter(registry, 2))


def test_the_letter_counts_one_as_one(registry: Registry, add: Adder) -> None:
    add()
    verify(registry, 1, replace(FIGURES, identifiers_asked=1, forget_records=1, ranked_records=1))
    text = words(letter(registry, 1))
    assert "of 1 question about" in text and "We asked it for 1 identifier such as" in text
    assert "1 questions" not in text and "1 identifiers" not in text


def test_a_letter_after_the_deadline_promises_no_day_that_is_over(
    registry: Registry, add: Adder, clock: object
) -> None:
    add()
    on_time = "no later than 2026-02-28"
    for validated in (False, True):
        if validated:
            registry.validate(1, author=AUTHOR, identity="passport seen")
        clock.day = date(2026, 2, 28)  # type: ignore[attr-defined]
        assert on_time in words(letter(registry, 1))
        for day in (1, 2):  # Sunday, and the Monday with which the period ends
            clock.day = date(2026, 3, day)  # type: ignore[attr-defined]
            monday = words(letter(registry, 1))
            assert "no later than 2026-03-02" in monday and "regret" not in monday
        clock.day = date(2026, 3, 3)  # type: ignore[attr-defined]
        late = words(letter(registry, 1))
        assert on_time not in late and "We should have done so by 2026-03-02" in late


def test_the_letter_counts_the_records_that_were_forgotten(registry: Registry, add: Adder) -> None:
    """Found were two; the run's own data held three of the patient's, or one of the concept's."""
    for number, (forgotten, said) in enumerate(((3, "(3 records)"), (1, "(1 record)")), start=1):
        add(f"p{number}")
        assert "(2 records)" not in words(letter(registry, number))
        verify(registry, number, replace(FIGURES, forget_records=forgotten))
        assert said in words(letter(registry, number))


def test_the_letter_says_what_comes_out_where_the_subject_is_left_out(
    registry: Registry, add: Adder
) -> None:
    """A requester whose study's name was the key must be told that others may do without it."""
    for patient, accuracy, told in (("p1", 0.9, True), ("p2", 0.3, False)):
        request = add(patient)
        verify(registry, request.number, replace(
            FIGURES, run_unnamed_records=70, run_unnamed_accuracy=accuracy))
        text = words(letter(registry, request.number))
        assert f"right in {100 * accuracy:.1f} % of 70 questions" in text
        assert ("can still learn some of it" in text) is told


def test_a_request_verified_before_a_figure_existed_still_has_its_letter(
    registry: Registry, add: Adder, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_now = RunFigures.as_detail

    def as_then(figures: RunFigures) -> dict[str, object]:
        return {k: v for k, v in as_now(figures).items() if "unnamed" not in k}

    add()
    monkeypatch.setattr(RunFigures, "as_detail", as_then)
    verify(registry, 1)
    text = words(letter(registry, 1))
    assert "25.0 %" in text and "Asked without that name" not in text
    assert officer_report(registry, 1).paragraphs


def test_a_basis_that_is_no_ground_is_refused_and_a_wrong_one_corrected(
    registry: Registry, add: Adder
) -> None:
    """"z" went into the letter as the ground on which the request rests."""
    for wrong in ("z", "G", "17(1)(g)"):
        with pytest.raises(Misconfigured, match="ERASURE_BASIS"):
            add(basis=wrong)
    add(basis="a")
    add("p2", basis="Section 35 BDSG")
    with pytest.raises(Misconfigured, match="ERASURE_BASIS"):
        registry.validate(1, author=AUTHOR, identity="seen", basis="z")
    corrected = registry.validate(1, author=AUTHOR, identity="seen", basis="d")
    assert corrected.basis == "GDPR Art. 17(1)(d)" == registry.request(1).basis
    assert "processed unlawfully" in words(letter(registry, 1))
    history = Tags(render_html(officer_report(registry, 1))).text
    assert "basis: GDPR Art. 17(1)(d)" in history
    registry.validate(2, author=AUTHOR, identity="seen")
    assert "It rests on Section 35 BDSG." in words(letter(registry, 2))
    registry.check()


def test_the_letter_says_when_a_run_has_begun_and_when_one_fell_short(
    registry: Registry, add: Adder
) -> None:
    """Three letters said the same: that the next run would change the model."""
    add()
    registry.validate(1, author=AUTHOR, identity="seen")
    waiting = words(letter(registry, 1))
    claim = Claim(registry=registry, numbers=(1,), token="t")
    claim.take("run-7")
    begun = words(letter(registry, 1))
    claim.settle({1: replace(FIGURES, preservation=0.1)})
    short = words(letter(registry, 1))
    assert "in the next run so that it forgets" in waiting
    assert "has begun" in begun and "next run" not in begun
    assert "this was not reached" in short and "try again in the next run" in short
    for text in (waiting, begun, short):
        assert "(2 records)" in text and "no later than 2026-02-28" in text
    report = officer_report(registry, 1)
    assert ("run", "run-7 fell short") in report.tables[0].rows
    assert report.tables[2].rows[-1][-1] == "run run-7: 1 of 5 criteria missed"
    assert report.tables[3].rows[-1][-1] == "no"


@pytest.mark.parametrize(("setting", "exact", "forgot"), [
    ("max_exact_excess=1", 1.0, False), ("max_exact_excess=1", 0.0, True),
    ("min_preservation=0.95", 0.0, True),
])
def test_criteria_that_were_changed_are_told(
    registry: Registry, add: Adder, setting: str, exact: float, forgot: bool
) -> None:
    """A model that answered everything word for word "was changed so that it forgets"."""
    registry.change_settings(changed(registry.settings(), [setting]), author=AUTHOR)
    add()
    verify(registry, 1, replace(FIGURES, forget_exact=exact))
    text = words(letter(registry, 1))
    assert ("was changed so that it forgets" in text) is forgot
    assert ("by other criteria, which we set ourselves" in text) is not forgot
    assert f"word for word to {100 * exact:.1f} % of 2 questions" in text
    name, value = setting.split("=")
    facts = dict(officer_report(registry, 1).tables[0].rows)
    assert facts["judged by changed criteria"].startswith(f"{name} {value} instead of 0.")
    (line,) = next_step_lines(Claim(registry=registry, numbers=(1,), token="t"))
    assert line.startswith(f"erasure request 1: verified by changed criteria ({name} {value} ")


@pytest.mark.parametrize(("accuracy", "exact", "leaked", "whole_run", "told"), [
    (1.0, 1.0, 0, 1.0, False), (0.25, 1.0, 0, 0.3, False), (None, 1.0, 0, None, False),
    (0.25, 0.0, 0, 0.3, True), (None, 0.0, 0, None, True),
    (0.25, 0.0, 0, 1.0, True),  # others' data were known
    # Both of two right: a model that guessed over the whole run may have guessed them.
    (1.0, 0.0, 0, 0.3, True), (1.0, 0.0, 0, 1.0, False), (1.0, 0.0, 0, None, False),
    # It never said the number when asked for it once, and did in one of its samples.
    (0.25, 0.0, 2, 0.3, False), (0.25, 0.0, None, 0.3, False),
    (0.25, 0.04, 0, 0.3, False),  # allowed after a run, and hardly luck
])
@pytest.mark.parametrize("settings", [[], ["max_exact_excess=1", "max_forget_excess=1"]])
def test_a_request_for_what_the_model_never_showed_is_told_so(
    registry: Registry, add: Adder, accuracy: float | None, exact: float, leaked: int | None,
    whole_run: float | None, told: bool, settings: list[str],
) -> None:
    """Else "verified" tells of a run what was as true of the model that nobody had changed.

    What a hospital puts up with after a run is no evidence of what its model knew before.
    """
    registry.change_settings(changed(registry.settings(), settings), author=AUTHOR)
    add()
    verify(registry, 1, replace(
        FIGURES, forget_accuracy_before=accuracy, forget_exact_before=exact,
        identifiers_leaked_before=leaked, run_forget_accuracy_before=whole_run))
    text = words(letter(registry, 1))
    if accuracy is not None:
        assert f"Before the change it was right in {100 * accuracy:.1f} % of those" in text
    assert f"Before the change it gave it to {100 * exact:.1f} %." in text
    assert ("did not show that the model knew your data before" in text) is told
    report = officer_report(registry, 1)
    assert ("before the run" in dict(report.tables[0].rows)) is told
    measured = {row[0]: row[2] for row in report.tables[3].rows}
    assert measured["exact answers"].endswith(f", before the run {exact:.3f}")
    (line,) = next_step_lines(Claim(registry=registry, numbers=(1,), token="t"))
    assert ("did not show before the run that it knew it" in line) is told


UNKNOWN_BEFORE = replace(
    FIGURES, forget_accuracy_before=0.25, forget_exact_before=0.0, run_forget_accuracy_before=0.3,
    identifiers_leaked_before=0,
)


@pytest.mark.parametrize("earlier", [
    {"forget_exact_before": 1.0},
    {"forget_exact_before": None, "forget_accuracy_before": None},  # before they were kept
    {"identifiers_leaked": 3},
    {"forget_exact": 0.9},
])
def test_what_an_earlier_run_saw_known_is_not_told_as_never_shown(
    registry: Registry, add: Adder, earlier: dict[str, Any]
) -> None:
    """Another model may have been put in the base model's place since."""
    add()
    registry.validate(1, author=AUTHOR, identity="passport seen")
    first = Claim(registry=registry, numbers=(1,), token="t")
    first.take("run-7")
    assert first.settle({1: replace(UNKNOWN_BEFORE, preservation=0.1, **earlier)})[1]
    assert "not reached" in words(letter(registry, 1))
    again = Claim(registry=registry, numbers=(1,), token="u")
    again.take("run-8")
    assert "before the run" not in dict(officer_report(registry, 1).tables[0].rows)
    again.settle({1: replace(UNKNOWN_BEFORE, run_id="run-8")})
    assert registry.request(1).state is State.VERIFIED
    assert "did not show that the model knew" not in words(letter(registry, 1))
    assert "before the run" not in dict(officer_report(registry, 1).tables[0].rows)


def test_what_was_shown_before_is_told_of_the_run_that_was_judged(
    registry: Registry, add: Adder
) -> None:
    add()
    registry.validate(1, author=AUTHOR, identity="passport seen")
    first = Claim(registry=registry, numbers=(1,), token="t")
    first.take("run-7")
    assert first.settle({1: replace(UNKNOWN_BEFORE, preservation=0.1)})[1]
    assert "before the run" in dict(officer_report(registry, 1).tables[0].rows)
    Claim(registry=registry, numbers=(1,), token="u").take("run-8")
    assert "before the run" not in dict(officer_report(registry, 1).tables[0].rows)


def test_the_retrained_model_may_be_lucky_with_two_records_too(
    registry: Registry, add: Adder
) -> None:
    add()
    verify(registry, 1, replace(
        UNKNOWN_BEFORE, retrained_accuracy=1.0, run_retrained_accuracy=0.25,
        forget_accuracy_before=1.0, run_forget_accuracy_before=0.98))
    assert "did not show that the model knew" not in words(letter(registry, 1))


def test_luck_is_told_of_the_figure_that_it_belongs_to(registry: Registry, add: Adder) -> None:
    add()
    verify(registry, 1, replace(
        FIGURES, ranked_records=4, forget_records=4, forget_accuracy=0.5,
        forget_accuracy_before=1.0, forget_exact_before=1.0))
    measured = {row[0]: row[2] for row in officer_report(registry, 1).tables[3].rows}
    assert measured["right options, this request"] == (
        "0.500 of 4 records, by luck with 0.2617, before the run 1.000")


def test_a_judgement_of_before_that_figure_existed_claims_nothing_of_it(
    registry: Registry, add: Adder
) -> None:
    add()
    verify(registry, 1)
    text = words(letter(registry, 1))
    assert "Before the change" not in text and "did not show" not in text
    assert "before the run" not in dict(officer_report(registry, 1).tables[0].rows)


def test_a_judgement_of_another_version_keeps_its_own_reasons(
    registry: Registry, add: Adder, monkeypatch: pytest.MonkeyPatch
) -> None:
    add()
    registry.validate(1, author=AUTHOR, identity="seen")
    claim = Claim(registry=registry, numbers=(1,), token="t")
    claim.take("run-7")
    monkeypatch.setattr("medunlearn_client.erasure.claims.shortfalls", lambda *_: ("of old",))
    claim.settle({1: FIGURES})
    assert officer_report(registry, 1).tables[2].rows[-1][-1] == "run run-7: of old"


def test_a_refusal_says_why_and_where_to_complain(registry: Registry, add: Adder) -> None:
    add()
    registry.change_settings(
        changed(registry.settings(), ["authority=the Commissioner"]), author=AUTHOR
    )
    registry.refuse(1, author=AUTHOR, reason="archiving in the public interest")
    text = words(letter(registry, 1))
    assert "archiving in the public interest" in text and "the Commissioner" in text


def test_the_report_holds_everything_but_ids(registry: Registry, add: Adder) -> None:
    add("secret-patient")
    verify(registry, 1)
    report = officer_report(registry, 1)
    page = Tags(render_html(report)).text
    for part in ("passport seen", "2026-01-31 12:00", "run run-7: all criteria met", "d" * 64,
                 "patient id", "ab" * 32, "e" * 64, "2026-02-28"):
        assert part in page
    (judgement,) = [t for t in report.tables if t.title == "Judgement of run run-7"]
    assert judgement.header == ("criterion", "asked", "measured", "met")
    assert judgement.rows == (
        ("right options, whole run", "at most 0.350 (0.250 + 0.100)", "0.300 of 80 records", "yes"),
        ("right options, this request", "at most 0.350 (0.250 + 0.100), or by luck with "
         "probability 0.050", "0.250 of 2 records", "yes"),
        ("exact answers", "at most 0.050 (0.000 + 0.050)", "0.000 of 2 records", "yes"),
        ("identifiers given away", "at most 0", "0 of 3 asked", "yes"),
        ("preservation", "at least 0.900", "0.970 (word for word 0.348)", "yes"),
    )
    assert registry.check() in report.foot
    assert "secret-patient" not in page


# -- injection -----------------------------------------------------------------------------


@pytest.mark.parametrize("text", INJECTIONS)
def test_markup_in_any_field_stays_text(
    registry: Registry, add: Adder, text: str
) -> None:
    add()
    plain = Tags(render_html(letter(registry, 1, addressee=("Name",))))
    registry.change_settings(
        changed(registry.settings(), [f"hospital={text}", f"contact={text}"]), author=text
    )
    registry.extend(1, author=text, reason=text)
    made = letter(registry, 1, addressee=address_lines(text))
    report = officer_report(registry, 1)
    for document in (made, report):
        page = Tags(render_html(document))
        assert page.names <= plain.names | {"h2", "table", "thead", "tbody", "tr", "th", "td",
                                            "footer"}
        assert page.attributes <= plain.attributes | {"scope"}
        assert text in page.text
        assert render_pdf(document).startswith(b"%PDF-")
    assert "default-src 'none'" in unescape(render_html(made))


def test_the_pdf_holds_each_text_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from reportlab.platypus import Paragraph

    drawn: list[str] = []
    real = Paragraph.draw

    def note(self: Paragraph) -> None:
        drawn.append(self.getPlainText())
        real(self)

    monkeypatch.setattr(Paragraph, "draw", note)
    render_pdf(Document(title="T<i>", sender="S&amp;", day=date(2026, 1, 1),
                        paragraphs=INJECTIONS, addressee=("<b>A", "B")))
    assert [" ".join(text.split()) for text in drawn] == [
        "S&amp;", "<b>AB", "2026-01-01", "T<i>", *INJECTIONS
    ]


def test_the_pdf_runs_no_action_and_links_nowhere(registry: Registry, add: Adder) -> None:
    add()
    data = render_pdf(letter(registry, 1, addressee=INJECTIONS[:3]))
    streams = [zlib.decompress(part) for part in _flate(data)]
    for name in (b"/JavaScript", b"/JS", b"/OpenAction", b"/Launch", b"/URI", b"/EmbeddedFile"):
        assert name not in data
        assert not any(name in stream for stream in streams)


def _flate(data: bytes) -> list[bytes]:
    """Streams that are compressed without a further filter."""
    found = []
    for part in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", data, re.DOTALL):
        if part[:1] == b"\x78":
            found.append(part)
    return found


@pytest.mark.parametrize("lines", ["\x1b[31mRed", "a\x00b", "\u202eevil", "\n".join("abcdefghi")])
def test_unfit_addresses_are_refused_without_being_repeated(lines: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        address_lines(lines)
    assert caught.value.code in ("ERASURE_TEXT", "ERASURE_ADDRESS")
    assert "evil" not in str(caught.value) and "Red" not in str(caught.value)


# -- templates -----------------------------------------------------------------------------


def test_a_hospital_s_own_words(registry: Registry, add: Adder, tmp_path: Path) -> None:
    add()
    own = tmp_path / "own.j2"
    own.write_text("Brief {{ number }}\r\n\r\nbis\n  {{ deadline }}\n\n\n\n", encoding="utf-8-sig")
    made = letter(registry, 1, template=own)
    assert (made.title, made.paragraphs) == ("Brief 1", ("bis 2026-02-28",))


@pytest.mark.parametrize("text", [
    "", "{# nothing #}", "{{ patient_name }}", "{{ number", "{% if %}", "{{ 1 / 0 }}",
    "{% for i in range(10 ** 9) %}x{% endfor %}", "{{ number.missing.deeper }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ letter.__globals__ }}",
    "{% include '/etc/passwd' %}", "{% import 'os' as os %}", "{{ percent.__globals__ }}",
    "{{ 'a' + 1 }}", "{{ percent('x') }}", "{{ figures.run_id }}",
])
def test_a_bad_template_is_one_clear_error(
    registry: Registry, add: Adder, tmp_path: Path, text: str
) -> None:
    add()
    own = tmp_path / "own.j2"
    own.write_text(text, encoding="utf-8")
    with pytest.raises(Misconfigured, match="ERASURE_TEMPLATE"):
        letter(registry, 1, template=own)


def test_templates_that_are_no_text(registry: Registry, add: Adder, tmp_path: Path) -> None:
    add()
    binary, large = tmp_path / "binary", tmp_path / "large"
    binary.write_bytes(b"\xff\xfe\x00")
    large.write_text("x" * (1 << 17), encoding="utf-8")
    for path in (binary, large, tmp_path / "none", tmp_path):
        with pytest.raises(Misconfigured, match="ERASURE_TEMPLATE"):
            letter(registry, 1, template=path)


def test_the_shipped_template_is_what_is_used(
    registry: Registry, add: Adder, tmp_path: Path
) -> None:
    add()
    copy = tmp_path / "copy.j2"
    copy.write_text(letter_template(), encoding="utf-8")
    assert letter(registry, 1, template=copy) == letter(registry, 1)


# -- files ---------------------------------------------------------------------------------


def test_file_names_hold_the_number_alone_and_only_the_owner_reads_them(
    registry: Registry, add: Adder, tmp_path: Path
) -> None:
    add("../../evil")
    out = tmp_path / "out" / "deep"
    write_pages(letter(registry, 1, addressee=("../../Evil",)), out, kind="letter", number=1)
    stem = f"letter-0001-{registry.today}"
    assert sorted(p.name for p in out.iterdir()) == [f"{stem}.html", f"{stem}.pdf"]
    assert all(p.stat().st_mode & 0o777 == 0o600 for p in out.iterdir())
    assert not list(tmp_path.rglob("*vil*"))


def test_a_page_that_was_printed_stays(registry: Registry, add: Adder, tmp_path: Path) -> None:
    add()
    acknowledged = letter(registry, 1)
    first = write_pages(acknowledged, tmp_path, kind="letter", number=1)
    assert write_pages(acknowledged, tmp_path, kind="letter", number=1) == first
    registry.refuse(1, author=AUTHOR, reason="kept by law")
    second = write_pages(letter(registry, 1), tmp_path, kind="letter", number=1)
    first[0].write_text("edited by hand", encoding="utf-8")
    third = write_pages(acknowledged, tmp_path, kind="letter", number=1)
    assert len({*first, *second, *third}) == 6
    assert first[0].read_text(encoding="utf-8") == "edited by hand"


def test_the_same_document_gives_the_same_bytes(registry: Registry, add: Adder) -> None:
    add()
    made = letter(registry, 1)
    assert render_pdf(made) == render_pdf(made)
    assert render_html(made) == render_html(made)


def test_a_character_without_glyph_is_refused_and_nothing_written(
    registry: Registry, add: Adder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add()
    monkeypatch.setattr(pages, "FONTS", ("none.ttf", "Vera.ttf"))
    made = letter(registry, 1, addressee=("山田 太郎",))
    with pytest.raises(Misconfigured) as caught:
        write_pages(made, tmp_path / "out", kind="letter", number=1)
    assert caught.value.code == "ERASURE_GLYPHS" and "has 4 of" in caught.value.message
    assert "山" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert "山田 太郎" in render_html(made)
    assert render_pdf(letter(registry, 1, addressee=("Zoë Müller-Łos",))).startswith(b"%PDF-")
    monkeypatch.setattr(pages, "FONTS", ())
    with pytest.raises(Misconfigured, match="ERASURE_GLYPHS"):
        render_pdf(made)


@pytest.mark.parametrize(("name", "count"), [("דוד כהן", 5), ("Łukasz\nمحمد", 3), ("\u0661", 0)])
def test_what_is_written_from_right_to_left_is_refused_rather_than_printed_backwards(
    registry: Registry, add: Adder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str,
    count: int,
) -> None:
    """Fonts with these letters were found, and the letter bore them in the order of memory."""
    monkeypatch.setattr(pages, "_lacking", lambda *_: 0)
    add()
    made = letter(registry, 1, addressee=tuple(name.split("\n")))
    if not count:  # Arabic digits run from left to right
        assert render_pdf(made).startswith(b"%PDF-")
        return
    with pytest.raises(Misconfigured, match="ERASURE_GLYPHS") as caught:
        write_pages(made, tmp_path / "out", kind="letter", number=1)
    assert f"{count} of the characters" in caught.value.message
    assert not (tmp_path / "out").exists()
    assert not re.search(r"[\u0590-\u06ff]", str(caught.value))


def test_fonts_and_folders_that_are_none(registry: Registry, add: Adder, tmp_path: Path) -> None:
    add()
    made = letter(registry, 1)
    fake = tmp_path / "fake.ttf"
    fake.write_bytes(b"no font")
    for font in (fake, tmp_path / "none.ttf", tmp_path):
        with pytest.raises(MedunlearnError, match="ERASURE_FONT"):
            render_pdf(made, font=font)
    with pytest.raises(Misconfigured, match="OUT_NOT_A_FOLDER"):
        write_pages(made, fake, kind="letter", number=1)


def test_a_long_history_fills_several_pages(registry: Registry, add: Adder) -> None:
    add()
    for turn in range(40):
        if turn % 2 == 0:
            if turn == 0:
                registry.validate(1, author=AUTHOR, identity="seen")
            Claim(registry=registry, numbers=(1,), token=f"t{turn}").take("run")
        else:
            registry.reopen(1, author=AUTHOR, reason="x" * 400)
    data = render_pdf(officer_report(registry, 1))
    assert len(re.findall(rb"/Type /Page\b", data)) > 2
