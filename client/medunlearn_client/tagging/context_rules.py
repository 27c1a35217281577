"""Reads the rules of negation, family and doubt: a text file that a clinician can edit.

See ``context_rules.txt`` for the format and the rules that ship with the package.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Final

from medunlearn_client.tagging.spans import Assertion
from medunlearn_common.concepts.files import read_concept_text
from medunlearn_common.concepts.folding import fold
from medunlearn_common.errors import Misconfigured

RULES_FILE: Final = "context_rules.txt"
_ALL: Final = frozenset({Assertion.NEGATED, Assertion.FAMILY, Assertion.POSSIBLE})


@dataclass(frozen=True, kw_only=True)
class Cue:
    """What one phrase does where it is met.

    Attributes:
        within: What it makes of concepts that are a part of it.
        forward: What it makes of concepts after it, in the same sentence.
        backward: What it makes of concepts before it.
        ends: Kinds of cue whose reach ends here.
        bars: Kinds of cue after it whose reach back ends here.
        spares: Kinds of cue before it that do not reach the concept right after it.
    """

    within: frozenset[Assertion] = frozenset()
    forward: frozenset[Assertion] = frozenset()
    backward: frozenset[Assertion] = frozenset()
    ends: frozenset[Assertion] = frozenset()
    bars: frozenset[Assertion] = frozenset()
    spares: frozenset[Assertion] = frozenset()

    def joined(self, other: Cue) -> Cue:
        """One phrase listed in several sections does what each of them says."""
        return Cue(
            within=self.within | other.within,
            forward=self.forward | other.forward, backward=self.backward | other.backward,
            ends=self.ends | other.ends, bars=self.bars | other.bars,
            spares=self.spares | other.spares,
        )


ContextRules = dict[str, Cue]

SECTIONS: Final[dict[str, Cue]] = {
    "negated before": Cue(forward=frozenset({Assertion.NEGATED})),
    "negated after": Cue(backward=frozenset({Assertion.NEGATED})),
    "negated within": Cue(within=frozenset({Assertion.NEGATED})),
    "family before": Cue(forward=frozenset({Assertion.FAMILY})),
    "family after": Cue(backward=frozenset({Assertion.FAMILY})),
    "possible before": Cue(forward=frozenset({Assertion.POSSIBLE})),
    "possible after": Cue(backward=frozenset({Assertion.POSSIBLE})),
    "ends all": Cue(ends=_ALL),
    "ends negated": Cue(ends=frozenset({Assertion.NEGATED})),
    "ends family": Cue(ends=frozenset({Assertion.FAMILY})),
    "no way back": Cue(bars=_ALL),
    "definite": Cue(spares=frozenset({Assertion.NEGATED})),
    "no cue": Cue(),
}


@lru_cache(maxsize=1)
def builtin_rules() -> ContextRules:
    """The rules of the package."""
    with resources.as_file(resources.files(__package__) / RULES_FILE) as path:
        return load_context_rules(path)


def load_context_rules(path: Path) -> ContextRules:
    """Read a rule file.

    Returns:
        Phrase, folded as texts are, to what it does.

    Raises:
        Misconfigured: CONTEXT_RULES_INVALID with the line, or a code of
            :func:`read_concept_text`.
    """
    rules: ContextRules = {}
    section: Cue | None = None
    for number, line in enumerate(read_concept_text(path).splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if text.startswith("["):
            section = SECTIONS.get(text.strip("[]"))
            if section is None:
                raise _invalid(path, number, f"the section is none of {', '.join(SECTIONS)}")
            continue
        if section is None:
            raise _invalid(path, number, "a phrase before the first section")
        if text != text.lower():
            raise _invalid(path, number, "phrases are written in lower case")
        phrase = fold(text).lowered.strip()
        rules[phrase] = rules[phrase].joined(section) if phrase in rules else section
    if not rules:
        raise _invalid(path, 1, "the file holds no phrase")
    return rules


def _invalid(path: Path, line: int, problem: str) -> Misconfigured:
    return Misconfigured(
        "CONTEXT_RULES_INVALID", f"{path.name}, line {line}: {problem}",
        "compare with the rules that ship with the package (context_rules.txt)",
    )
