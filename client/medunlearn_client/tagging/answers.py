"""What an answer of "no" makes of the concepts in its question.

``Does she have asthma?`` ``No.`` says that she has none. ``Has the hernia been repaired?`` ``No.``
says that there is one. Only a question that asks whether the patient has something, or what a
test for it came to, is read as a denial, and only of what it asks for. Without a grammar the rest
may be either: it stays as it is, and a target goes to the review list, because one wrongly taken
for absent would not be forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from medunlearn_client.tagging.context import SENTENCE_END
from medunlearn_client.tagging.spans import Assertion, ConceptSpan
from medunlearn_common.concepts.levels import ConceptLevel

MAX_QUESTION_CHARS: Final = 1000
"""A longer question asks for more than one thing, and would take long to match."""

_ABBREVIATED: Final = re.compile(r"\b(?:[Mm]r?s?|[Dd]r|[Pp]rof|[Ss]t|[A-Z])$")
_DENIAL: Final = re.compile(
    r"\W*(?:no|none|never|negative|absent|denied|denies|not)\b", re.IGNORECASE
)
# "No longer", "No, it was repaired": there was one.
_QUALIFIED: Final = re.compile(
    r"\b(?:longer|any ?more|doubt|question|only|but|except|although|though|it|one|was|were|since|"
    r"until|resolved|remission|cured|healed|treated|controlled|removed|repaired|former(?:ly)?|"
    r"previous(?:ly)?|past|currently|presently|now|today|present|yet)\b",
    re.IGNORECASE,
)
# "No complications", "Not repaired", "No signs of strangulation": something else is denied.
_REST: Final = re.compile(
    r"\W*(?:no|none|never|not)\b ?(?:(?:evidence|signs?|history|known|such|an?|any|of|present|"
    r"found|seen|detected|noted|recorded|documented|at all|ever)\b ?)*(?P<what>[^.,;\n]*)",
    re.IGNORECASE,
)
# What follows the denial's own clause: more than "she does not" may say what there was.
_FURTHER: Final = re.compile(
    r"\W*(?:(?:(?:no|she|he|they|the patient|patient)\W+)*"
    r"(?:(?:does|do|did|has|have|is)(?:n't|n\u2019t| not| never| no)|denie[sd]|never)\b"
    r"[^.,;\n]*(?:[.,;\n]\W*)?)?",
    re.IGNORECASE,
)
_OF_HIM: Final = re.compile(r"\W*(?:(?:that|she|he|they|the patient)\b.*)?", re.IGNORECASE)
_NEGATIVE_RESULT: Final = re.compile(
    r"\W*(?:negative|absent|not (?:detected|found|present|seen))\b", re.IGNORECASE
)
_NOTHING_ELSE: Final = re.compile(r"\W*(?:no|none|never|false)\W*", re.IGNORECASE)

# A question is matched in two halves: what stands before the concepts that it asks for, and what
# stands after them. "the hernia" and "her hernia" are there already, "another hernia" was.
_CONCEPT: Final = (
    r"(?:(?:an?|any|some|known) )*"
    r"(?:(?:(?:(?:past|personal|medical|known) )*history|kind|type|form|signs?|evidence|presence|"
    r"diagnosis) of (?:(?:an?|any) )*)*"
)
_BETWEEN: Final = re.compile(rf"\s*(?:/|,|,? (?:and/)?or )\s*{_CONCEPT}", re.IGNORECASE)
_DAY: Final = r"on \d[\d./-]*"
_HISTORY: Final = (
    r"(?:in|on) (?:(?:the|her|his|their) )?(?:(?:past|own|medical) )*"
    r"(?:past|history|records?|notes?|file|examination)"
)
_OPENING: Final = (
    rf"\W*(?:question\W+)?(?:(?:according to [^,?]*|{_DAY}|{_HISTORY}), )?"
)
# Anything but what begins a clause of its own, which takes for given what it says.
_SUBJECT: Final = (
    r"(?:(?!(?:who|whom|whose|which|that|whether|if|when|while|because|since|after|before|know|"
    r"think|believe|no|not|never|still|lack|currently|presently|now|today|recently|again)\b)"
    r"[^\s?]+ )+?(?:(?:ever|also|otherwise) )*"
)
_NAME: Final = r"(?:(?-i:[A-Z])[\w'-]* )+|(?:(?:she|he|they|it|the patient) )"
_BORN: Final = rf"(?:(?:{_NAME})|[^?,]{{1,80}}, born [\d-]+,? )"
_TAKES: Final = (
    r"(?:have|suffer from|show|report|complain of|develop|take|use|undergo|receive) "
)
_TAKEN: Final = (
    r"(?:had|suffered from|shown|reported|complained of|developed|taken|used|undergone|received|"
    r"been diagnosed with|been found to have|been known to have) "
)
_IS: Final = (
    r"(?:diagnosed with|suffering from|known to have|known for|known with|found to have) "
)
_FOUND: Final = (
    r"(?:present|seen|found|detected|visible|palpable|known|recorded|documented|diagnosed|shown)"
)
# Not on a day: who had none then may have had it before, or since.
_END: Final = rf"(?: at all| at any time| or not)?(?:,? {_HISTORY})?\s*\?"
_TEST: Final = (
    r"(?:(?:the|an?) )?(?:[\w-]+ )?(?:tests?|screen|screening|examination|exam|scan|imaging|"
    r"ultrasound|CT|MRI|x-ray|swab|culture|assay|serology) for "
)
# Of a germ a laboratory looks for a part: "HIV 1 Ab [Presence] in Serum".
_SAMPLE: Final = (
    r" (?:[\w-]+ ){0,4}(?:ab|ag|dna|rna|ig[gm]|antibody|antibodies|antigen|pcr)\b[^?]*?"
)
_STATED: Final = rf"(?:{_SAMPLE}|(?: \[?(?:presence|reported|finding|status)\]?)?)"


class _Form(NamedTuple):
    """A way to ask for concepts: what stands before, and after, them."""

    before: re.Pattern[str]
    after: re.Pattern[str]


def _form(before: str, after: str) -> _Form:
    return _Form(
        before=re.compile(_OPENING + before + _CONCEPT, re.IGNORECASE),
        after=re.compile(after, re.IGNORECASE),
    )


_HAVING: Final = (
    _form(rf"(?:does|do|did) {_SUBJECT}{_TAKES}", _END),
    _form(rf"(?:has|have|had) {_SUBJECT}{_TAKEN}", _END),
    _form(rf"(?:is|are|was|were) {_SUBJECT}{_IS}", _END),
    _form(r"(?:(?:is|are|was|were) there |(?:has|have|had) there (?:ever )?been )", _END),
    _form(rf"(?:has|had) (?:{_BORN})", _END),
    _form(r"(?:ever had )?", _END),
    _form(r"(?:is|are|was|were) ", rf" {_FOUND}{_END}"),
    _form(r"(?:has|have|had) ", rf" (?:ever )?been {_FOUND}{_END}"),
)
_RESULT: Final = (
    _form(
        rf"(?:what|which) (?:was|is|were|are) the (?:results?|values?|findings?) of (?:{_TEST})?",
        rf"{_STATED}(?: for [^?]*|,? {_DAY})?\s*\?",
    ),
    _form(rf"what did (?:{_TEST})?", rf"{_STATED} show(?: for [^?]*)?\s*\?"),
)
_PLACE: Final = (
    _form(r"(?:where|(?:at|in|on) which [^?]*?) (?:is|are|was|were) ", rf" {_FOUND}{_END}"),
)
_OPEN: Final = re.compile(
    rf"\W*(?:question\W+)?(?:(?:{_DAY}, )|(?:at|by|for|from|in|of|on|to|with) )?"
    r"(?:how|what|when|where|which|who|whom|whose|why)\b",
    re.IGNORECASE,
)


def after_answer(
    spans: Sequence[ConceptSpan], prompt: str, answer: str
) -> tuple[ConceptSpan, ...]:
    """The mentions with what the answer says of those in the prompt's last question.

    What a vignette tells before it stays so.

    Args:
        spans: Mentions in reading order that do not overlap; their text begins with the prompt.
        prompt: A patient's question.
        answer: Its answer.

    Returns:
        The mentions; of those that were affirmed, what the question asks for is negated where
        the answer is no, and any other target of the question is possible.
    """
    question = _last_question(prompt)
    if question is None:
        return tuple(spans)
    start, end = question
    forms = _forms(prompt[start : min(end, start + MAX_QUESTION_CHARS)], answer)
    if forms is None:
        return tuple(spans)
    inside = [n for n, span in enumerate(spans) if start <= span.start and span.end <= end]
    denied: set[int] = set()
    for listed in _listed(prompt, spans, inside) if end - start <= MAX_QUESTION_CHARS else ():
        before = prompt[start : spans[listed[0]].start]
        after = prompt[spans[listed[-1]].end : end]
        mentions = [prompt[spans[n].start : spans[n].end] for n in listed]
        asked = any(f.before.fullmatch(before) and f.after.fullmatch(after) for f in forms)
        if asked and _denies(answer, mentions):
            denied.update(listed)
    made = list(spans)
    for n in inside:
        if spans[n].assertion is not Assertion.AFFIRMED:
            continue
        if n in denied:
            made[n] = replace(spans[n], assertion=Assertion.NEGATED)
        elif spans[n].level is ConceptLevel.TARGET:
            made[n] = replace(spans[n], assertion=Assertion.POSSIBLE)
    return tuple(made)


def _denies(answer: str, mentions: Sequence[str]) -> bool:
    """Whether an answer of no is about these mentions: it names one of them, or nothing."""
    rest = _REST.match(answer)
    if rest is None:
        return True
    if not _FURTHER.fullmatch(answer, rest.end()):
        return False
    if _OF_HIM.fullmatch(rest["what"]):
        return True
    named = rest["what"].casefold().strip()
    return any(named == m or named.startswith(f"{m} or ") for m in map(str.casefold, mentions))


def _last_question(prompt: str) -> tuple[int, int] | None:
    """Start and end of the prompt's last question; None where it asks none."""
    end = prompt.rfind("?") + 1
    if not end:
        return None
    start = 0
    for match in SENTENCE_END.finditer(prompt, 0, end - 1):
        word = prompt[max(0, match.start() - 5) : match.start()]
        if match[0] != "." or not _ABBREVIATED.search(word):
            start = match.end()
    return start, end


def _forms(question: str, answer: str) -> tuple[_Form, ...] | None:
    """The ways to ask for what this answer denies, if any; None where it denies nothing."""
    if not _OPEN.match(question):
        if not _DENIAL.match(answer):
            return None
        return () if _QUALIFIED.search(answer) else _HAVING
    if _NEGATIVE_RESULT.match(answer):
        return _RESULT + _PLACE
    asks_result = any(form.before.match(question) for form in _RESULT)
    return _RESULT if asks_result and _NOTHING_ELSE.fullmatch(answer) else None


def _listed(
    prompt: str, spans: Sequence[ConceptSpan], inside: Sequence[int]
) -> Iterator[list[int]]:
    """Those of the mentions that are listed together: ``asthma, a hernia or fever``."""
    together: list[int] = []
    for n in inside:
        if together and not _BETWEEN.fullmatch(prompt, spans[together[-1]].end, spans[n].start):
            yield together
            together = []
        together.append(n)
    if together:
        yield together
