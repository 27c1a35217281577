"""Which of two resources of one type and id is the later one, and whether two patients are one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from medunlearn_client.records.fhir.elements import Resource, mapping, one_line

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_DIGITS = 18  # of a whole number that the store can hold


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """What a resource says of its own age.

    Attributes:
        moment: Microseconds since 1970 at which it was last changed; None if it does not say.
        number: Its version, if that is a whole number.
    """

    moment: int | None = None
    number: int | None = None

    def order(self, other: Version) -> int:
        """1 if this one is later, -1 if the other is, 0 if that cannot be told.

        By the moments if both have one: a server that was set up anew may count from 1 again.
        """
        for mine, others in ((self.moment, other.moment), (self.number, other.number)):
            if mine is not None and others is not None and mine != others:
                return 1 if mine > others else -1
        return 0


def version_of(resource: Resource) -> Version:
    """As ``meta`` says."""
    meta = mapping(resource.get("meta"))
    return Version(
        moment=moment_of(meta.get("lastUpdated")), number=number_of(one_line(meta.get("versionId")))
    )


def number_of(version_id: str) -> int | None:
    """The version that a whole number gives; None for anything else."""
    is_number = version_id.isascii() and version_id.isdecimal() and len(version_id) <= _MAX_DIGITS
    return int(version_id) if is_number else None


def moment_of(instant: object) -> int | None:
    """Microseconds since 1970 of a FHIR instant; None for anything else."""
    try:
        moment = datetime.fromisoformat(one_line(instant))
        return None if moment.tzinfo is None else (moment - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        return None


def are_one_person(
    first: Mapping[str, str], second: Mapping[str, str], *, have_one_server: bool | None,
    have_other_identifiers: bool, are_versions: bool,
) -> bool:
    """Whether two Patients of one id are one person, and not patients of two systems.

    A server gives an id once; two servers give one to two people, unless these show that they are
    one by their name and birth date, or by their social security number. Where a server is not
    known, another name or another birth date is another person, and so is another gender or are
    other identifiers where name and birth date do not show that it is the same; unless both have
    one social security number, or one is known to be the later version of the other and something
    else stayed: a name may have changed, or a birth date been corrected.

    Args:
        first: One patient's values.
        second: The other's.
        have_one_server: Whether one server has both; None where that is not known.
        have_other_identifiers: Both have identifiers, and none in common.
        are_versions: Their versions can be put in order.
    """
    if have_one_server:
        return True
    alike = {name for name in ("name", "birth_date", "record_number", "ssn")
             if _agree(first, second, name)}
    differing = [name for name in ("name", "birth_date") if _agree(first, second, name) is False]
    is_known_by_name = alike >= {"name", "birth_date"}
    if have_one_server is False:
        return not differing and (is_known_by_name or "ssn" in alike)
    if not is_known_by_name:
        differing += ["identifiers"] * have_other_identifiers
        differing += ["gender"] * _have_other_genders(first, second)
    return not differing or "ssn" in alike or (are_versions and bool(alike))


def _agree(first: Mapping[str, str], second: Mapping[str, str], name: str) -> bool | None:
    """Whether both say the same; None where one does not say it."""
    mine, others = first.get(name, ""), second.get(name, "")
    return mine.casefold() == others.casefold() if mine and others else None


def _have_other_genders(first: Mapping[str, str], second: Mapping[str, str]) -> bool:
    is_known = "unknown" not in (first.get("gender"), second.get("gender"))
    return is_known and _agree(first, second, "gender") is False
