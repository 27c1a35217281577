"""A new run: its folder, its plan as it was given, and what was said at its launch.

And a finished run, which goes out once more to be published.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Final

from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import expanded, write_atomically
from medunlearn_common.frozen import A_FILE, frozen_bytes, require_unvoted_start
from medunlearn_common.plan import Plan, RunPlan
from medunlearn_common.plan.public_files import PREFIX
from medunlearn_common.plan.reading import MAX_PLAN_BYTES, plan_from_text
from medunlearn_server.coordinator import new_run_id
from medunlearn_server.directives import write_directive
from medunlearn_server.service.config import CoordinatorFolder
from medunlearn_server.service.runs_db import RunRow, RunsDb

LAUNCH_FILE: Final = "launch.json"
_NONCE: Final = re.compile(r"[0-9a-f]{16,64}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}|")
_NAMES: Final = ("model_digest", "tokenizer_digest")


def launch(
    folder: CoordinatorFolder, runs: RunsDb, plan: bytes, *, nonce: str, model_digest: str = "",
    tokenizer_digest: str = "",
) -> RunRow:
    """Take a plan; the same plan and nonce again is the same run.

    The plan is on disk before the registry knows of the run, so that a crash in between leaves
    a folder that nothing refers to.

    Raises:
        Misconfigured: PLAN_ codes, PUBLIC_FILE_MISSING, LAUNCH_INVALID, RUN_EXISTS,
            A_FILE_MISSING, A_FILE_INVALID, A_FILE_CHANGED, START_OUTSIDE_SUPPORT.
        Transient: WRITE_FAILED, RUNS_DB.
    """
    digests = dict(zip(_NAMES, (model_digest, tokenizer_digest), strict=True))
    if not _NONCE.fullmatch(nonce):
        raise _invalid("the nonce is not 16 to 64 hexadecimal digits")
    for name, digest in digests.items():
        if not _DIGEST.fullmatch(digest):
            raise _invalid(f"{name.replace('_', ' ')} is not a SHA-256 in hexadecimal")
    if len(plan) > MAX_PLAN_BYTES:
        raise Misconfigured("PLAN_SYNTAX", "the plan is larger than 1 MiB", "shorten it")
    try:
        given = plan_from_text(plan.decode("utf-8"))
        shared = given.shared()
    except UnicodeDecodeError as error:
        raise Misconfigured("PLAN_SYNTAX", "the plan is not UTF-8 text", "save it as such"
                            ) from error
    frozen = _frozen_copy(given, shared)
    run_id = new_run_id(shared, nonce=nonce)
    if all(row.run_id != run_id for row in runs.list()):
        run_folder = folder.run(run_id)
        write_atomically(run_folder / "plan.toml", plan)
        if frozen is not None:
            write_atomically(run_folder / A_FILE, frozen)
        write_atomically(run_folder / LAUNCH_FILE, json.dumps(digests).encode("ascii"))
        write_directive(run_folder, "run")
    return runs.add(run_id, plan_digest=shared.digest)


def publish(folder: CoordinatorFolder, runs: RunsDb, run_id: str) -> RunRow:
    """Have a finished run's adapter carried to the hospitals.

    A word that came too late for the run (`stop`) would end its publication: it is taken back
    before the conductor can see that there is something to carry.

    Raises:
        Misconfigured: RUN_UNKNOWN, RUN_STATE if it has not finished.
        Transient: WRITE_FAILED, RUNS_DB.
    """
    if runs.get(run_id).state == "finished":
        write_directive(folder.run(run_id), "run")
    return runs.publish(run_id)


def _frozen_copy(given: Plan, shared: RunPlan) -> bytes | None:
    """The file of A that the shared plan names, to keep with the run; None where A is drawn."""
    if not given.model.a_file:
        if given.contrast.public_file:  # else A would be random, and epsilon spent in vain
            raise Misconfigured(
                "A_FILE_MISSING", "the plan has A made from public text, which no launch does",
                "make it with `medunlearn contrast`, and name the file in [model] a_file",
            )
        return None
    file = expanded(given.model.a_file)  # a digest alone is no file
    require_unvoted_start(file, shared.support.method)
    data = frozen_bytes(file)
    if PREFIX + hashlib.sha256(data).hexdigest() != shared.model.a_file:
        raise Misconfigured(
            "A_FILE_CHANGED", f"{file.name} was replaced during the launch", "launch again"
        )
    return data


def read_launch(run_folder: Path) -> dict[str, str]:
    """The digests given at the launch; raises Misconfigured LAUNCH_INVALID."""
    try:
        document = json.loads((run_folder / LAUNCH_FILE).read_text(encoding="ascii"))
        return {name: str(document[name]) for name in _NAMES}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _invalid(f"{LAUNCH_FILE} of the run cannot be read") from error


def _invalid(what: str) -> Misconfigured:
    return Misconfigured("LAUNCH_INVALID", what, "launch the plan again with `medunlearn "
                         "coordinator launch`")
