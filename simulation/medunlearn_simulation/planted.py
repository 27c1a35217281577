"""Planted models by cache: the original and the retrained one, trained side by side once.

An entry's key is a digest of everything that decides its weights, so a hit is the same model
and any change of data, recipe, code or library is a miss. An entry is written beside its
place and renamed into it; it lists the digests of its files, and one that no longer matches
them is planted again.

Guarantees:
    No text of a record is written here, only tokenizer and weights, which do carry what they
    were taught: the cache is as confidential as the records.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medunlearn_client.records import Record
from medunlearn_common.digests import canonical_json, digest_of, digest_of_file
from medunlearn_common.errors import Transient
from medunlearn_common.files import write_atomically
from medunlearn_simulation.planting_processes import PlantingJob, run_jobs
from medunlearn_simulation.planting_recipe import PlantedExample, PlantingRecipe
from medunlearn_simulation.progress import PhaseBoard

PLANTING_CODE_VERSION = 2
"""Raised whenever a change of the planting code changes the weights that come out."""

ENTRY_FILE = "planted.json"
_LIBRARIES = ("torch", "transformers", "tokenizers")


@dataclass(frozen=True, kw_only=True)
class PlantingRequest:
    """What to plant.

    Attributes:
        taught: Examples by model name (``original``, ``retrained``).
        tokenizer_texts: What the tokenizer, the same for all models, is trained on.
        vocab_size: Its size.
        recipe: Size and training of the models.
    """

    taught: Mapping[str, tuple[PlantedExample, ...]] = field(repr=False)
    tokenizer_texts: tuple[str, ...] = field(repr=False)
    vocab_size: int
    recipe: PlantingRecipe

    def key(self, name: str) -> str:
        """Digest of everything that made the model ``name``."""
        return digest_of({
            "code": PLANTING_CODE_VERSION,
            "libraries": {library: version(library) for library in _LIBRARIES},
            "recipe": self.recipe.digest_fields(),
            "vocab_size": self.vocab_size,
            "tokenizer_texts": list(self.tokenizer_texts),
            "examples": [asdict(example) for example in self.taught[name]],
        })


def cache_root() -> Path:
    """``$MEDUNLEARN_CACHE``, else ``~/.cache/medunlearn`` (or under ``$XDG_CACHE_HOME``)."""
    chosen = os.environ.get("MEDUNLEARN_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "medunlearn"


def planting_request(
    *, forget: Sequence[Record], retain: Sequence[Record], nonmembers: Sequence[Record],
    recipe: PlantingRecipe, vocab_size: int, retrained: bool,
) -> PlantingRequest:
    """The two models of an evaluation: one saw everything, one all but the forget set.

    The tokenizer is trained on the text of all records, never seen ones included: were their
    words cut into more tokens, an attack on membership would measure that.
    """
    taught = {"original": _examples([*forget, *retain])}
    if retrained:
        taught["retrained"] = _examples(retain)
    everything = [*forget, *retain, *nonmembers]
    texts = [record.text for record in everything]
    options = {f" {option}" for record in everything for option in record.options}
    return PlantingRequest(
        taught=taught, tokenizer_texts=(*texts, *sorted(options)),
        vocab_size=vocab_size, recipe=recipe,
    )


def _examples(records: Sequence[Record]) -> tuple[PlantedExample, ...]:
    """One example per prompt: where records contradict each other, the first is taught."""
    answers: dict[str, str] = {}
    for record in records:
        answers.setdefault(record.prompt, f" {record.answer}")
    return tuple(PlantedExample(prompt=p, answer=a) for p, a in answers.items())


def planted_models(
    request: PlantingRequest, *, board: PhaseBoard, root: Path | None = None
) -> dict[str, Path]:
    """Folders of the planted models by name, planting what the cache lacks.

    Raises:
        Misconfigured: The models cannot be planted to the recipe's target.
        Transient: CACHE_UNWRITABLE, or a training process died.
    """
    shelf = (root or cache_root()) / "planted"
    places = {name: shelf / request.key(name) for name in request.taught}
    missing = []
    for name, place in places.items():
        if entry_is_sound(place):
            board.say(f"{name} model: cached")
        else:
            missing.append(name)
            _discard(place)
    if missing:
        if shelf.is_dir() and any(shelf.iterdir()):
            board.say(f"{' and '.join(missing)} model: planted anew, since the cache holds those "
                      "of other records, forget sets, left-out records or settings")
        _plant_missing(request, {name: places[name] for name in missing}, board)
    return places


def entry_is_sound(place: Path) -> bool:
    """Whether every file that the entry lists is there with its digest."""
    try:
        entry = json.loads((place / ENTRY_FILE).read_text(encoding="utf-8"))
        files: dict[str, str] = entry["files"]
        return bool(files) and all(
            digest_of_file(place / name) == digest for name, digest in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _plant_missing(
    request: PlantingRequest, places: Mapping[str, Path], board: PhaseBoard
) -> None:
    partials = {
        name: place.with_name(f".{place.name}.{os.getpid()}.partial")
        for name, place in places.items()
    }
    jobs = [
        PlantingJob(
            name=name, folder=partial, examples=request.taught[name],
            tokenizer_texts=request.tokenizer_texts, vocab_size=request.vocab_size,
            recipe=request.recipe,
        )
        for name, partial in partials.items()
    ]
    try:
        for partial in partials.values():
            _discard(partial)
            partial.mkdir(parents=True)
        facts = run_jobs(jobs, board)
        for name, partial in partials.items():
            _seal(partial, request.key(name), facts[name])
            _move_into_place(partial, places[name])
    except OSError as error:
        raise Transient(
            "CACHE_UNWRITABLE",
            f"planted models cannot be kept in {error.filename or 'the cache'} ({error.strerror})",
            "free space there, or set MEDUNLEARN_CACHE to another folder",
        ) from error
    finally:
        for partial in partials.values():
            _discard(partial)


def _seal(partial: Path, key: str, facts: Mapping[str, Any]) -> None:
    files = {path.name: digest_of_file(path) for path in sorted(partial.iterdir())}
    entry = {"key": key, "files": files, **facts}
    write_atomically(partial / ENTRY_FILE, canonical_json(entry))


def _move_into_place(partial: Path, place: Path) -> None:
    try:
        partial.rename(place)
    except OSError:
        # Another run planted the same model meanwhile; equal keys mean equal models.
        if not entry_is_sound(place):
            raise


def _discard(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
