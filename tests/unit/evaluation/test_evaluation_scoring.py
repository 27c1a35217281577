"""Answer scores against one-by-one, unpadded forward passes with plain loops."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from medunlearn_client.encoding import RecordEncoder
from medunlearn_client.evaluation.answer_encoding import (
    ScoringRequest,
    encode_requests,
    max_tokens_of,
)
from medunlearn_client.evaluation.scored_model import AdapterOffModel, WholeModel
from medunlearn_client.evaluation.scoring import AnswerScore, ScoringLimits, score_answers
from medunlearn_client.records import Record
from medunlearn_common.errors import Misconfigured


def requests_of(corpus: Any, *, whole_text: bool = False) -> list[ScoringRequest]:
    """Texts of different lengths, in no particular order."""
    found = [
        ScoringRequest(prompt=r.prompt, answer=r.answer, whole_text=whole_text)
        for r in corpus.forget[:5] + corpus.identifiers
    ]
    short = ScoringRequest(
        prompt="Question: why?\nAnswer:", answer="liver", append_eos=False, whole_text=whole_text
    )
    return [*found, short]


def slow_log_probs(scored: WholeModel, request: ScoringRequest) -> tuple[list[float], list[bool]]:
    """One unpadded pass per token, log-softmax written out."""
    tokenizer: Any = scored.tokenizer
    ids = tokenizer(f"{request.prompt} {request.answer}", add_special_tokens=False)["input_ids"]
    start = len(tokenizer(request.prompt, add_special_tokens=False)["input_ids"])
    if request.append_eos:
        ids = [*ids, tokenizer.eos_token_id]
    values, greedy = [], []
    for position in range(1 if request.whole_text else start, len(ids)):
        with torch.no_grad():
            row = scored.model(torch.tensor([ids[:position]])).logits[0, -1].double()
        values.append(float(row[ids[position]]) - math.log(float(row.exp().sum())))
        greedy.append(int(row.argmax()) == ids[position])
    return values, greedy


@pytest.mark.parametrize("whole_text", [False, True])
def test_scores_equal_unpadded_forward_passes(
    random_model: WholeModel, corpus: Any, whole_text: bool
) -> None:
    requests = requests_of(corpus, whole_text=whole_text)
    for request, score in zip(requests, score_answers(random_model, requests), strict=True):
        values, greedy = slow_log_probs(random_model, request)
        np.testing.assert_allclose(score.log_probs, values, atol=2e-5)
        assert score.greedy.tolist() == greedy
        answer = values[score.n_prompt : len(values) - int(request.append_eos)]
        assert score.mean_log_prob == pytest.approx(sum(answer) / len(answer), abs=2e-5)
        assert (score.n_prompt > 0) == whole_text


@pytest.mark.parametrize(
    "limits",
    [ScoringLimits(max_batch_rows=1), ScoringLimits(max_batch_rows=3, max_batch_tokens=70)],
)
def test_batches_do_not_change_scores(
    random_model: WholeModel, corpus: Any, limits: ScoringLimits
) -> None:
    requests = requests_of(corpus, whole_text=True)
    together = score_answers(random_model, requests)
    for one, other in zip(
        together, score_answers(random_model, requests, limits=limits), strict=True
    ):
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=2e-5)
        np.testing.assert_allclose(one.z_scores, other.z_scores, atol=2e-4)


def test_order_of_requests_is_kept_and_equal_texts_score_equally(
    random_model: WholeModel, corpus: Any
) -> None:
    requests = requests_of(corpus)
    doubled = [*requests, *reversed(requests)]
    scores = score_answers(random_model, doubled)
    for request, score in zip(doubled, scores, strict=True):
        tokenizer: Any = random_model.tokenizer
        n_tokens = len(tokenizer(f" {request.answer}")["input_ids"])
        assert len(score.log_probs) == n_tokens + int(request.append_eos)
    for one, other in zip(scores[: len(requests)], reversed(scores[len(requests) :]), strict=True):
        assert one.log_probs.tolist() == other.log_probs.tolist()


def test_min_k_z_scores_follow_their_definition(random_model: WholeModel, corpus: Any) -> None:
    request = ScoringRequest(prompt=corpus.forget[0].prompt, answer=corpus.forget[0].answer)
    tokenizer: Any = random_model.tokenizer
    ids = [*tokenizer(corpus.forget[0].text)["input_ids"], tokenizer.eos_token_id]
    (score,) = score_answers(random_model, [request])
    with torch.no_grad():
        table = random_model.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    for place, position in enumerate(range(len(ids) - len(score.log_probs), len(ids))):
        row = table[position - 1]
        mean = float((row.exp() * row).sum())
        spread = math.sqrt(float((row.exp() * (row - mean) ** 2).sum()))
        assert score.z_scores[place] == pytest.approx(
            (float(row[ids[position]]) - mean) / spread, abs=1e-3
        )


def test_exact_agrees_with_greedy_generation(planted_model: WholeModel, corpus: Any) -> None:
    records = corpus.forget + corpus.retain + corpus.non_members
    requests = [ScoringRequest(prompt=r.prompt, answer=r.answer) for r in records]
    tokenizer: Any = planted_model.tokenizer
    model: Any = planted_model.model
    outcomes = set()
    for record, score in zip(records, score_answers(planted_model, requests), strict=True):
        ids = torch.tensor([tokenizer(record.prompt)["input_ids"]])
        written = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )[0, ids.shape[1] :]
        ended = written[-1] == tokenizer.eos_token_id
        text = tokenizer.decode(written, skip_special_tokens=True)
        assert score.exact == (bool(ended) and text == f" {record.answer}")
        outcomes.add(score.exact)
    assert outcomes == {True, False}


class _OldModel(torch.nn.Module):
    """A causal LM whose forward cannot choose logit columns, as older ones are."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.config = inner.config

    def forward(self, input_ids: Any, attention_mask: Any, use_cache: bool) -> Any:
        return self.inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)


def test_model_without_logit_columns_scores_the_same(random_model: WholeModel, corpus: Any) -> None:
    old = WholeModel(model=_OldModel(random_model.model), tokenizer=random_model.tokenizer)
    requests = requests_of(corpus)
    for one, other in zip(
        score_answers(old, requests), score_answers(random_model, requests), strict=True
    ):
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-5)


def test_bfloat16_model_is_normalised_in_float32(random_model: WholeModel, corpus: Any) -> None:
    half = WholeModel(
        model=copy.deepcopy(random_model.model).bfloat16(), tokenizer=random_model.tokenizer
    )
    (request, *_) = requests_of(corpus)
    (score,) = score_answers(half, [request])
    ids = torch.tensor([encode_requests(half.tokenizer, [request], max_tokens=None)[0].input_ids])
    with torch.no_grad():
        logits = half.model(ids).logits
    assert logits.dtype == torch.bfloat16
    rows = logits[0, -len(score.log_probs) - 1 : -1].float().log_softmax(-1)
    wanted = rows.gather(1, ids[0, -len(score.log_probs) :, None])[:, 0]
    np.testing.assert_allclose(score.log_probs, wanted.numpy(), atol=0.03)
    # bfloat16 keeps 8 bits: values of log-softmax taken in it would all lie on that coarse grid
    coarse = torch.tensor(score.log_probs).bfloat16().double().numpy()
    assert np.abs(coarse - score.log_probs).max() > 1e-4


def test_texts_are_split_as_in_training(random_model: WholeModel, corpus: Any) -> None:
    """A tokenizer that adds specials of its own does not change that."""
    core = copy.deepcopy(random_model.tokenizer.backend_tokenizer)
    core.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    eager = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core, bos_token="<s>", eos_token="</s>"
    )
    long = Record(record_id="l", prompt="Question:" + " heart liver" * 60, answer="spleen")
    for tokenizer in (random_model.tokenizer, eager):
        encoder = RecordEncoder(tokenizer, max_tokens=96)
        for record in [*corpus.forget, *corpus.identifiers, long]:
            trained = encoder.encode(record)
            request = ScoringRequest(prompt=record.prompt, answer=record.answer)
            (text,) = encode_requests(tokenizer, [request], max_tokens=96)
            assert text.input_ids == tuple(trained.input_ids.tolist())
            assert text.answer_start == int(trained.is_answer.argmax())
            assert len(text.offsets) == len(text.input_ids)


def test_offsets_cover_the_answer(random_model: WholeModel, corpus: Any) -> None:
    record = corpus.identifiers[0]
    (score,) = score_answers(
        random_model, [ScoringRequest(prompt=record.prompt, answer=record.answer)]
    )
    pieces = [record.text[a:b] for a, b in score.offsets[score.answer_slice]]
    assert "".join(pieces).strip() == record.answer


def test_long_prompts_fit_the_context(random_model: WholeModel) -> None:
    prompt = "Question: " + "heart liver " * 60 + "\nAnswer:"
    request = ScoringRequest(prompt=prompt, answer="spleen")
    limit = max_tokens_of(random_model.model)
    assert limit == 96
    (text,) = encode_requests(random_model.tokenizer, [request], max_tokens=limit)
    (whole,) = encode_requests(random_model.tokenizer, [request], max_tokens=None)
    assert len(whole.input_ids) > limit == len(text.input_ids)
    assert text.input_ids[text.answer_start :] == whole.input_ids[whole.answer_start :]
    (score,) = score_answers(random_model, [request])
    assert len(score.log_probs) == limit - text.answer_start


@pytest.mark.parametrize(
    ("prompt", "answer", "code"),
    [
        ("Question: a?\nAnswer:", " ", "EVALUATION_ANSWER_EMPTY"),
        ("", "liver", "EVALUATION_ANSWER_EMPTY"),
        ("Question: a?\nAnswer:", "spleen " * 120 + "end", "EVALUATION_TEXT_TOO_LONG"),
    ],
)
def test_unscorable_texts_are_refused_without_quoting_them(
    random_model: WholeModel, prompt: str, answer: str, code: str
) -> None:
    with pytest.raises(Misconfigured) as caught:
        score_answers(random_model, [ScoringRequest(prompt=prompt, answer=answer)])
    assert caught.value.code == code
    assert "spleen" not in str(caught.value)


def test_nan_weights_are_refused(random_model: WholeModel, corpus: Any) -> None:
    broken: Any = copy.deepcopy(random_model.model)
    broken.lm_head.weight.data[7, 0] = float("nan")
    with pytest.raises(Misconfigured) as caught:
        score_answers(
            WholeModel(model=broken, tokenizer=random_model.tokenizer), requests_of(corpus)
        )
    assert caught.value.code == "MODEL_OUTPUT_NOT_FINITE"


def test_slow_tokenizer_is_refused() -> None:
    slow: Any = SimpleNamespace(is_fast=False)
    with pytest.raises(Misconfigured) as caught:
        encode_requests(slow, [ScoringRequest(prompt="a", answer="b")], max_tokens=None)
    assert caught.value.code == "TOKENIZER_NOT_FAST"


def test_adapter_off_is_the_base_and_on_is_not(random_model: WholeModel, corpus: Any) -> None:
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapted = get_peft_model(
            copy.deepcopy(random_model.model),
            LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
        )
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    adapted.train()
    requests = requests_of(corpus)
    off = AdapterOffModel(model=adapted, tokenizer=random_model.tokenizer)
    on = WholeModel(model=adapted, tokenizer=random_model.tokenizer)
    base = score_answers(random_model, requests)
    for score, wanted in zip(score_answers(off, requests), base, strict=True):
        np.testing.assert_array_equal(score.log_probs, wanted.log_probs)
    active = score_answers(on, requests)
    assert max(_distance(a, b) for a, b in zip(active, base, strict=True)) > 0.01
    assert adapted.training, "the training mode is put back"
    merged = WholeModel(model=on.trainable_copy().eval(), tokenizer=on.tokenizer)
    for score, wanted in zip(score_answers(merged, requests), active, strict=True):
        np.testing.assert_allclose(score.log_probs, wanted.log_probs, atol=1e-4)
    bare = off.trainable_copy()
    assert all(parameter.requires_grad for parameter in bare.parameters())
    assert not any("lora" in name for name, _ in bare.named_parameters())
    np.testing.assert_array_equal(
        score_answers(on, requests)[0].log_probs, active[0].log_probs, "copies leave it as it was"
    )


def _distance(one: AnswerScore, other: AnswerScore) -> float:
    return float(np.abs(one.log_probs - other.log_probs).max())


def test_progress_counts_every_distinct_text(random_model: WholeModel, corpus: Any) -> None:
    requests = requests_of(corpus)
    seen: list[int] = []
    score_answers(
        random_model,
        requests + requests,
        limits=ScoringLimits(max_batch_rows=4),
        on_progress=seen.append,
    )
    assert sum(seen) == len(requests)
    assert len(seen) > 1
