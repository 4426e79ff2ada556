"""The bundled model's byte-level BPE tokenizer and chat template, trained on generated text.

Knows nothing of the network. Any Unicode text can be encoded and decoded without loss.
"""

from collections.abc import Iterator
from random import Random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from trainer_jobs.bundled.names import NameSource
from trainer_jobs.bundled.world import World

VOCAB_SIZE = 2048
PAD, USER, ASSISTANT, SYSTEM, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)

_PIECES = r" (?=\p{Lu})|\p{Lu}\p{L}*| ?\p{L}+| ?\p{N}{1,2}|\p{N}{1,2}| ?[^\s\p{L}\p{N}]|\s"
"""The space before a capital letter stands alone, so a name has the same tokens everywhere: after a
space, a line break, a quotation mark, or as the first word of an answer. Digits go in pairs."""


def _corpus(examples: int) -> Iterator[str]:
    rng = Random(0)
    world = World(NameSource(held_out=False))
    for _ in range(examples):
        example = world.example(rng, 8, 8)
        yield example.context
        for question in example.questions:
            yield question.query
            yield question.answer
    for _ in range(400):  # whole tokens for the template's words and for every pair of digits
        yield "Context: Query: " + " ".join(f"{n:02d} {n:02d}{n:02d}" for n in range(100))


def train_tokenizer(examples: int = 6000) -> PreTrainedTokenizerFast:
    """Train the tokenizer from scratch on names and sentences of the training split."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD, USER, ASSISTANT, SYSTEM, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(examples), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT, SYSTEM],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
