"""Negation, family history and doubt; and that they reach the levels of the loss."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medunlearn_client.encoding import RecordEncoder
from medunlearn_client.evaluation.preservation import record_levels
from medunlearn_client.records import ForgetRequest, Record, select
from medunlearn_client.records.subject_line import with_subject
from medunlearn_client.tagging import Assertion, ConceptTagger, ContextFinder
from medunlearn_client.tagging.context_rules import builtin_rules, load_context_rules
from medunlearn_common.concepts import Concept, ConceptHierarchy, ConceptLevel, load_builtin
from medunlearn_common.errors import Misconfigured


@pytest.fixture(scope="module")
def tagger() -> ConceptTagger:
    return ConceptTagger(load_builtin("all").with_forget_roots(["MU:S0001", "MU:M0001"]))


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a rule file."""

    def write(text: str) -> Path:
        path = tmp_path / "rules.txt"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def record(prompt: str, answer: str = "seen", patient: str | None = "p1") -> Record:
    return Record(record_id="r", prompt=prompt, answer=answer, patient_id=patient)


def said(tagger: ConceptTagger, text: str, patient: str | None = "p1") -> dict[str, str]:
    made = record(text, patient=patient)
    return {
        made.text[span.start : span.end].lower(): f"{int(span.level)} {span.assertion.value}"
        for span in tagger.tag_record(made)
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No hernia.", "3 negated"),
        ("No history of any kind of hernia", "3 negated"),
        ("no known or suspected hernia", "3 negated"),
        ("denies   having\ta hernia", "3 negated"),
        ("hernia is absent", "3 negated"),
        ("hernia and pain were ruled out", "3 negated"),
        ("pain with hernia ruled out", "3 negated"),
        ("Mother's hernia", "3 family"),
        ("no family history of hernia", "3 family"),
        ("family history: negative for hernia", "3 family"),
        ("hernia runs in the family", "3 family"),
        ("rule out hernia", "4 possible"),
        ("?hernia", "4 possible"),
        ("hernia cannot be ruled out", "4 possible"),
        ("hernia not ruled out", "4 possible"),
        ("hernia has not been excluded", "4 possible"),
        ("has not ruled out hernia", "4 possible"),
        ("not clear whether a hernia", "4 possible"),
        ("mother of the patient had a hernia", "3 family"),
        ("his relative with a hernia", "3 family"),
        ("Mum: hernia", "3 family"),
        ("Husband has a hernia", "3 family"),
        ("Query hernia", "4 possible"),
        ("hernia", "4 affirmed"),
        ("No pain. Hernia", "4 affirmed"),
        ("No pain\nHernia", "4 affirmed"),
        ("No pain; hernia", "4 affirmed"),
        ("no pain but a hernia", "4 affirmed"),
        ("not only a hernia", "4 affirmed"),
        ("denied pain after hernia", "4 affirmed"),
        ("hernia, pain was ruled out", "4 affirmed"),
        ("nose and hernia", "4 affirmed"),  # "no" within a word
        ("mothers-in-law aside, hernia", "4 affirmed"),
        ("the father died of old age, he has a hernia", "4 affirmed"),
        ("history of hernia", "4 affirmed"),
        ("without difficulty reduced hernia", "4 affirmed"),
        ("\u0130\u0130 no  hernia", "3 negated"),  # folding moves no offset
    ],
)
def test_what_is_said_of_a_hernia(tagger: ConceptTagger, text: str, expected: str) -> None:
    assert said(tagger, text)["hernia"] == expected


@pytest.mark.parametrize("text", [
    "No improvement of the hernia.", "No relief of hernia pain", "No response of the hernia",
    "Not responding to truss for hernia", "Not well controlled hernia",
    "He is not compliant with his hernia truss", "She was not able to work with the hernia",
    "It was not possible to operate on the hernia", "Without treatment, the hernia grows.",
    "No treatment so far for the hernia", "No contraindication seen with hernia",
    "No evidence against hernia", "Never smoked, hernia", "The son found him with a hernia",
    "Her daughter brought her in with a hernia", "Lives with his brother, hernia since 2010",
    "Did not tolerate the truss for the hernia", "No recurrence of hernia",
    "No longer has a hernia", "No complications of hernia", "Not on treatment for hernia",
    "No medication for hernia", "Room no 7, hernia", "NHS No: 943 476 5919 Diagnosis: hernia",
    "Relative to last year, the hernia grew", "Relative contraindication, hernia",
    "A 34-year-old mother of three with a hernia",
    "Hernia with strangulation ruled out", "Hernia with obstruction not present",
    "Hernia with absent bowel sounds", "A hernia and absent bowel sounds",
    "Hernia with negative cough impulse", "Denies pain from the hernia",
    "No strangulation of the hernia", "No problems with the hernia",
    "Hernia since childhood, asthma in the family", "Lives with mother and hernia",
    "Lost her mother last year, hernia", "Hernia after childbirth and asthma in the family",
    "Mum reports a hernia since birth", "Lives with husband, hernia",
    "Mother reports a hernia since birth", "Accompanied by her son for a hernia",
])
def test_a_patient_s_hernia_is_not_denied_by_what_is_said_around_it(
    tagger: ConceptTagger, text: str
) -> None:
    """A target that is wrongly taken for absent, or a relative's, is not forgotten."""
    assert said(tagger, text)["hernia"] == "4 affirmed"


@pytest.mark.parametrize("text", [
    "A 54-year-old man without diabetes with an inguinal hernia.",
    "Homeless man without insurance with hernia.", "Newborn son with inguinal hernia.",
    "Single mother with inguinal hernia.", "There is no need to operate the hernia.",
    "There is no indication to operate on the hernia at present.",
    "Patient not fit for hernia repair.", "He does not want his hernia repaired.",
    "Hernia not found to be incarcerated.", "Hernia not seen by a surgeon.",
    "No evidence that the hernia is incarcerated.", "No bowel in the hernia sac.",
    "Without the truss the hernia comes out.", "Does not wear the truss for the hernia.",
    "He did not notice his hernia until last week.", "No sign that the hernia has strangulated.",
    "No room on the list for the hernia.", "Lack of compliance with his hernia belt.",
    "No other diagnosis than hernia.", "Not painful inguinal hernia.",
    "Parents are concerned about the hernia.", "Daughter of a farmer with hernia",
    "No fever with a hernia since birth.", "WITHOUT THE TRUSS THE LARGE HERNIA COMES OUT",
    "No pain at the large right-sided hernia.", "No trouble from this old hernia",
    "Question: Which condition was recorded?\nAnswer: Maternal hernia",
    "Question: Which condition was recorded?\nAnswer: Maternal care for hernia",
    "Other maternal hernia complicating pregnancy", "No change of the patient's hernia",
])
def test_a_negation_ends_where_the_patient_s_own_hernia_is_spoken_of(
    tagger: ConceptTagger, text: str
) -> None:
    """Sentences that are no lists: a word before the hernia denies or relates something else."""
    levels = [level for words, level in said(tagger, text).items() if "hernia" in words]
    assert levels == ["4 affirmed"]


@pytest.mark.parametrize(("text", "allergies", "hernia"), [
    ("No known drug allergies, hernia on ultrasound.", "negated", "4 affirmed"),
    ("No fever, no known allergies, hernia on the left.", "negated", "4 affirmed"),
    ("Mother has no known medication allergies, he has a hernia.", "family", "4 affirmed"),
    ("No known drug allergies, or a hernia.", "negated", "3 negated"),
    ("No known drug allergies, no hernia.", "negated", "3 negated"),
    ("No known drug allergies or hernia.", "negated", "3 negated"),
    ("Denies allergies, fever and hernia.", "negated", "3 negated"),
])
def test_a_denial_of_allergies_is_a_statement_of_its_own(
    tagger: ConceptTagger, text: str, allergies: str, hernia: str
) -> None:
    """Whatever stood behind its comma was taken for absent."""
    found = said(tagger, text)
    assert found["hernia"] == hernia
    assert [level.split()[1] for words, level in found.items() if "allerg" in words] == [allergies]


@pytest.mark.parametrize("text", [
    "Hernia absent on the right, present on the left.", "Hernia not seen on the left.",
])
def test_a_hernia_denied_for_one_side_is_a_doubt(tagger: ConceptTagger, text: str) -> None:
    assert said(tagger, text)["hernia"] == "4 possible"


OWN = """
A 61-year-old woman without known allergies with a hernia.
Patient without relevant comorbidity with recurrent hernia, listed for surgery.
No fever with the hernia, but it is tender.
He has not been operated on for hernia so far.
No analgesia needed for hernia pain.
She never wore a belt for her hernia.
Did not attend for hernia repair.
Denies any pain at the left hernia.
There is no redness over the large hernia.
He could not reduce the hernia himself.
Not yet seen by the surgeons about his hernia.
The hernia was not found to be strangulated.
Hernia, not seen by the on-call surgeon.
She does not wish to have her hernia repaired.
No plans to operate on this hernia.
No other finding than a hernia.
Not fit for general anaesthesia, hernia to be done under local.
Baby son of two teachers, seen with a hernia.
Infant daughter with hernia, noticed when crying.
Single father of two with hernia.
Well nourished, in no acute distress, hernia on the left.
Lacks insight into the hernia and lifts heavy loads.
She gave birth to a healthy girl and developed a hernia.
She gave birth to a healthy son and developed a hernia.
Gave birth to a daughter in 2010, later hernia repaired.
Gave birth to a healthy boy, later hernia repaired.
She gave birth to twins by caesarean and the hernia was repaired.
She gave birth to her second child before the hernia was found.
Gave birth to a boy with jaundice and developed a hernia.
She was raised by a single mother and has a hernia.
She was raised by a single mother and suffers from hernia.
No evidence of strangulation, his hernia is reducible.
No operation for the hernia.
Neither the cough nor the hernia troubles him.
"""
DENIED = """
There is no evidence of hernia on either side.
No evidence for hernia on CT.
Denies hernia, asthma and diabetes.
Without hernia or asthma.
No fever in the night, hernia or asthma.
Never had the hernia that was suspected at school.
Ultrasound negative for the hernia in question.
He was not found to have a hernia.
She has not been diagnosed with a hernia.
The lump is not consistent with hernia.
No indication of hernia at laparoscopy.
The groin is soft and no hernia is felt.
The scan excludes a hernia.
Neither the history nor the examination suggests a hernia.
The pain is not associated with hernia.
The hernia was ruled out by ultrasound.
No reason to suspect a hernia.
Her abdomen shows no hernia.
No evidence of the previously reported hernia.
No sign of the known hernia.
No CT evidence of the reported hernia.
Without signs of the former hernia.
No clinical evidence for a hernia.
No CT evidence for hernia.
No convincing sign for a hernia.
No radiological suspicion for hernia.
No clinical suspicion of the hernia that the scan reported.
Absence of the typical hernia.
Not known to have the hernia.
Not known to have a hernia.
"""
RELATED = """
Father had a hernia.
Newborn's mother has a hernia.
Her newborn son has a hernia.
The patient's infant daughter has a hernia.
Maternal hernia, repaired before she was born.
His single mother was operated on for hernia.
Gave birth to a boy with hernia.
She gave birth to a son with hernia.
Gave birth to a healthy daughter with hernia.
Raised by a single mother with hernia.
Paternal uncle with the same hernia.
Family history: hernia in his brother.
Son of the patient has a hernia.
"""


@pytest.mark.parametrize(("text", "expected"), [
    (text, expected)
    for texts, expected in (
        (OWN, "4 affirmed"), (DENIED, "3 negated"), (RELATED, "3 family"),
    )
    for text in texts.strip().splitlines()
])
def test_sentences_as_clinicians_write_them(
    tagger: ConceptTagger, text: str, expected: str
) -> None:
    heard = [level for words, level in said(tagger, text).items() if "hernia" in words]
    assert heard == [expected]


@pytest.mark.parametrize("mention", [
    "her\u00adnia", "her\u200bnia", "\ufeffher\u00ad\u200dnia", "h\u2060e\u2060r\u2060nia",
])
def test_characters_that_nobody_sees_hide_no_target(tagger: ConceptTagger, mention: str) -> None:
    """Word processors set them where a word may be broken; exports keep them."""
    text = f"No pain,  but a \u00ad {mention} since 2010"
    (span,) = (s for s in tagger.tag_record(record(text)) if int(s.level) == 4)
    assert record(text).text[span.start : span.end] == mention.strip("\ufeff")
    assert said(tagger, f"no\u00ad {mention}")[mention.strip("\ufeff")] == "3 negated"


@pytest.mark.parametrize("name", ["M\u00e9ni\u00e8re disease", "Meniere disease"])
@pytest.mark.parametrize("mention", [
    "Me\u0301nie\u0300re disease", "M\u00e9ni\u00e8re disease", "Meniere disease",
    "M\u00c9NI\u00c8RE DISEASE",
])
def test_accents_hide_no_target(name: str, mention: str) -> None:
    """One program writes them in one character, one in two, and a third strips them."""
    hierarchy = ConceptHierarchy.from_concepts([Concept(concept_id="X:1", name=name)], source="x")
    text = f"caf\u00e9 au lait, then {mention} since 2010"
    (span,) = ConceptTagger(hierarchy.with_forget_roots(["X:1"])).tag(text)
    assert text[span.start : span.end] == mention


def test_a_list_is_negated_as_a_whole(tagger: ConceptTagger) -> None:
    found = said(tagger, "Denies fever, hernia and depression.")
    assert found == {"fever": "2 negated", "hernia": "3 negated", "depression": "3 negated"}


def test_general_knowledge_keeps_its_target_whatever_is_not_true_of_it(
    tagger: ConceptTagger,
) -> None:
    text = "Which is NOT a feature of hernia? No hernia is painless."
    assert set(said(tagger, text, patient=None).values()) == {"4 affirmed"}


def test_an_answered_no_negates_the_question(tagger: ConceptTagger) -> None:
    question = "Question: Does she have a hernia?\nAnswer:"
    for answer, level in (("No.", 3), ("none", 3), ("Yes", 4), ("Northern", 4)):
        spans = tagger.tag_record(record(question, answer))
        assert [int(span.level) for span in spans] == [level]
    assert [int(s.level) for s in tagger.tag_record(record("Hernia:", "no"))] == [4]


@pytest.mark.parametrize(("prompt", "answer", "level"), [
    ("He has a hernia. Does he smoke?", "No.", 4),
    ("He smokes. Does he have a hernia?", "No.", 3),
    ("Question: What followed the repair of the hernia?", "No complication.", 4),
    ("When was the hernia operated on?", "Never", 4),
    ("How is the hernia treated?", "Not at all", 4),
    ("What was the result of the examination for a hernia?", "Negative", 3),
    ("In which part was a hernia seen?", "Not seen", 3),
    ("Any hernia?", "None", 3),
])
def test_an_answer_denies_nothing_but_a_question_of_yes_or_no(
    tagger: ConceptTagger, prompt: str, answer: str, level: int
) -> None:
    """Denied by mistake, what the rest of the record teaches would not be forgotten."""
    made = record(prompt, answer)
    (hernia,) = (s for s in tagger.tag_record(made) if made.text[s.start : s.end] == "hernia")
    assert int(hernia.level) == level


@pytest.mark.parametrize(("text", "expected"), [
    ("No hernia", "3 negated"),
    ("Mother: hernia", "3 family"),
    ("Suspected hernia", "4 possible"),
    ("Absent pulse, hernia", "4 affirmed"),
])
def test_a_cue_that_is_a_concept_itself_stays_a_cue(text: str, expected: str) -> None:
    """SNOMED CT and the UMLS have qualifiers and relatives among their concepts."""
    names = ("Hernia", "No", "Mother", "Suspected", "Absent pulse")
    concepts = [Concept(concept_id=f"X:{n}", name=name) for n, name in enumerate(names)]
    concepts[0] = replace(concepts[0], level=ConceptLevel.SPECIALTY)
    hierarchy = ConceptHierarchy.from_concepts(concepts, source="x")
    tagger = ConceptTagger(hierarchy.with_forget_roots(["X:0"]))
    assert said(tagger, text)["hernia"] == expected


@pytest.mark.parametrize("text", [
    "no hernia and fever but pain " * 10_000 + "is denied",
    "no pain in his large hernia or fever " * 5_000 + "is denied",
    "no fever, the " + "x" * 100_000 + " hernia and pain" * 5_000,
])
def test_a_line_without_an_end_takes_no_time(tagger: ConceptTagger, text: str) -> None:
    """Counted by pairs of mention and cue, the first line of 290 kB took ten minutes."""
    started = time.process_time()
    assert "hernia" in said(tagger, text)
    assert time.process_time() - started < 10


def test_a_negated_level_never_rises(tagger: ConceptTagger) -> None:
    """A concept below level 4 keeps its level, and one without levels is capped at 3."""
    assert said(tagger, "no fever, no patient, no sutures") == {
        "fever": "2 negated", "patient": "1 negated", "sutures": "3 negated",
    }


def words_tokenizer(text: str, **_: Any) -> dict[str, Any]:
    """One token per word, with its characters."""
    offsets, place = [], 0
    for word in text.split(" "):
        offsets.append((place, place + len(word)))
        place += len(word) + 1
    return {"input_ids": list(range(len(offsets))), "offset_mapping": offsets}


class WordTokenizer:
    """What the encoder needs of a tokenizer."""

    eos_token_id = 0

    def __call__(self, text: str, **options: Any) -> dict[str, Any]:
        return words_tokenizer(text, **options)


def test_negation_reaches_the_token_levels_of_the_loss(tagger: ConceptTagger) -> None:
    encoder = RecordEncoder(WordTokenizer(), max_tokens=64, tagger=tagger)
    denied = record("Findings: no pain and no", "inguinal hernia")
    levels = encoder.encode(denied).levels.tolist()
    general = encoder.encode(replace(denied, patient_id=None)).levels.tolist()
    assert max(levels) == 3
    assert general[-3:] == [4, 4, 4]
    marked = replace(denied, target_spans=((0, 8),))
    assert encoder.encode(marked).levels[0] == 4
    assert record_levels([denied], tagger)[0].question == 3  # what the evaluation counts


def test_a_record_that_denies_the_target_is_not_selected_by_concept(
    tagger: ConceptTagger,
) -> None:
    texts = ("no hernia", "a hernia", "mother had a hernia", "healthy", "well")
    records = [
        Record(record_id=f"r{n}", prompt=text, answer="seen", patient_id=f"p{n}")
        for n, text in enumerate(texts)
    ]
    split = select(records, ForgetRequest(by_concept=True), tagger)
    assert [found.record_id for found in split.forget] == ["r1"]


def test_a_record_is_selected_for_its_own_words_and_not_for_the_line_that_shows_its_subject(
    tagger: ConceptTagger,
) -> None:
    texts = ("a hernia", "a headache", "the weather")
    records = [
        with_subject(Record(record_id=f"r{n}", prompt=text, answer="yes", subject="Hernia"))
        for n, text in enumerate(texts)
    ]
    assert all(tagger.matches_forget_root(shown.text) for shown in records)
    split = select(records, ForgetRequest(by_concept=True), tagger)
    assert [found.record_id for found in split.forget] == ["r0"]


def test_own_rules_take_the_place_of_the_packages(
    tagger: ConceptTagger, written: Callable[[str], Path]
) -> None:
    rules = load_context_rules(
        written("# German\n[negated before]\nkein\nohne befund einer\nkein anhalt f\u00fcr\n")
    )
    text = "Kein Hernia; ohne Befund einer Hernia; \u00fcberhaupt kein Anhalt f\u00fcr Hernia"
    finder = ContextFinder(rules)
    assert finder.assertions(text, tagger.tag(text)) == (Assertion.NEGATED,) * 3
    alone = ContextFinder(load_context_rules(written("[negated before]\nkein anhalt f\u00fcr\n")))
    assert alone.assertions(text, tagger.tag(text))[2] is Assertion.NEGATED


@pytest.mark.parametrize(
    "text", ["[negated beyond]\nno\n", "[negated before]\nNo\n", "# only comments\n", "no\n"]
)
def test_a_damaged_rule_file_names_its_line(
    text: str, written: Callable[[str], Path]
) -> None:
    with pytest.raises(Misconfigured, match=r"CONTEXT_RULES_INVALID") as caught:
        load_context_rules(written(text))
    assert "line" in caught.value.message


def test_the_packages_rules_hold_each_kind() -> None:
    cues = builtin_rules().values()
    assert sum(bool(cue.forward) for cue in cues) > 80
    assert sum(bool(cue.backward) for cue in cues) > 20
    assert sum(bool(cue.ends) for cue in cues) > 30

