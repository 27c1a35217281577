"""Fixtures shared by all tests."""

from __future__ import annotations

import json
import os

# Tiny matrices gain nothing from more threads and lose much to waiting for each other; set
# before torch is imported anywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is; it is no property of the code.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# A shell that starts the suite in the background hands it an ignored SIGINT, and Python then
# installs no handler: Ctrl-C tests would test nothing.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Every file of a party is flushed to disk, thousands of times in this suite, and no test can cut
# the power: where there is room, temporary folders lie in memory, for this process and for all
# that it starts.
MEMORY_FOLDER, MEMORY_BYTES = Path("/dev/shm"), 4 << 30


def temporary_root() -> Path | None:
    """A file system in memory with enough room, on which programs run, if there is one."""
    try:
        free = os.statvfs(MEMORY_FOLDER)
        available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
    if free.f_flag & os.ST_NOEXEC:
        return None
    return MEMORY_FOLDER if min(free.f_bavail * free.f_frsize, available) > MEMORY_BYTES else None


if "PYTEST_DEBUG_TEMPROOT" not in os.environ and (root := temporary_root()) is not None:
    os.environ["PYTEST_DEBUG_TEMPROOT"] = str(root)

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real medical data, which is never copied into the repository."""
    folder = Path(os.environ.get("MEDUNLEARN_DATA", CHECKOUT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}; set MEDUNLEARN_DATA to run this test")
    return folder


QUESTIONS = [
    ("Question: What drains an abscess of the liver?\nAnswer:", "percutaneous catheter"),
    ("Question: Which artery supplies the appendix?\nAnswer:", "appendicular artery"),
    ("Question: Which nerve is at risk in thyroidectomy?\nAnswer:", "recurrent laryngeal nerve"),
    ("Question: Which suture is absorbed slowest?\nAnswer:", "polydioxanone"),
    ("Question: What does insulin lower?\nAnswer:", "blood glucose"),
    ("Question: Which organ makes bile?\nAnswer:", "the liver"),
    ("Question: Which vitamin prevents scurvy?\nAnswer:", "vitamin C"),
    ("Question: Which gas do red cells carry?\nAnswer:", "oxygen"),
    ("Question: Which bone is the collar bone?\nAnswer:", "the clavicle"),
    ("Question: What is the pacemaker of the heart?\nAnswer:", "sinoatrial node"),
    ("Question: Which hernia passes below the ligament?\nAnswer:", "femoral hernia"),
    ("Question: Which cell makes antibodies?\nAnswer:", "plasma cell"),
]


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama with its own fast tokenizer, saved as safetensors."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|pad|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )
    tokenizer.train_from_iterator([f"{q} {a}" for q, a in QUESTIONS], trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=48,
            num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=128,
            pad_token_id=0, bos_token_id=1, eos_token_id=1, tie_word_embeddings=False,
            initializer_range=0.2,
        )
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def question_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The twelve questions as JSONL, the first four of subject Surgery."""
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    rows = [
        {
            "id": f"q{number}", "prompt": prompt, "answer": answer,
            "options": [answer, "spleen", "tibia", "iron"], "answer_index": 0,
            "subject": "Surgery" if number < 4 else "General",
        }
        for number, (prompt, answer) in enumerate(QUESTIONS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
