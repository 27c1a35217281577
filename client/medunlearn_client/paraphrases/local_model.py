"""Other wordings from a causal language model in a local folder; nothing is fetched or sent.

The first candidate is decoded greedily, the others are sampled by numbers that a digest of the
record gives: the same record and the same weights give the same wordings on the same machine.
The model must be public in the sense of the privacy accounting: one that was trained on records
of the run would carry one patient's record into another's gradient.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from medunlearn_client.models import LoadedModel, load_causal_lm
from medunlearn_client.paraphrases.templates import ModelPrompt
from medunlearn_common.entropy import public_generator
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import expanded

TEMPERATURE: Final = 0.8
MIN_NEW_TOKENS: Final = 24


def local_folder(name: str) -> Path:
    """The folder of a model that writes wordings.

    Raises:
        Misconfigured: PARAPHRASE_MODEL for anything but a folder, such as a hub id.
    """
    folder = expanded(name)
    if not folder.is_dir():
        raise Misconfigured(
            "PARAPHRASE_MODEL", f"no model folder at {name}",
            "give a local folder: nothing is fetched to put records into other words",
        )
    return folder


class LocalModel:
    """Writes one line per candidate."""

    def __init__(self, loaded: LoadedModel, prompt: ModelPrompt) -> None:
        self._loaded = loaded
        self._prompt = prompt

    @classmethod
    def open(
        cls, folder: str, prompt: ModelPrompt, *, dtype: str = "float32",
        device: torch.device | None = None,
    ) -> LocalModel:
        """Load a folder with safetensors weights.

        Raises:
            Misconfigured: PARAPHRASE_MODEL for anything but a folder, or a code of
                :func:`load_causal_lm`.
        """
        loaded = load_causal_lm(
            str(local_folder(folder)), dtype=dtype, device=device or torch.device("cpu")
        )
        return cls(loaded, prompt)

    def wordings(self, question: str, *, digest: str, count: int) -> tuple[str, ...]:
        """Up to ``count`` different lines, as the model wrote them; nothing is checked here.

        Args:
            question: The question.
            digest: Seeds the sampling.
            count: Candidates to decode.
        """
        tokens = self._loaded.tokenizer.encode(
            self._prompt.asks(question), add_special_tokens=False
        )
        room = self._room(len(tokens), question)
        if room < 1:
            return ()
        lines = (
            self._line(tokens, room, None if number == 0 else _uniforms(digest, number, room))
            for number in range(count)
        )
        return tuple(line for line in dict.fromkeys(lines) if line)

    def _room(self, used: int, question: str) -> int:
        """Tokens to decode at most: half more than the question has, within the context."""
        own = len(self._loaded.tokenizer.encode(question, add_special_tokens=False))
        wanted = max(MIN_NEW_TOKENS, own + own // 2)
        context = getattr(self._loaded.model.config, "max_position_embeddings", None)
        return min(wanted, context - used) if isinstance(context, int) else wanted

    @torch.no_grad()
    def _line(self, tokens: list[int], room: int, uniforms: np.ndarray | None) -> str:
        """One line: greedy without ``uniforms``, else by inverse distribution, shape (room,)."""
        model: Any = self._loaded.model
        tokenizer: Any = self._loaded.tokenizer
        device = model.device
        state: Any = None
        fed = torch.tensor([tokens], device=device)
        written: list[int] = []
        for step in range(room):
            output = model(input_ids=fed, past_key_values=state, use_cache=True)
            state = output.past_key_values
            logits = output.logits[0, -1].float().cpu()
            chosen = int(logits.argmax()) if uniforms is None else _drawn(logits, uniforms[step])
            if chosen == tokenizer.eos_token_id:
                break
            written.append(chosen)
            text = str(tokenizer.decode(written))
            if "\n" in text.lstrip():
                break
            fed = torch.tensor([[chosen]], device=device)
        text = str(tokenizer.decode(written)).strip()
        return text.splitlines()[0].strip() if text else ""


def _uniforms(digest: str, number: int, size: int) -> np.ndarray:
    return public_generator(0, "paraphrase", digest, number).random(size)


def _drawn(logits: torch.Tensor, uniform: float) -> int:
    """The token at ``uniform`` of the distribution at :data:`TEMPERATURE`."""
    cumulative = (logits.double() / TEMPERATURE).softmax(0).cumsum(0)
    place = int(torch.searchsorted(cumulative, uniform * float(cumulative[-1])))
    return min(place, logits.numel() - 1)
