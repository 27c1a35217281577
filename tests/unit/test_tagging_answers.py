"""What an answer of "no" denies: what its question asks for, and nothing else that it names."""

from __future__ import annotations

import time

import pytest

from medunlearn_client.records import Record
from medunlearn_client.tagging import ConceptTagger
from medunlearn_client.tagging.readings import DoubtFinder
from medunlearn_common.concepts import Concept, ConceptHierarchy, load_builtin

LEE = "Ann Lee, born 1970-01-31"


@pytest.fixture(scope="module")
def tagger() -> ConceptTagger:
    return ConceptTagger(load_builtin("all").with_forget_roots(["MU:S0001", "MU:M0001"]))


@pytest.fixture(scope="module")
def small() -> ConceptTagger:
    """A hierarchy that knows few words, as SNOMED CT knows many: also who is asked about."""
    names = ("Hernia", "Asthma", "Patient", "Hepatitis C virus", "Aspirin")
    concepts = [Concept(concept_id=f"X:{n}", name=name) for n, name in enumerate(names)]
    concepts.append(Concept(
        concept_id="X:9", name="Inguinal hernia", synonyms=("Groin hernia",), parents=("X:0",),
    ))
    return ConceptTagger(
        ConceptHierarchy.from_concepts(concepts, source="x").with_forget_roots(["X:0", "X:3"])
    )


def asked(prompt: str, answer: str) -> Record:
    return Record(record_id="r", prompt=prompt, answer=answer, patient_id="p")


def said(tagger: ConceptTagger, prompt: str, answer: str) -> dict[str, str]:
    """What is said of each mention, where it stands first: in the question, if there."""
    made = asked(prompt, answer)
    return {
        made.text[span.start : span.end].lower(): span.assertion.value
        for span in reversed(tagger.tag_record(made))
    }


@pytest.mark.parametrize(("prompt", "answer"), [
    ("Has the inguinal hernia of Ann Lee been repaired?", "No"),
    ("Does Ann Lee, who has an inguinal hernia, take aspirin?", "No."),
    ("Is the inguinal hernia strangulated?", "No, it is reducible."),
    ("Is there strangulation of the inguinal hernia?", "No"),
    ("Does she have a strangulated inguinal hernia?", "No"),
    ("Does she have an inguinal hernia that hurts?", "No"),
    ("Does she have an inguinal hernia on the right?", "No"),
    ("Does she still have the inguinal hernia?", "No"),
    ("Has she had another inguinal hernia?", "No"),
    ("Does she have pain from the inguinal hernia?", "No"),
    ("Did the surgeon have to repair the inguinal hernia?", "No"),
    ("Has the surgeon repaired an inguinal hernia?", "No"),
    ("Did the scan that shows an inguinal hernia, show asthma?", "No"),
    ("Does she have inguinal hernia and asthma?", "No"),
    *(("Does she have an inguinal hernia?", answer) for answer in (
        "No, in remission.", "No, cured in 2019.", "No, resolved", "No. She had it repaired.",
        "No, treated.", "No, not at present.", "No. A scar from the repair.",
    )),
    ("Does she currently have an inguinal hernia?", "No"),
    ("Has she recently had an inguinal hernia?", "No"),
    ("Does she no longer have an inguinal hernia?", "No"),
    ("Did she have an inguinal hernia on 2020-01-02?", "No"),
    ("Does she have an inguinal hernia?", "No longer."),
    ("Does she have an inguinal hernia?", "No doubt."),
    ("Does she have an inguinal hernia?", "No, it was repaired."),
    ("Does she have an inguinal hernia?", "No complications."),
    ("Does she have an inguinal hernia?", "Never operated on"),
    ("Does she have an inguinal hernia?", "Not repaired, painless."),
    ("Does she have an inguinal hernia?", "No signs of strangulation."),
    ("Does she have an inguinal hernia?", "No known recurrence of inguinal hernia."),
    ("Does she have an inguinal hernia?", "No inguinal hernia repair."),
    ("Did she have an inguinal hernia in 2019?", "No"),
    ("On the left, an inguinal hernia?", "No"),
    ("Was an inguinal hernia seen by the surgeon?", "No"),
    ("Do you know whether she has an inguinal hernia?", "No"),
    ("Has her inguinal hernia been seen?", "No"),
    ("Did she have an inguinal hernia repaired?", "No"),
    ("Does she have her inguinal hernia?", "No"),
    ("Inguinal hernia repaired?", "No"),
    ("Recurrence of inguinal hernia?", "No"),
])
def test_a_no_denies_no_target_that_the_question_takes_for_given(
    small: ConceptTagger, prompt: str, answer: str
) -> None:
    """Taken for absent it would be kept and taught; now it is forgotten, and a person looks."""
    record = asked(prompt, answer)
    assert said(small, prompt, answer)["inguinal hernia"] == "possible"
    assert small.record_matches_forget_root(record)
    (doubtful,) = (
        tag for tag in DoubtFinder(small).uncertain([record])
        if tag.mention.endswith("hernia") and tag.span.end <= len(record.prompt)
    )
    assert "answered" in doubtful.doubt.value


@pytest.mark.parametrize("prompt", [
    "Does she have asthma?", "Did she ever have asthma?", "Does she have any asthma at all?",
    "Has she asthma?", f"Has {LEE}, had asthma?", "Has Ann Lee asthma?",
    "Has she ever had asthma?", "Has she a history of asthma?",
    f"Does {LEE}, suffer from asthma?", "Is she known to have asthma?",
    f"Was {LEE}, diagnosed with asthma?", "Has she ever been diagnosed with asthma?",
    "Is there asthma?", "Are there any signs of asthma?", "Has there ever been any asthma?",
    "Any asthma?", "Asthma?", "History of asthma?", "Any past medical history of asthma?",
    "Question: Does she have asthma?\nAnswer:", "In her own notes, does she have asthma?",
    "Did the examination show asthma?", "Was asthma found?", "Has asthma been diagnosed?",
    "Is asthma present?", "Does the patient have asthma?",
    "Does she have inguinal hernia or asthma?",
    "She has aspirin. Does Mrs. Lee have asthma?", "Does Ann B. Lee have asthma?",
    "Does she have an inguinal hernia, aspirin or any asthma?",
    "Does she have asthma in her past medical history?",
    "Does Ann Lee have asthma or not?",
])
@pytest.mark.parametrize("answer", ["No.", "none", "Never", "No, she has no lung disease."])
def test_a_no_denies_what_the_question_asks_whether_the_patient_has(
    small: ConceptTagger, prompt: str, answer: str
) -> None:
    found = said(small, prompt, answer)
    assert found["asthma"] == "negated"
    assert found.get("inguinal hernia", "negated") == "negated"
    assert said(small, prompt, "Yes.")["asthma"] == "affirmed"


@pytest.mark.parametrize("answer", [
    "No asthma.", "No known asthma", "not asthma", "No evidence.", "Never recorded",
    "No she does not", "None known", "No asthma or the like", "Not at all.", "no; never",
])
def test_a_no_may_say_again_what_it_denies(small: ConceptTagger, answer: str) -> None:
    assert said(small, "Does she have asthma?", answer)["asthma"] == "negated"
    record = asked("Does she have an inguinal hernia?", answer.replace("asthma", "inguinal hernia"))
    assert not small.record_matches_forget_root(record)


@pytest.mark.parametrize("prompt", [
    "Does she take aspirin?", f"Did {LEE}, receive aspirin?",
    "Has she ever used aspirin?",
])
def test_a_no_denies_what_was_not_taken(small: ConceptTagger, prompt: str) -> None:
    assert said(small, prompt, "No") == {"aspirin": "negated"}


@pytest.mark.parametrize("prompt", [
    f"What was the result of History of inguinal hernia for {LEE}, on 2020-02-29?",
    f"On 2020-02-29, what did History of inguinal hernia show for {LEE}?",
    f"What was the result of Inguinal hernia for {LEE}, on 2020-02-29?",
    f"What was the result of Presence of inguinal hernia for {LEE}, on 2020-02-29?",
    f"What was the result of Inguinal hernia [Presence] for {LEE}, on 2020-02-29?",
    "What was the result of the examination for an inguinal hernia?",
    "What were the findings of an ultrasound scan for inguinal hernia?",
])
@pytest.mark.parametrize("answer", ["no", "No.", "false", "never", "Absent", "negative"])
def test_an_observation_of_no_is_one_of_absence(
    tagger: ConceptTagger, prompt: str, answer: str
) -> None:
    """``valueBoolean`` false becomes the answer "no": people without it are not forgotten."""
    assert said(tagger, prompt, answer)["inguinal hernia"] == "negated"
    assert not tagger.record_matches_forget_root(asked(prompt, answer))


@pytest.mark.parametrize("answer", ["yes", "No change", "No complication.", "1.5", "nothing new"])
def test_an_observation_of_anything_else_is_one_of_presence(
    tagger: ConceptTagger, answer: str
) -> None:
    prompt = f"What was the result of History of inguinal hernia for {LEE}, on 2020-02-29?"
    assert said(tagger, prompt, answer)["inguinal hernia"] == "affirmed"


@pytest.mark.parametrize("name", [
    "Recurrence of inguinal hernia", "Strangulation of inguinal hernia",
    "Inguinal hernia repaired", "Inguinal hernia strangulation [Presence]",
    "Inguinal hernia sac culture", "the repair of the inguinal hernia",
    "the treatment for inguinal hernia",
])
@pytest.mark.parametrize("answer", ["no", "Absent", "negative"])
def test_an_observation_about_a_target_does_not_deny_it(
    small: ConceptTagger, name: str, answer: str
) -> None:
    prompt = f"What was the result of {name} for {LEE}, on 2020-02-29?"
    assert said(small, prompt, answer)["inguinal hernia"] == "possible"


def test_a_laboratory_s_no_is_one_of_the_germ(small: ConceptTagger) -> None:
    for rest in ("Ab", "RNA [Presence] in Serum or Plasma by NAA"):
        prompt = f"What was the result of Hepatitis C virus {rest} for {LEE}, on 2020-02-29?"
        assert said(small, prompt, "Not detected") == {"hepatitis c virus": "negated"}


@pytest.mark.parametrize(("prompt", "answer"), [
    ("What followed the repair of the inguinal hernia?", "No complication."),
    ("What followed the repair of the inguinal hernia?", "No"),
    ("When was the inguinal hernia operated on?", "Never"),
    ("When was inguinal hernia diagnosed?", "No"),
])
def test_other_open_questions_are_denied_by_nothing(
    small: ConceptTagger, prompt: str, answer: str
) -> None:
    assert said(small, prompt, answer)["inguinal hernia"] == "affirmed"


def test_a_date_that_was_not_found_is_no_denial(small: ConceptTagger) -> None:
    prompt = "When was inguinal hernia diagnosed?"
    assert said(small, prompt, "Not found")["inguinal hernia"] == "possible"


def test_only_the_last_question_is_denied(small: ConceptTagger) -> None:
    prompt = "Does she have an inguinal hernia? Yes. Does she have asthma?"
    assert said(small, prompt, "No") == {"inguinal hernia": "affirmed", "asthma": "negated"}


def test_a_relative_s_stays_a_relative_s(small: ConceptTagger) -> None:
    assert said(small, "Does her mother have asthma?", "No") == {"asthma": "family"}


@pytest.mark.parametrize("piece", [
    "does she have hernia or ", "asthma, ", "what was the result of hernia ", "on a a, ", "Ann ",
])
def test_a_question_without_an_end_takes_no_time(small: ConceptTagger, piece: str) -> None:
    started = time.process_time()
    said(small, piece * (300_000 // len(piece)) + "hernia?", "No")
    assert time.process_time() - started < 10


def test_a_long_blank_answer_takes_no_time_that_grows_with_its_square(small: ConceptTagger) -> None:
    record = asked("Does she have an inguinal hernia?", "No, she has not" + " " * 60_000 + ".x")
    started = time.process_time()
    assert small.record_matches_forget_root(record)  # it says more than no
    assert time.process_time() - started < 5
