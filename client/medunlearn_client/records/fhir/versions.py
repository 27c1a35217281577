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
    first: Mapping[str, str], second: Mapping[str, str], *, servers: tuple[str, str],
    are_versions: bool,
) -> bool:
    """Whether two Patients of one id are one person, and not patients of two systems.

    Each system gives ids as it likes, so another name or another birth date under one id is
    another person, unless one server has both, or both have one social security number. Where one
    is known to be the later version of the other, a name may have changed or a birth date been
    corrected, if something else stayed.

    Args:
        first: One patient's values.
        second: The other's.
        servers: Address of the server of each, or empty.
        are_versions: Their versions can be put in order.
    """
    differing = [name for name in ("name", "birth_date") if _differ(first, second, name)]
    if not differing:
        return True
    if all(servers):
        return servers[0] == servers[1]
    alike = {name for name in ("name", "birth_date", "record_number", "ssn")
             if first.get(name) and first.get(name) == second.get(name)}
    return "ssn" in alike or (are_versions and bool(alike))


def _differ(first: Mapping[str, str], second: Mapping[str, str], name: str) -> bool:
    """Whether both say it, and not the same."""
    mine, others = first.get(name, ""), second.get(name, "")
    return bool(mine and others) and mine.casefold() != others.casefold()
