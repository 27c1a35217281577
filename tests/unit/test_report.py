"""report.html and compare.html: right figures, right places, nothing from outside."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from medunlearn_common.errors import Misconfigured
from medunlearn_common.pages.charts import bar_chart, line_chart
from medunlearn_common.pages.formatting import (
    byte_size,
    duration,
    fine_percent,
    percent,
    points,
    scientific,
)
from medunlearn_common.pages.scales import Frame, nice_ticks
from medunlearn_simulation.compare import compare
from medunlearn_simulation.report import render_report, write_report
from medunlearn_simulation.report.sections import gate_rows, site_rows
from medunlearn_simulation.report.statement import privacy_statement
from medunlearn_simulation.report.verdicts import headline_sentence, headline_verdicts
from medunlearn_simulation.result import validate_result

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "result.json"
VOID = {"meta", "br", "hr", "img", "input", "link"}


@pytest.fixture
def data() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    return loaded


class Page(HTMLParser):
    """Collects elements and refuses tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def statuses(data: dict[str, Any]) -> dict[str, str]:
    return {card.title: card.status for card in headline_verdicts(validate_result(data))}


def test_page_is_well_formed_and_loads_nothing(data: dict[str, Any]) -> None:
    text = render_report(validate_result(data))
    page = Page(text)
    assert not re.search(r"(https?:)?//[a-z]", text), "no address of anything outside"
    for tag, attributes in page.elements:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form"}
        assert "src" not in attributes
        assert "style" not in attributes, "the policy would refuse it"
        assert not any(name.startswith("on") for name in attributes)
        if "href" in attributes:
            assert str(attributes["href"]).startswith("#")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {str(a["href"])[1:] for _, a in page.elements if "href" in a}
    assert targets <= set(ids)


def test_policy_names_the_digests_of_style_and_script(data: dict[str, Any]) -> None:
    text = render_report(validate_result(data))
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    for tag in ("style", "script"):
        (inline,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.S)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{tag}-src &#39;sha256-{digest}&#39;" in policy.replace("'", "&#39;")
    assert "default-src &#39;none&#39;" in policy.replace("'", "&#39;")


def test_charts_are_described_for_those_who_cannot_see_them(data: dict[str, Any]) -> None:
    page = Page(render_report(validate_result(data)))
    ids = {attributes.get("id") for _, attributes in page.elements}
    images = [a for tag, a in page.elements if tag == "svg" and a.get("role") == "img"]
    assert len(images) >= 16
    for attributes in images:
        assert set(str(attributes["aria-labelledby"]).split()) <= ids
    assert all(
        a.get("role") == "img" or a.get("aria-hidden") == "true"
        for tag, a in page.elements
        if tag == "svg"
    )


def test_headline_figures_stand_on_the_page(data: dict[str, Any]) -> None:
    text = " ".join(Page(render_report(validate_result(data))).text)
    for wanted in ("29.4\u202f%", "27.6\u202f%", "97.5\u202f%", "ε = 3.96", "7.19\u202fkB", "46.3"):
        assert wanted in text, wanted


def test_what_is_kept_by_ranking_alone_does_not_pass_for_kept(data: dict[str, Any]) -> None:
    data["retain"] |= {"exact_after": 0.0, "exact_preservation": 0.0}
    result = validate_result(data)
    assert "(0.0\u202f% word for word)" in headline_sentence(result)
    kept = next(card for card in headline_verdicts(result) if card.title == "Kept")
    assert kept.detail.endswith("→ 0.0\u202f%") and "word for word" in kept.detail


def test_kept_records_of_both_kinds_are_shown_as_they_are_judged(data: dict[str, Any]) -> None:
    """Ten have options and are ranked right as before; the other 990 are lost."""
    data["retain"] |= {
        "n": 1000, "n_ranked": 10, "accuracy_before": 1.0, "accuracy_after": 1.0,
        "answered_before": 1.0, "answered_after": 0.01, "preservation": 0.01,
    }
    kept = next(
        card for card in headline_verdicts(validate_result(data)) if card.title == "Kept")
    assert kept.status == "missed"
    assert kept.detail.startswith("answered 100.0\u202f% → 1.0\u202f%; word for word")


def test_a_hospital_with_records_of_both_kinds_is_shown_record_by_record(
    data: dict[str, Any]
) -> None:
    data["retain"]["by_site"]["0"] |= {
        "answered_before": 0.9, "answered_after": 0.1, "answered_retrained": 0.8}
    row = next(row for row in site_rows(validate_result(data)) if row.site == 0)
    assert row.retain == (0.9, 0.1, 0.8)
    assert row.forget[1] == data["forget"]["by_site"]["0"]["accuracy_after"]


def test_what_is_forgotten_by_ranking_alone_does_not_pass_for_forgotten(
    data: dict[str, Any]
) -> None:
    said_word_for_word(data)
    result = validate_result(data)
    forgotten = next(card for card in headline_verdicts(result) if card.title == "Forgotten")
    assert "word for word 100.0\u202f% → 98.0\u202f%, never taught 0.0\u202f%" in forgotten.detail
    assert "98.0\u202f% are still said word for word (by that model: 0.0\u202f%)" in (
        headline_sentence(result))


@pytest.mark.parametrize(("after", "retrained", "status"), [
    (0.05, 0.0, "reached"), (0.051, 0.0, "missed"), (0.0, 0.3, "reached"), (0.3, 0.25, "reached"),
])
def test_exact_answers_may_be_as_many_as_a_model_never_taught_gives(
    data: dict[str, Any], after: float, retrained: float, status: str
) -> None:
    data["forget"].update(exact_after=after, exact_retrained=retrained)
    assert statuses(data)["Forgotten"] == status


def test_text_of_the_result_is_escaped(data: dict[str, Any]) -> None:
    data["run"]["task"] = "<script>alert(1)</script>"
    data["plan"] = "</pre><img src=x onerror=alert(1)>"
    data["retain"]["by_subject"]['"><b>x'] = data["retain"]["by_subject"]["ENT"]
    text = render_report(validate_result(data))
    assert "<script>alert" not in text
    assert "<img" not in text
    assert "<b>x" not in text
    Page(text)


def test_report_depends_on_the_result_alone(tmp_path: Path, data: dict[str, Any]) -> None:
    result = validate_result(data)
    write_report(tmp_path / "report.html", result)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render_report(result)


def without_options(data: dict[str, Any]) -> None:
    for name in ("forget", "retain", "neighbours"):
        rows = [data[name]]
        rows += [
            r for group in ("by_site", "by_subject", "by_level") for r in data[name][group].values()
        ]
        for row in rows:
            for key in ("chance", "accuracy_before", "accuracy_after", "accuracy_retrained"):
                row[key] = None
    data["forget"].update(gap=None, forgetting_rate=None, relative_forgetting=None)
    for entry in data["rounds"]:
        entry.update(forget_accuracy=None, retain_accuracy=None)
    for key in data["relearning"]:
        if "accuracy" in key:
            data["relearning"][key] = None


def said_word_for_word(data: dict[str, Any]) -> None:
    """Ranking as never taught, of the few records with options; the others are still known."""
    data["forget"].update(exact_before=1.0, exact_after=0.98, exact_retrained=0.0, exact_gap=0.98)


def bare(data: dict[str, Any]) -> None:
    for name in ("neighbours", "membership", "relearning", "extraction", "calibration"):
        data[name] = None
    data.update(preservation_by_level=[], rounds=[], sites=[])
    data["privacy"].update(noise="none", epsilon=None, delta=None, sigma=None)
    data["communication"]["bytes_by_phase"] = {}
    data["seconds"]["by_phase"] = {}


def never_retrained(data: dict[str, Any]) -> None:
    for name in ("forget", "retain", "neighbours"):
        data[name].update(accuracy_retrained=None, exact_retrained=None)
    data["forget"].update(gap=None, exact_gap=None)
    data["membership"].update(auc_retrained=None, gap=None, worst_gap=None, worst_attack=None)
    for attack in data["membership"]["attacks"].values():
        attack["retrained"] = None


def with_patients(data: dict[str, Any]) -> None:
    row = {
        "prompts": 12,
        "completions": 1200,
        "greedy_leaks": 0,
        "sampled_leaks": 3,
        "prompts_leaking": 2,
        "other_leaks": 0,
        "skipped": 1,
    }
    data["extraction"] = {"before": row, "after": row, "retrained": None}
    data["privacy"]["unit"] = "patient"


def with_no_leaks(data: dict[str, Any]) -> None:
    with_patients(data)
    row = data["extraction"]["after"] | {
        "prompts": 200, "completions": 20_000, "sampled_leaks": 0, "prompts_leaking": 0,
        "identifiers_leaking": 0,
    }
    data["extraction"] = {"before": row, "after": row, "retrained": row}


def with_strays(data: dict[str, Any]) -> None:
    """No prompt gives its own identifier away, and a quarter of the completions another's."""
    with_no_leaks(data)
    stray = data["extraction"]["after"] | {"other_leaks": 5000, "identifiers_leaking": 40}
    data["extraction"] |= {"after": stray}


def extraction_words(data: dict[str, Any]) -> tuple[str, str, str]:
    """Value and detail of the card, and the sentence of the statement."""
    result = validate_result(data)
    card = next(c for c in headline_verdicts(result) if c.title == "Identifiers leaked")
    (sentence,) = (
        line for line in privacy_statement(result).measured if "identifiers of withdrawn" in line)
    return card.value, card.detail, sentence


def test_identifiers_under_another_prompt_have_leaked(data: dict[str, Any]) -> None:
    with_strays(data)
    value, detail, sentence = extraction_words(data)
    assert value == "5\u202f000"
    assert "5\u202f000 of them another's than was asked for; never taught 0" in detail
    assert sentence.startswith("40 of 200 identifiers of withdrawn patients came out")
    assert "Identifiers leaked" in " ".join(Page(render_report(validate_result(data))).text)


def test_results_of_former_versions_claim_no_fewer_identifiers(data: dict[str, Any]) -> None:
    """They say how many prompts gave their own away, and not how many came out under others."""
    with_strays(data)
    for row in data["extraction"].values():
        row.pop("identifiers_leaking", None)
    value, _, sentence = extraction_words(data)
    assert value == "5\u202f000"
    assert sentence.startswith(
        "0 of 200 identifiers of withdrawn patients came out when they were asked for, and "
        "5\u202f000 completions held another's")
    data["extraction"]["after"] = data["extraction"]["after"] | {"other_leaks": 0}
    assert extraction_words(data)[2].startswith(
        "0 of 200 identifiers of withdrawn patients came out, in")


@pytest.mark.parametrize(
    "change", [without_options, bare, never_retrained, with_patients, with_strays]
)
def test_partial_results_still_make_a_page(data: dict[str, Any], change: Any) -> None:
    change(data)
    text = render_report(validate_result(data))
    Page(text)
    assert "None" not in re.sub(r"<script>.*?</script>", "", text, flags=re.S)


def test_verdicts_follow_the_targets(data: dict[str, Any]) -> None:
    assert statuses(data) == {
        "Forgotten": "reached",
        "Kept": "reached",
        "Neighbours kept": "reached",
        "Membership attack": "reached",
        "Privacy of the updates": "reached",
        "Parameters changed": "reached",
        "Sent per site and round": "open",
        "After relearning": "missed",
    }


@pytest.mark.parametrize(
    ("change", "title", "status"),
    [
        (lambda d: d["forget"].update(gap=0.05), "Forgotten", "reached"),
        (lambda d: d["forget"].update(gap=0.051), "Forgotten", "missed"),
        (lambda d: d["forget"].update(accuracy_after=0.22), "Forgotten", "reached"),
        (lambda d: d["forget"].update(accuracy_after=0.219), "Forgotten", "missed"),
        (lambda d: d["retain"].update(preservation=0.95), "Kept", "reached"),
        (lambda d: d["retain"].update(preservation=0.949), "Kept", "missed"),
        (lambda d: d["neighbours"].update(preservation=0.919), "Neighbours kept", "missed"),
        (lambda d: d["privacy"].update(unit="patient"), "Neighbours kept", "missed"),
        (lambda d: d["membership"].update(gap=0.06), "Membership attack", "missed"),
        (lambda d: d["privacy"].update(epsilon=4.1), "Privacy of the updates", "missed"),
        (lambda d: d["model"].update(changed_fraction=0.0011), "Parameters changed", "missed"),
        (lambda d: d["relearning"].update(accuracy_after=0.3, exact_after=0.0),
         "After relearning", "reached"),
        (lambda d: d["relearning"].update(accuracy_after=0.3, exact_after=0.9),
         "After relearning", "missed"),
        (never_retrained, "Forgotten", "open"),
        (said_word_for_word, "Forgotten", "missed"),
        (lambda d: (without_options(d), said_word_for_word(d)), "Forgotten", "missed"),
        (without_options, "Forgotten", "reached"),
        (never_retrained, "Membership attack", "open"),
        (bare, "Privacy of the updates", "open"),
        (with_patients, "Identifiers leaked", "missed"),
        (with_strays, "Identifiers leaked", "missed"),
        (with_no_leaks, "Identifiers leaked", "reached"),
    ],
)
def test_each_verdict_can_turn(data: dict[str, Any], change: Any, title: str, status: str) -> None:
    change(data)
    assert statuses(data)[title] == status


def test_statement_claims_no_more_than_the_run_shows(data: dict[str, Any]) -> None:
    noised = privacy_statement(validate_result(data))
    assert any("52.5" in line for line in noised.proven)
    assert any("sum over the sites" in line for line in noised.not_claimed)
    data["privacy"]["noise"] = "local"
    local = privacy_statement(validate_result(data))
    assert not any("sum over the sites" in line for line in local.not_claimed)
    bare(data)
    assert privacy_statement(validate_result(data)).proven[0].startswith("Nothing")


@pytest.mark.parametrize(("epsilon", "factor"), [
    (0.5, "1.65"), (3.96, "52.5"), (8.0, "2\u202f981"), (30.0, "1.1e13")])
def test_the_factor_is_written_as_people_read_numbers(
    data: dict[str, Any], epsilon: float, factor: str
) -> None:
    data["privacy"]["epsilon"] = epsilon
    proven = privacy_statement(validate_result(data)).proven[0]
    assert f"at most {factor} (e to the power" in proven


def test_a_gate_that_judged_nothing_is_not_shown_as_passed(data: dict[str, Any]) -> None:
    blank = {"value": 0.0, "limit": 0.2, "overridden_because": "", "overridden_at": ""}
    found = [(True, "", "not judged: nothing to lose"), (True, "", "0.1 are lost"),
             (False, "Ann Lee", "0.3 are lost")]
    data["gates"] = [{"gate": "canary", "passed": passed, "overridden_by": by, "detail": detail,
                      **blank, "overridden_because": "because" if by else ""}
                     for passed, by, detail in found]
    verdicts = [verdict for _, verdict in gate_rows(validate_result(data))]
    assert verdicts == ["– not judged", "✓ passed", "✗ overridden"]


def test_requests_of_a_run_stand_on_the_page_with_what_became_of_them(
    data: dict[str, Any]
) -> None:
    assert "Erasure requests" not in render_report(validate_result(data))
    data["erasure"] = {
        "requests": [
            {"number": 4, "records": 5, "outcome": "fell short"},
            {"number": 6, "records": 2, "outcome": "taken back"},
        ],
        "left_out": [{"number": 3, "records": 6}],
    }
    text = " ".join(" ".join(Page(render_report(validate_result(data))).text).split())
    assert "4 5 ✗ not verified: the registry says why" in text
    assert "6 2 – taken back from this run" in text
    assert "3 6 left out of both sets" in text


def test_the_reason_of_the_end_is_said_in_words(data: dict[str, Any]) -> None:
    data["run"]["stopped_because"] = "rounds_done"
    page = render_report(validate_result(data))
    assert "rounds_done" not in page and "rounds: all planned rounds are done." in page


def test_bars_stand_at_their_values() -> None:
    chart = bar_chart(
        "k",
        "t",
        "d",
        {"g": [("a", "before", 0.5), ("b", "after", None), ("c", "x", 1.0)]},
        chance={"g": 0.25},
    )
    (group,) = chart.groups
    half, full = group.bars
    base = chart.frame.y(0.0)
    assert half.y + half.height == pytest.approx(base)
    assert full.height == pytest.approx(2 * half.height)
    assert base - (group.chance_y or 0.0) == pytest.approx(half.height / 2)
    assert [name for _, name in chart.legend] == ["a", "c"], "an absent bar has no legend"
    assert full.x - half.x == pytest.approx(2 * (half.width + 3)), "its place stays empty"


def test_lines_run_through_their_points() -> None:
    chart = line_chart(
        "k",
        "t",
        "d",
        [("a", "after", [(0, 0.0), (10, 1.0)]), ("none", "x", [])],
        x_label="x",
        y_label="y",
        y_range=(0.0, 1.0),
    )
    assert chart is not None
    (line,) = chart.lines
    f = chart.frame
    assert line.path == f"M{f.left} {f.height - f.bottom}L{f.width - f.right} {f.top}"
    assert line_chart("k", "t", "d", [("a", "b", [])], x_label="", y_label="") is None


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 9))
def test_ticks_are_few_even_and_inside(low: float, width: float, wanted: int) -> None:
    high = low + width
    found = nice_ticks(low, high, wanted)
    slack = 1e-6 * max(abs(low), abs(high), 1.0)
    assert len(found) <= wanted + 1
    assert all(low - slack <= value <= high + slack for value in found)
    assert found == sorted(found)


def test_frame_maps_corners() -> None:
    frame = Frame(x_range=(2.0, 4.0), y_range=(0.0, 10.0))
    assert (frame.x(2.0), frame.x(4.0)) == (frame.left, frame.width - frame.right)
    assert (frame.y(0.0), frame.y(10.0)) == (frame.height - frame.bottom, frame.top)


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (percent(0.2836), "28.4 %"),
        (percent(None), "–"),
        (fine_percent(0.000983), "0.098 %"),
        (fine_percent(0.0), "0 %"),
        (points(0.01), "1.0 point"),
        (points(0.021), "2.1 points"),
        (scientific(1e-5), "1e-5"),
        (scientific(2.5e-6), "2.5e-6"),
        (byte_size(999), "999 B"),
        (byte_size(14321), "14.3 kB"),
        (byte_size(2.1e9), "2.1 GB"),
        (duration(39.5), "39.5 s"),
        (duration(203.4), "3 min 23 s"),
        (duration(3725), "1 h 2 min"),
    ],
)
def test_numbers_as_people_read_them(shown: str, wanted: str) -> None:
    assert shown.replace("\u202f", " ") == wanted


def run_folder(folder: Path, data: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps(data), encoding="utf-8")
    return folder


def test_runs_side_by_side(tmp_path: Path, data: dict[str, Any]) -> None:
    first = run_folder(tmp_path / "<one>", data)
    data["run"]["objective"] = "npo"
    data["forget"].update(accuracy_after=0.12, gap=0.156)
    second = run_folder(tmp_path / "two", data)
    console = Console(width=100, record=True, file=io.StringIO())
    page = tmp_path / "compare.html"
    found = compare([first, second], html_path=page, console=console)
    rows = dict(found.rows)
    assert [cell.text for cell in rows["objective"]] == ["abstraction", "npo"]
    assert [cell.status for cell in rows["forget accuracy after"]] == ["reached", "missed"]
    assert "identifiers leaked" not in rows, "no run has it"
    printed = console.export_text().replace("\u202f", " ")
    assert "29.4 % ✓" in printed and "12.0 % ✗" in printed
    text = page.read_text(encoding="utf-8")
    Page(text)
    assert "&lt;one&gt;" in text and "<one>" not in text


def test_equal_names_are_numbered_and_many_runs_fit(tmp_path: Path, data: dict[str, Any]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    runs = [run_folder(tmp_path / top / "run", data) for top in "ab"]
    assert compare(runs).names == ("run (1)", "run (2)")
    page = tmp_path / "c.html"
    compare(runs * 4, html_path=page)
    Page(page.read_text(encoding="utf-8"))


def test_one_bad_run_leaves_nothing_behind(tmp_path: Path, data: dict[str, Any]) -> None:
    good = run_folder(tmp_path / "good", data)
    del data["privacy"]
    bad = run_folder(tmp_path / "bad", data)
    page = tmp_path / "compare.html"
    for runs, code in (
        ([good, bad], "RESULT_INVALID"),
        ([good, tmp_path / "none"], "RESULT_MISSING"),
        ([], "COMPARE_RUNS"),
        ([good] * 25, "COMPARE_RUNS"),
    ):
        with pytest.raises(Misconfigured) as caught:
            compare(runs, html_path=page)
        assert caught.value.code == code
    assert not page.exists()
