"""The ablation: one switch at a time from the default, on the embedded demo.

    python benchmarks/ablation.py [--seeds 0 1 2] [--out runs/ablation] [--only NAME ...]

Objective, projection, support, noise and adapter are switched one by one (evaluation.md,
Baselines); the rows without noise switch two. Every run is `medunlearn simulate` on a plan
that is written beside it, and what it prints goes to a log beside it. A folder carries the
digest of its plan: a complete run is not repeated while its plan is the same, so an interrupted
ablation goes on where it stopped, and a row whose switches or whose base plan were changed is
run anew. The table is printed and written to ``ablation.md``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from results_table import table

from medunlearn_common.digests import digest_of
from medunlearn_common.files import write_atomically
from medunlearn_common.plan import plan_from_text
from medunlearn_simulation.demo_corpus import write_public_text
from medunlearn_simulation.result import RESULT_FILE, load_result
from medunlearn_simulation.result_schema import RunResult

BASE = Path(__file__).parent / "plans" / "demo.toml"

# A curve costs as much as a tenth of a run, and the table has none.
COMMON = {"evaluation.curve_every": "100"}
NOISELESS = {"privacy.noise": '"none"'}
# Protocols of hospitals that no record names: text like the records', and nobody's.
PUBLIC_FILE = "PUBLIC_FILE"
ONE_SUM = {"wire.sums": '"one"'}
EVERY_MODULE = '["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]'


def objective(name: str) -> dict[str, str]:
    """The switch to another objective."""
    return {"objective.name": f'"{name}"'}


ROWS: dict[str, dict[str, str]] = {
    "default": {},
    "noise-only": objective("noise_only"),
    "retain-only": objective("retain_only"),
    "redirection": objective("redirection"),
    "npo": objective("npo"),
    "simnpo": objective("simnpo"),
    "max_entropy": objective("max_entropy"),
    "ga": objective("ga"),
    "graddiff": objective("graddiff"),
    "plain_npo": objective("plain_npo"),
    "plain_simnpo": objective("plain_simnpo"),
    "rmu": objective("rmu"),
    "projection-history": {"geometry.projection": '"history"'},
    "projection-public": {
        "geometry.projection": '"public"', "geometry.public_file": PUBLIC_FILE,
    },
    # So much damping that the metric is even, and only the projection is left.
    "projection-public-even": {
        "geometry.projection": '"public"', "geometry.public_file": PUBLIC_FILE,
        "geometry.damping": "100.0",
    },
    "graddiff-keep-more": objective("graddiff") | {"server.retain_weight": "2.0"},
    "graddiff-history": objective("graddiff") | {"geometry.projection": '"history"'},
    "graddiff-public": objective("graddiff") | {
        "geometry.projection": '"public"', "geometry.public_file": PUBLIC_FILE,
    },
    "support-random": {"support.method": '"random"'},
    "support-public": {"support.method": '"public"', "support.public_file": PUBLIC_FILE},
    "density-0.0003": {"support.density": "0.0003"},
    "row-rank-any": {"server.row_rank": "0"},
    "every-module": {"model.target_modules": EVERY_MODULE},
    "every-module-rank-32": {
        "model.target_modules": EVERY_MODULE, "model.lora_rank": "32",
        "model.lora_alpha": "32.0", "server.learning_rate": "0.5", "server.row_rank": "0",
        "server.retain_weight": "1.0",
    },
    "clip-1": {"privacy.clip_l2": "1.0"},
    "even-levels": {"objective.forget_weights": "[1.0, 1.0, 1.0, 1.0]"},
    "one-sum": ONE_SUM,
    "small-messages": ONE_SUM | {"wire.update_bits": "16", "wire.value_bits": "16"},
    "noise-local": {"privacy.noise": '"local"'},
    "no-noise": NOISELESS,
    "no-noise-npo": NOISELESS | objective("npo"),
    "no-noise-max_entropy": NOISELESS | objective("max_entropy"),
    "no-noise-graddiff": NOISELESS | objective("graddiff"),
    "no-noise-projection": NOISELESS | {"geometry.projection": '"history"'},
    "no-noise-random": NOISELESS | {"support.method": '"random"'},
}


def main() -> None:
    """Run what is missing, seed by seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW",
                        help=f"rows to run: {', '.join(ROWS)}")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    groups: dict[str, list[RunResult]] = defaultdict(list)
    for seed in given.seeds:
        for number, name in enumerate(given.only, start=1):
            print(f"seed {seed}: {name} ({number} of {len(given.only)})", flush=True)
            groups[name].append(completed(given.out, name, seed))
    text = table(groups)
    write_atomically(given.out / "ablation.md", (text + "\n").encode())
    print(text)


def completed(out: Path, name: str, seed: int) -> RunResult:
    """The result of one run, which is made, or resumed, where its plan has none.

    Raises:
        SystemExit: The run failed; the message names its log.
    """
    public = write_public_text(out.resolve() / "public.jsonl")
    text = with_switches(BASE.read_text("utf-8"), COMMON | ROWS[name])
    text = text.replace(PUBLIC_FILE, f'"{public}"')
    folder = run_folder(out, name, text, seed)
    if not (folder / RESULT_FILE).is_file():
        plan = folder.with_suffix(".toml")
        write_atomically(plan, text.encode())
        arguments = ["--resume", str(folder)] if folder.exists() else [
            str(plan), "--runner", "memory", "--seed", str(seed), "--out", str(folder)
        ]
        # Rows that ruin the model are what the table is for.
        arguments += ["--override-gate", "utility", "--by", "Ablation Benchmark",
                      "--because", "the table shows what the gate would stop"]
        program = "import sys; from medunlearn_common.cli import main; sys.exit(main())"
        log = folder.with_suffix(".log")
        with log.open("a", encoding="utf-8") as stream:
            status = subprocess.run(
                [sys.executable, "-c", program, "simulate", *arguments],
                check=False, stdout=stream, stderr=subprocess.STDOUT,
            ).returncode
        if status:
            sys.exit(f"{name}, seed {seed}: ended with status {status}; its log is {log}")
    return load_result(folder)


def run_folder(out: Path, name: str, plan: str, seed: int) -> Path:
    """Where the run of this very plan lies; comments and the order of keys do not count."""
    meaning = plan_from_text(plan).model_dump(mode="json")
    return out / f"{name}-{digest_of(meaning)[:10]}-seed{seed}"


def with_switches(plan: str, switches: dict[str, str]) -> str:
    """The plan's text with other values; keys it already gives are replaced."""
    tables: dict[str, dict[str, str]] = {"": {}}
    current = ""
    for line in plan.splitlines():
        text = line.split("#", 1)[0].strip()
        if text.startswith("["):
            current = text.strip("[]")
        elif text:
            key, _, value = text.partition("=")
            tables.setdefault(current, {})[key.strip()] = value.strip()
    for path, value in switches.items():
        section, _, key = path.partition(".")
        tables.setdefault(section, {})[key] = value
    lines = [f"{key} = {value}" for key, value in tables.pop("").items()]
    for section, keys in tables.items():
        lines += ["", f"[{section}]", *(f"{key} = {value}" for key, value in keys.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
