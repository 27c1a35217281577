"""The in-toto Statement v1 around a predicate: subjects by digest, canonical bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError

from medunlearn_common.attestation.predicate import PARTS, Digest, Part, Predicate
from medunlearn_common.digests import canonical_json
from medunlearn_common.errors import Rejected
from medunlearn_common.strict_json import parse_canonical

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "urn:medunlearn:attestation-of-unlearning-process:v1"
MAX_STATEMENT_BYTES = 16 << 20

# A subject is a file below the run's folder or the merged model's, never a path of a machine.
SubjectName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*){0,3}$",
               max_length=200)
]


class DigestSet(Part):
    """Digests of one subject."""

    sha256: Digest


class Subject(Part):
    """One file."""

    name: SubjectName
    digest: DigestSet


class Statement(Part):
    """The signed document."""

    type_: Literal["https://in-toto.io/Statement/v1"] = Field(STATEMENT_TYPE, alias="_type")
    subject: tuple[Subject, ...] = Field(min_length=1, max_length=1000)
    predicate_type: Literal["urn:medunlearn:attestation-of-unlearning-process:v1"] = Field(
        PREDICATE_TYPE, alias="predicateType"
    )
    predicate: Predicate

    @classmethod
    def of(cls, files: Mapping[str, str], predicate: Predicate) -> Self:
        """A statement about files, by name and SHA-256 (hex)."""
        return cls.model_validate({
            "subject": [
                {"name": name, "digest": {"sha256": files[name]}} for name in sorted(files)
            ],
            "predicate": predicate,
        })

    @property
    def files(self) -> dict[str, str]:
        """Subject name to SHA-256 (hex)."""
        return {subject.name: subject.digest.sha256 for subject in self.subject}

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(self.model_dump(mode="json", by_alias=True))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Back from :meth:`to_bytes`; nothing else is accepted.

        Raises:
            Rejected: STATEMENT_MALFORMED, naming keys and never values, or a JSON code.
        """
        value: Any = parse_canonical(
            data, max_bytes=MAX_STATEMENT_BYTES, what="the attestation's statement"
        )
        try:
            statement = cls.model_validate(value)
        except ValidationError as error:
            raise _malformed(f"check {_places(error)}") from None
        # Values that another reader would take differently ("1" for 1) end here.
        if statement.to_bytes() != data or len(statement.files) != len(statement.subject):
            raise _malformed("it has another spelling, or a subject twice")
        return statement


def _places(error: ValidationError) -> str:
    """Where it is wrong, by the names of this module: what the document calls its keys is not
    repeated."""
    problems = error.errors(include_input=False, include_url=False, include_context=False)
    return ", ".join(
        ".".join(str(part) if part in _NAMES else "?" for part in problem["loc"][:6])
        for problem in problems[:5]
    )


_MODELS: tuple[type[Part], ...] = (Statement, Subject, DigestSet, *PARTS)
_NAMES = frozenset(
    name for part in _MODELS
    for key, field in part.model_fields.items() for name in (key, field.alias)
)


def _malformed(why: str) -> Rejected:
    return Rejected(
        "STATEMENT_MALFORMED", f"the attestation's statement is not one of this version: {why}",
        "verify it with the medunlearn version that it names",
    )
