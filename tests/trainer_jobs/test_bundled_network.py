"""The training network computes what the shipped `LlamaForCausalLM` computes on each question."""

from random import Random

import pytest
import torch
from transformers import LlamaConfig

from trainer_jobs.bundled import network as network_module
from trainer_jobs.bundled.export import to_llama
from trainer_jobs.bundled.network import Network
from trainer_jobs.bundled.optimizer import orthogonalize
from trainer_jobs.bundled.packing import Packer
from trainer_jobs.bundled.tokenizer import train_tokenizer
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
        packed, _ = network(packer.batch(examples))
        alone = []
        for example in examples:
            ids, positions, segments, targets = packer.row(example)
            for number in range(1, len(example.questions) + 1):
                kept = [i for i, s in enumerate(segments) if s in (0, number)]
                logits = llama(
                    input_ids=torch.tensor([[ids[i] for i in kept]]),
                    position_ids=torch.tensor([[positions[i] for i in kept]]),
                    attention_mask=torch.ones(1, len(kept), dtype=torch.long),
                ).logits[0]
                counted = torch.tensor([targets[i] >= 0 for i in kept])
                alone.append(logits[counted])
    torch.testing.assert_close(packed, torch.cat(alone), atol=2e-5, rtol=1e-4)


def test_rows_are_encoded_as_the_chat_template_does() -> None:
    tokenizer = train_tokenizer(examples=300)
    packer = Packer(tokenizer)
    example = World().example(Random(5), 6, 3)
    ids, _, segments, _ = packer.row(example)
    for number, question in enumerate(example.questions, start=1):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": f"Context: {example.context}\n\nQuery: {question.query}"}],
            tokenize=False,
            add_generation_prompt=True,
        )
        whole = tokenizer(prompt + question.answer, add_special_tokens=False)["input_ids"]
        assert [i for i, s in zip(ids, segments, strict=True) if s in (0, number)] == whole


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 12, 5), (2, 5, 12)])
def test_orthogonalize_brings_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    stack = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(stack).double())
    assert values.min() > 0.3 and values.max() < 1.6
