"""Files that a plan relies on and that hold no patient data: named by digest, not by path.

A shared plan must not name paths: a coordinator that could would make a hospital read its
own records as "public" text and answer without noise. So the path is replaced by the
file's digest before the plan leaves, and a site looks the digest up among the files that it
has itself declared public.
"""

from __future__ import annotations

from collections.abc import Iterable
from errno import EINVAL, ENOENT
from pathlib import Path
from stat import S_ISREG

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
        if not S_ISREG(path.stat().st_mode):  # a device or a pipe has no end
            raise OSError(EINVAL, "no regular file")
        return PREFIX + digest_of_file(path)
    except OSError as error:
        raise Misconfigured(
            "PUBLIC_FILE_MISSING",
            f"the plan's file {name} cannot be read ({error.strerror})",
            "mend the path in the plan",
        ) from error


def model_by_digest(name: str) -> str:
    """``sha256:…`` of the files of a model's folder that decide what it says.

    Raises:
        Misconfigured: PUBLIC_FILE_MISSING if there is no such folder, or nothing in it.
    """
    if not name or name.startswith(PREFIX):
        return name
    try:
        return PREFIX + digest_of_files(_model_files(Path(name).expanduser()))
    except OSError as error:
        raise Misconfigured(
            "PUBLIC_FILE_MISSING",
            f"the plan's model folder {name} cannot be read ({error.strerror})",
            "name a local folder with config.json, tokenizer.json and *.safetensors",
        ) from error


def _model_files(folder: Path) -> list[Path]:
    """Configuration, tokenizer and weights, sorted by name.

    Raises:
        OSError: There is no such folder, or no weights in it.
    """
    weights = list(folder.glob("*.safetensors"))
    if not folder.is_dir() or not weights:
        raise FileNotFoundError(ENOENT, "no *.safetensors there")
    return sorted([*folder.glob("*.json"), *weights])


def own_copy(name: str, declared: Iterable[str], *, may_be_builtin: bool = True) -> str:
    """Path of this site's copy of what a shared plan names.

    Args:
        name: Digest, or the name of something built in.
        declared: Paths that this site has declared public.
        may_be_builtin: Built-in names stay; only hierarchies have such names.

    Raises:
        Rejected: PUBLIC_FILE_UNKNOWN if the name is a path, or no declared file has the digest.
    """
    if not name or (may_be_builtin and name.partition(":")[0] == BUILTIN):
        return name
    if name.startswith(PREFIX):
        for path in declared:
            if _has_digest(Path(path), name):
                return path
    raise Rejected(
        "PUBLIC_FILE_UNKNOWN",
        "the plan relies on a file that this site has not declared public",
        "get the file, look at it, and add its path to public_files in site.toml",
    )


def require_no_records(public: Iterable[str], records: Iterable[str]) -> None:
    """Refuse a file of records that is declared public, also under another name or as a copy.

    A guard against a slip, no proof: what is read as public leaves without noise, and a copy with
    one more blank is another file.

    Raises:
        Misconfigured: PUBLIC_FILE_PRIVATE.
    """
    held = tuple(filter(None, records))
    for name in filter(None, public):
        if any(_are_one(name, other) for other in held):
            raise Misconfigured(
                "PUBLIC_FILE_PRIVATE",
                f"{Path(name).name} is named as public text and as a file of records",
                "what is public is read without noise: name text that no hospital's records are in",
            )


def _are_one(public: str, records: str) -> bool:
    if public == records:
        return True
    one, other = Path(public).expanduser(), Path(records).expanduser()
    if not (one.exists() and other.exists()):
        return False
    if other.is_dir():
        return one.resolve().is_relative_to(other.resolve())
    if not (one.is_file() and other.is_file()):
        return False
    same_size = one.stat().st_size == other.stat().st_size
    return one.samefile(other) or (same_size and digest_of_file(one) == digest_of_file(other))


def _has_digest(path: Path, name: str) -> bool:
    """Whether a declared file, or the folder of a release, is what a digest names."""
    try:
        if (path / "config.json").is_file():
            return model_by_digest(str(path)) == name
        return path.exists() and by_digest(str(path)) == name
    except Misconfigured as error:
        if error.code == "CONCEPT_FORMAT_UNKNOWN":  # a folder with something else in it
            return False
        raise
