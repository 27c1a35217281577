"""Files that a plan relies on and that hold no patient data: named by digest, not by path.

A shared plan must not name paths: a coordinator that could would make a hospital read its
own records as "public" text and answer without noise. So the path is replaced by the
file's digest before the plan leaves, and a site looks the digest up among the files that it
has itself declared public.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from medunlearn_common.digests import digest_of_file
from medunlearn_common.errors import Misconfigured, Rejected

PREFIX = "sha256:"
BUILTIN = "builtin"


def by_digest(name: str) -> str:
    """``sha256:…`` of a file; empty, built-in and already digested names stay.

    Raises:
        Misconfigured: PUBLIC_FILE_MISSING.
    """
    if not name or name.startswith((PREFIX, BUILTIN)):
        return name
    try:
        return PREFIX + digest_of_file(Path(name).expanduser())
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
            if Path(path).is_file() and by_digest(path) == name:
                return path
    raise Rejected(
        "PUBLIC_FILE_UNKNOWN",
        "the plan relies on a file that this site has not declared public",
        "get the file, look at it, and add its path to public_files in site.json",
    )
