"""Files that a plan relies on and that hold no patient data: named by digest, not by path.

A shared plan must not name paths: a coordinator that could would make a hospital read its
own records as "public" text and answer without noise. So the path is replaced by the
file's digest before the plan leaves, and a site looks the digest up among the files that it
has itself declared public.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from medunlearn_common.concepts.formats import source_files
from medunlearn_common.digests import digest_of_file, digest_of_files
from medunlearn_common.errors import Misconfigured, Rejected

PREFIX = "sha256:"
BUILTIN = "builtin"


def by_digest(name: str) -> str:
    """``sha256:…`` of a file; empty, built-in and already digested names stay.

    The folder of a terminology's release is named by those of its files that are read.

    Raises:
        Misconfigured: PUBLIC_FILE_MISSING, or CONCEPT_FORMAT_UNKNOWN for any other folder.
    """
    if not name or name.startswith((PREFIX, BUILTIN)):
        return name
    path = Path(name).expanduser()
    try:
        if path.is_dir():
            return PREFIX + digest_of_files(source_files(path))
        return PREFIX + digest_of_file(path)
    except OSError as error:
        raise Misconfigured(
            "PUBLIC_FILE_MISSING",
            f"the plan's file {name} cannot be read ({error.strerror})",
            "mend the path in the plan",
        ) from error


def own_copy(name: str, declared: Iterable[str]) -> str:
    """Path of this site's copy of what a shared plan names.

    Raises:
        Rejected: PUBLIC_FILE_UNKNOWN if the name is a path, or no declared file has the digest.
    """
    if not name or name.startswith(BUILTIN):
        return name
    if name.startswith(PREFIX):
        for path in declared:
            if _has_digest(Path(path), name):
                return path
    raise Rejected(
        "PUBLIC_FILE_UNKNOWN",
        "the plan relies on a file that this site has not declared public",
        "get the file, look at it, and add its path to public_files in site.json",
    )


def _has_digest(path: Path, name: str) -> bool:
    """Whether a declared file, or the folder of a release, is what a digest names."""
    try:
        return path.exists() and by_digest(str(path)) == name
    except Misconfigured as error:
        if error.code == "CONCEPT_FORMAT_UNKNOWN":  # a folder with something else in it
            return False
        raise
