"""The training network computes what the shipped `LlamaForCausalLM` computes on each question."""

import math
from random import Random

import pytest
import torch
from transformers import LlamaConfig

from trainer_jobs.bundled import network as network_module
from trainer_jobs.bundled.export import to_llama
from trainer_jobs.bundled.network import ROPE_THETA, Layout, Network, missed
from trainer_jobs.bundled.optimizer import orthogonalize
from trainer_jobs.bundled.packing import Packer
from trainer_jobs.bundled.tokenizer import USER, train_tokenizer
from trainer_jobs.bundled.world import World


@pytest.fixture(scope="module")
def packer() -> Packer:
    return Packer(train_tokenizer(examples=300))


def _network(vocab_size: int) -> Network:
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=24,
        rope_theta=ROPE_THETA,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
    )
    network = Network(config, seed=3)
    with torch.no_grad():  # away from the near-identity of the initial weights
        for parameter in network.parameters():
            if parameter.ndim == 2:
                parameter.mul_(20 if parameter.std() < 1e-2 else 1)
    return network


@pytest.mark.parametrize("removal", [0.0, 1.0])
def test_packed_questions_equal_the_llama_on_each_alone(
    packer: Packer, removal: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_module, "COMPUTE_DTYPE", torch.float32)
    tokenizer_size = 4096
    network = _network(tokenizer_size)
    llama = to_llama(network)
    rng = Random(11)
    examples = [World(removal=removal).example(rng, n, 4) for n in (3, 7)]
    with torch.no_grad():
        packed = network(packer.batch(examples)).logits
        alone = []
        for example in examples:
            row = packer.row(example)
            for number in range(1, len(example.questions) + 1):
                kept = [i for i, s in enumerate(row.segments) if s in (0, number)]
                logits = llama(
                    input_ids=torch.tensor([[row.ids[i] for i in kept]]),
                    position_ids=torch.tensor([[row.positions[i] for i in kept]]),
                    attention_mask=torch.ones(1, len(kept), dtype=torch.long),
                ).logits[0]
                counted = torch.tensor([row.targets[i] >= 0 for i in kept])
                alone.append(logits[counted])
    torch.testing.assert_close(packed, torch.cat(alone), atol=2e-5, rtol=1e-4)


def test_rows_are_encoded_as_the_chat_template_does() -> None:
    tokenizer = train_tokenizer(examples=300)
    packer = Packer(tokenizer)
    example = World().example(Random(5), 6, 3)
    row = packer.row(example)
    for number, question in enumerate(example.questions, start=1):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": f"Context: {example.context}\n\nQuery: {question.query}"}],
            tokenize=False,
            add_generation_prompt=True,
        )
        whole = tokenizer(prompt + question.answer, add_special_tokens=False)["input_ids"]
        assert [i for i, s in zip(row.ids, row.segments, strict=True) if s in (0, number)] == whole


@pytest.mark.parametrize("removal", [0.0, 1.0])
def test_guidance_points_at_the_sentence_each_statement_follows_from(
    packer: Packer, removal: float
) -> None:
    tokenizer = packer.tokenizer
    for seed in range(10):
        example = World(removal=removal).example(Random(seed), 8, 10)
        row = packer.row(example)
        for number, question in enumerate(example.questions, start=1):
            places = [
                place
                for place, segment, target in zip(
                    row.evidence, row.segments, row.targets, strict=True
                )
                if segment == number and target >= 0
            ]
            said = [tokenizer.decode(row.ids[start:end]) for start, end in dict.fromkeys(places)]
            assert said == ([example.sentences[i] for i in question.support] or [USER])


def test_guidance_copies_tokens_of_the_evidence_only(packer: Packer) -> None:
    examples = [World().example(Random(n), n, 6) for n in (2, 5)]
    batch = packer.batch(examples)
    layout = Layout(batch)
    ids = torch.cat([batch.ids, torch.tensor([-1])])
    targets = torch.cat([batch.targets, torch.tensor([-100])])
    rows, questions, tokens, places = layout.copies.nonzero(as_tuple=True)
    assert len(rows) > 0
    source = ids[batch.contexts[rows, places]]
    assert torch.equal(source, targets[batch.segments[rows, questions, tokens]])
    assert bool((layout.copies <= layout.evidence).all())


def test_attention_on_all_the_evidence_costs_nothing() -> None:
    wanted = torch.tensor([[[[True, True, False], [False, False, False]]]])
    right = torch.tensor([[[[0.25, 0.75, 0.0], [0.2, 0.3, 0.5]]]])
    wrong = torch.tensor([[[[0.25, 0.25, 0.5], [0.2, 0.3, 0.5]]]])
    assert missed(right, wanted).item() == pytest.approx(0.0, abs=2e-5)
    assert missed(wrong, wanted).item() == pytest.approx(math.log(2), abs=1e-4)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 12, 5), (2, 5, 12)])
def test_orthogonalize_brings_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    stack = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(stack).double())
    assert values.min() > 0.3 and values.max() < 1.6
