"""Plants several models at once, one process and one thread each, with a bar per model.

One thread each keeps the weights reproducible whatever the machine's core count.
"""

from __future__ import annotations

import errno
import multiprocessing
import queue
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from medunlearn_common.errors import MedunlearnError, Misconfigured, Transient
from medunlearn_simulation.planting_recipe import (
    PlantedExample,
    PlantingProgress,
    PlantingRecipe,
)
from medunlearn_simulation.progress import Bar, PhaseBoard

_POLL_S = 0.2
_GRACE_S = 5.0


@dataclass(frozen=True, kw_only=True)
class PlantingJob:
    """One model to train.

    Attributes:
        name: Shown beside the bar.
        folder: Existing folder that receives tokenizer and weights.
        examples: What it is taught.
        tokenizer_texts: What its tokenizer is trained on.
        vocab_size: Size of the tokenizer.
        recipe: Size and training of the model.
    """

    name: str
    folder: Path
    examples: tuple[PlantedExample, ...] = field(repr=False)
    tokenizer_texts: tuple[str, ...] = field(repr=False)
    vocab_size: int
    recipe: PlantingRecipe


def run_jobs(jobs: Sequence[PlantingJob], board: PhaseBoard) -> dict[str, dict[str, Any]]:
    """Trains all jobs side by side and gives what is known of each model by job name.

    Raises:
        Misconfigured: A job's error, as its process raised it.
        Transient: PLANTING_DIED if a process ends without an answer.
    """
    context = multiprocessing.get_context("spawn")
    inbox: Any = context.Queue()
    workers = {
        job.name: context.Process(target=_train, args=(job, inbox), daemon=True) for job in jobs
    }
    try:
        for worker in workers.values():
            worker.start()
        with ExitStack() as stack:
            bars = {
                job.name: stack.enter_context(
                    board.phase(f"planting {job.name} model", job.recipe.target_exact)
                )
                for job in jobs
            }
            return _collect(inbox, workers, bars)
    finally:
        # Reached by Ctrl-C and by errors too: no training outlives its parent.
        for worker in workers.values():
            if worker.pid is not None:
                worker.terminate()
                worker.join(_GRACE_S)


def _collect(
    inbox: Any, workers: Mapping[str, BaseProcess], bars: dict[str, Bar]
) -> dict[str, dict[str, Any]]:
    finished: dict[str, dict[str, Any]] = {}
    while len(finished) < len(workers):
        try:
            name, kind, value = inbox.get(timeout=_POLL_S)
        except queue.Empty:
            _refuse_dead(workers, finished)
            continue
        if kind == "progress":
            note = f"epoch {value.epoch}, {value.exact_accuracy:.1%} of answers exact"
            bars[name].set(value.exact_accuracy, note)
        elif kind == "finished":
            finished[name] = value
        else:
            raise value
    return finished


def _refuse_dead(workers: Mapping[str, BaseProcess], finished: dict[str, dict[str, Any]]) -> None:
    # One that ended well has delivered its answer, which may still be on its way.
    dead = [n for n, w in workers.items() if n not in finished and w.exitcode]
    if dead:
        raise Transient(
            "PLANTING_DIED",
            f"the process that trained the {dead[0]} model ended with status "
            f"{workers[dead[0]].exitcode}",
            "often the machine ran out of memory: close other programs and start again",
        )


def _train(job: PlantingJob, outbox: Any) -> None:
    """Runs in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C ends
    try:
        facts = _train_and_save(job, outbox)
    except MedunlearnError as error:
        known = type(error)(error.code, error.message, error.hint)
        outbox.put((job.name, "error", known))
    except OSError as error:
        outbox.put((job.name, "error", OSError(error.errno, error.strerror, error.filename)))
    except Exception as error:
        # Only the type: the text of a foreign exception may quote a record.
        outbox.put((job.name, "error", Misconfigured(
            "PLANTING_FAILED", f"training the {job.name} model failed ({type(error).__name__})",
            "report this with the versions of torch and transformers",
        )))
    else:
        outbox.put((job.name, "finished", facts))


def _train_and_save(job: PlantingJob, outbox: Any) -> dict[str, Any]:
    import torch  # the parent must not pay for the import
    from safetensors import SafetensorError
    from transformers.utils import logging

    from medunlearn_simulation.planting import plant, train_tokenizer

    torch.set_num_threads(1)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    last: list[PlantingProgress] = []

    def report(progress: PlantingProgress) -> None:
        last[:] = [progress]
        outbox.put((job.name, "progress", progress))

    tokenizer = train_tokenizer(job.tokenizer_texts, job.vocab_size)
    model = plant(job.examples, tokenizer, job.recipe, progress=report)
    try:
        model.save_pretrained(job.folder)
        tokenizer.save_pretrained(job.folder)
    except SafetensorError as error:  # its own kind of error, also where the disk is full
        why = "the weights cannot be written, the disk may be full"
        raise OSError(errno.EIO, why, str(job.folder)) from error
    return {
        "examples": len(job.examples),
        "epochs": last[0].epoch if last else 0,
        "exact_accuracy": last[0].exact_accuracy if last else 0.0,
    }
