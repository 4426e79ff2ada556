"""Tiny fast tokenizers of the kinds that models use, trained in memory, with chat templates."""

import json
from functools import cache

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

CONTROL = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
# Added without the flag "special", as many models add theirs.
MARKUP = ["<think>", "</think>", "[TOOL]"]

TEXT = [
    "The quick brown fox jumps over the lazy dog. It was 42 years old in 1987!",
    "Context: Ada Lovelace wrote the first program.\n\nQuery: Who wrote the first program?",
    "Zażółć gęślą jaźń — naïve café, Straße, Привет мир. 你好，世界。こんにちは",
    "Tabs\tand\r\nline breaks, emoji 😀 and 👩‍👩‍👧, don't you think so?",
    "user assistant system end think context query document the of and to in a is that",
] * 3

TEMPLATE = (
    "{{ '<s>' }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TRIM_TEMPLATE = TEMPLATE.replace("m['content']", "m['content'] | trim")
# No white space between the last marker and the reply.
TIGHT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}<|assistant|>"
)

KINDS = (
    "byte_level",
    "byte_level_trim",
    "byte_level_prefix",
    "metaspace_first",
    "metaspace_always",
    "prepend",
    "unigram",
    "swallowing",
)
_METASPACE_FIRST = {"replacement": "▁", "prepend_scheme": "first"}


def _byte_level(prefix: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=CONTROL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def _byte_fallback() -> Tokenizer:
    """Llama's: byte tokens for what the vocabulary lacks, which is all but ASCII here."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(
        vocab_size=520,
        special_tokens=[*CONTROL, *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    ascii_text = [line.encode("ascii", "ignore").decode() for line in TEXT]
    tokenizer.train_from_iterator(ascii_text, trainer)
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    # The trainer lists them among the added tokens; in Llama's file they are vocabulary only.
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] not in byte_pieces]
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def _metaspace(scheme: str) -> Tokenizer:
    tokenizer = _byte_fallback()
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=scheme, split=False)
    return tokenizer


def _prepend() -> Tokenizer:
    tokenizer = _byte_fallback()
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return tokenizer


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace("▁", prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=CONTROL, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


@cache
def tiny_tokenizer(kind: str, template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """A tokenizer of one of `KINDS`; the same object each time."""
    backend = {
        "byte_level": _byte_level,
        "byte_level_trim": _byte_level,
        "byte_level_prefix": lambda: _byte_level(prefix=True),
        "metaspace_first": lambda: _metaspace("first"),
        "metaspace_always": lambda: _metaspace("always"),
        "prepend": _prepend,
        "unigram": _unigram,
        "swallowing": _byte_level,
    }[kind]()
    if kind == "swallowing":  # markers that eat the white space behind them, as Phi-3's
        backend.add_special_tokens(
            [AddedToken(content, rstrip=True, special=True) for content in CONTROL[3:]]
        )
    backend.add_tokens([AddedToken(content, normalized=False) for content in MARKUP])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=TRIM_TEMPLATE if kind == "byte_level_trim" else template,
        bos_token="<s>",
        eos_token="<|end|>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def control_ids(tokenizer: PreTrainedTokenizerFast) -> set[int]:
    """Ids of all added tokens."""
    return set(tokenizer.added_tokens_decoder)
