"""A tiny random model in a folder, with its tokenizer and an estimator, for tests of mechanics.

Nothing is trained. The weights are the same on every machine. A response is a chain of whole words
without sense, with a full stop here and there, and ends by itself after some twenty tokens: what a
hidden state says about the next word is random, but only words, the full stop and the end can win.
So the text of a response encodes to the ids that were generated.
"""

import atexit
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from at2 import AttentionFeatureExtractor, LinearScoreEstimator
from at2.estimator.identity import ModelIdentity
from tests.helpers.passages import write_rows
from tests.helpers.processes import Process, running_server

NAME = "tiny-random"
"""Of the model's folder."""

CONTEXT_TOKENS = 2048

_WORDS = Path(__file__).parents[1] / "data" / "words.txt"
_VOCABULARY = 2048
_LAYERS, _HEADS = 3, 4
_SPECIAL = ["<pad>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
_END = "<|end|>"
_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_SPREAD = 0.25
_END_WEIGHT = 1.5
_STOP_WEIGHT = 2.3
_OPENING = 8.0


@cache
def tiny_pair() -> tuple[Any, PreTrainedTokenizerFast]:
    """The model, in evaluation mode, and its tokenizer; the same objects each time."""
    tokenizer = _tokenizer()
    return _model(tokenizer), tokenizer


@cache
def tiny_folder() -> Path:
    """A folder with the model and the tokenizer, removed when the process ends."""
    model, tokenizer = tiny_pair()
    folder = _temporary() / NAME
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@cache
def tiny_estimator() -> Path:
    """A folder with an estimator for the model, of random weights."""
    model, tokenizer = tiny_pair()
    estimator = LinearScoreEstimator(AttentionFeatureExtractor(_LAYERS, _HEADS))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        weights = torch.rand(1, _LAYERS * _HEADS, generator=generator)
        estimator.linear.weight.copy_(weights / weights.sum())
    estimator.extras["identity"] = ModelIdentity.of(model, tokenizer).to_dict()
    folder = _temporary() / "tiny-estimator"
    folder.mkdir()
    estimator.save(folder / "score_estimator.safetensors")
    estimator.save(folder / "score_estimator.pt")
    return folder


@cache
def tiny_dataset() -> Path:
    """A file of questions for training jobs, to go with the model."""
    return write_rows(_temporary() / "questions.jsonl")


def tiny_settings() -> dict[str, str]:
    """The server's settings for model and estimator."""
    return {"model": str(tiny_folder()), "estimator": str(tiny_estimator())}


def tiny_environment() -> dict[str, str]:
    """The same as environment variables."""
    return {f"AT2_{name.upper()}": value for name, value in tiny_settings().items()}


@contextmanager
def tiny_server(**settings: str) -> Iterator[tuple[Process, str]]:
    """`running_server` with model and estimator, forked."""
    with running_server(forked=True, **tiny_environment() | settings) as running:
        yield running


@cache
def _temporary() -> Path:
    folder = tempfile.mkdtemp(prefix="at2-tiny-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, with the words of tests/data/words.txt, the frequent ones first."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = _WORDS.read_text(encoding="utf-8").split()
    texts = (f" {word}" * (1 + 1000 // place) for place, word in enumerate(words, 1))
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=_TEMPLATE,
        eos_token=_END,
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


def _model(tokenizer: PreTrainedTokenizerFast) -> Any:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=CONTEXT_TOKENS,
        initializer_range=_SPREAD,  # attention far from uniform
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    weight = torch.zeros(len(tokenizer), 1)
    for token, index in tokenizer.get_vocab().items():
        weight[index] = 1.0 if re.fullmatch("Ġ[A-Za-z]{2,}", token) else 0.0
    weight[tokenizer.convert_tokens_to_ids(".")] = _STOP_WEIGHT
    weight[tokenizer.eos_token_id] = _END_WEIGHT
    with torch.no_grad():
        model.lm_head.weight.mul_(weight)
        # the first feature says that a line break was read, as before every response, and nothing
        # else: there neither the end nor a full stop can win, so that no response is empty
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        model.model.embed_tokens.weight[:, 0] = 0
        model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids("Ċ"), 0] = _OPENING
        model.lm_head.weight[:, 0] = 0
        model.lm_head.weight[[tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(".")], 0] = -1
    model.name_or_path = NAME
    return model
