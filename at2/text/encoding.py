"""Text to token ids, with control tokens only where the template puts them.

A tokenizer recognises its added tokens (`<|end|>`, `<s>`, `<think>`, …) wherever their spelling
occurs, so a document that contains `<|end|>` could end the user's turn. Here the caller says which
parts of a text are users' text; there such a spelling is ordinary text. Text without one gets
exactly the ids of the plain encoding.

Works on private copies of the tokenizer's backend: the caller's own truncation and padding settings
do not matter, offsets include leading spaces, and threads never meet on one mutable object.
"""

import json
import re
import threading
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import regex
from tokenizers import Tokenizer, models

from at2.errors import PromptError, UnsupportedModelError
from at2.ranges import CharRange
from at2.text.alignment import TokenizedText

# Added tokens that are vocabulary rather than markup: runs of white space, whole words.
_ORDINARY = re.compile(r"[\w\s▁'’.-]*")
# Accents, and the vowels and last consonants that Korean syllables are composed of.
_JOINING = regex.compile(r"[\p{M}\u1160-\u11ff\ud7b0-\ud7ff]+")
# Planes 15 and 16 are for private use; a stand-in for each control token is taken from a block of
# them that the text at hand does not use.
_STAND_IN_BLOCKS = range(0xF0000, 0x10F000, 0x1000)
_BLOCK_SIZE = 0x1000  # control tokens that one block can stand in for
_MAX_DISARMED = 4  # copies kept; each is as large as the tokenizer


def check_text(text: object, param: str | None = None) -> str:
    """`text` if it is a string that can be written as UTF-8.

    Raises:
        PromptError: not a string, or it holds a lone surrogate.
    """
    if not isinstance(text, str):
        raise PromptError(
            f"{param or 'text'} must be a string, not {type(text).__name__}", param=param
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"{param or 'text'} holds a lone surrogate at character {error.start}", param=param
        ) from None
    return text


class Codec:
    """A tokenizer's backend, copied, with what is needed to keep users' text text."""

    def __init__(self, backend: Tokenizer) -> None:
        try:
            self.plain = _private(Tokenizer.from_str(backend.to_str()))
        except Exception as error:  # the binding raises bare Exception
            raise UnsupportedModelError(f"tokenizer cannot be copied: {error}") from error
        self.vocab_size = self.plain.get_vocab_size(True)
        added = self.plain.get_added_tokens_decoder()
        self.control: dict[int, str] = {
            token_id: token.content
            for token_id, token in added.items()
            if token.content and (token.special or not _ORDINARY.fullmatch(token.content))
        }
        self._unknown = _unknown_id(self.plain)
        by_length = sorted(set(self.control.values()), key=lambda content: (-len(content), content))
        self._markers = re.compile("|".join(map(re.escape, by_length)) or r"(?!)")
        self._places = {content: place for place, content in enumerate(by_length)}
        self._disarmed: dict[tuple[int, bool], Tokenizer] = {}
        self._lock = threading.Lock()

    def encode(
        self, text: str, user_spans: Sequence[CharRange], *, continuation: bool = False
    ) -> TokenizedText:
        """See `encode_text`."""
        if not continuation:
            encoding = self.plain.encode(text, add_special_tokens=False)
            if not self._control_in(text, encoding, user_spans):
                return TokenizedText(text, tuple(encoding.ids), _whole(text, encoding.offsets))
        block = self._free_block(text)
        marked, replaced = self._mark(text, user_spans, block)
        encoding = self._backend(block, continuation).encode(marked, add_special_tokens=False)
        made = sum(i in self.control and i != self._unknown for i in encoding.ids)
        if made != replaced:
            raise PromptError("the tokenizer does not keep control tokens apart from text")
        return TokenizedText(text, tuple(encoding.ids), _whole(text, encoding.offsets))

    def _control_in(self, text: str, encoding: Any, user_spans: Sequence[CharRange]) -> bool:
        """Whether a control token came out of users' text. The white space that some markers
        swallow on their sides does not count."""
        spans = sorted(user_spans)
        for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token_id in self.control:
                core = text[start:end]
                if token_id == self._unknown and core.strip() != self.control[token_id]:
                    continue  # a character that the vocabulary lacks, not the token's spelling
                start += len(core) - len(core.lstrip())
                end -= len(core) - len(core.rstrip())
                before_end = bisect_left(spans, (end, 0))  # spans are disjoint: the last one counts
                if before_end and start < spans[before_end - 1][1]:
                    return True
        return False

    def _free_block(self, text: str) -> int:
        used = {ord(character) & -_BLOCK_SIZE for character in text if character >= "\U000f0000"}
        for block in _STAND_IN_BLOCKS:
            if block not in used and len(self._places) <= _BLOCK_SIZE:
                return block
        raise PromptError("the text uses every private-use block of Unicode")

    def _mark(self, text: str, user_spans: Sequence[CharRange], block: int) -> tuple[str, int]:
        """The text with each of the template's markers replaced by its stand-in, and how many
        (the unknown token, which other text makes as well, not counted)."""
        pieces: list[str] = []
        position = replaced = 0
        unknown = self.control.get(self._unknown)
        for start, end in [*sorted(user_spans), (len(text), len(text))]:
            template_part = text[position:start]
            replaced += sum(m[0] != unknown for m in self._markers.finditer(template_part))
            pieces.append(self._markers.sub(lambda m: self._stand_in(m[0], block), template_part))
            pieces.append(text[start:end])
            position = end
        return "".join(pieces), replaced

    def _stand_in(self, content: str, block: int) -> str:
        # As long as what it replaces, so that offsets need no mapping.
        return chr(block + self._places[content]) * len(content)

    def _backend(self, block: int, continuation: bool) -> Tokenizer:
        """The backend with every control token renamed, so that its spelling is ordinary text."""
        with self._lock:
            key = (block, continuation)
            if key not in self._disarmed:
                names = {content: self._stand_in(content, block) for content in self._places}
                spec = json.loads(self.plain.to_str())
                _rename(spec, names)
                if continuation:
                    for part in ("normalizer", "pre_tokenizer"):
                        spec[part] = _without_prefix(spec[part])
                backend = _private(Tokenizer.from_str(json.dumps(spec)))
                for token_id, content in self.control.items():
                    if backend.token_to_id(names[content]) != token_id:
                        raise PromptError(
                            f"control token {content!r} cannot be kept apart from text"
                        )
                if len(self._disarmed) == _MAX_DISARMED:
                    self._disarmed.pop(next(iter(self._disarmed)))
                self._disarmed[key] = backend
            return self._disarmed[key]


def _whole(text: str, offsets: Sequence[CharRange]) -> tuple[CharRange, ...]:
    """The offsets, with what a normalizer (NFC) has joined with the letter before it: it gives
    the offsets of that letter alone."""
    if _JOINING.search(text) is None:
        return tuple(offsets)
    starts = [start for start, _ in offsets]
    ranges = []
    for start, end in offsets:
        place = bisect_left(starts, end)
        following = starts[place] if place < len(starts) else len(text)
        joined = _JOINING.match(text, end, following) if start < end else None
        ranges.append((start, end if joined is None else joined.end()))
    return tuple(ranges)


def _private(backend: Tokenizer) -> Tokenizer:
    backend.no_truncation()
    backend.no_padding()
    # It adds nothing to ids here, but ByteLevel's would trim spaces off the offsets.
    backend.post_processor = None
    return backend


def _unknown_id(backend: Tokenizer) -> int:
    """The id for what the vocabulary lacks; -1 if there is none."""
    if isinstance(backend.model, models.Unigram):  # says it in its JSON only
        token_id = json.loads(backend.to_str())["model"]["unk_id"]
    else:
        token = getattr(backend.model, "unk_token", None)
        token_id = None if token is None else backend.token_to_id(token)
    return -1 if token_id is None else int(token_id)


def _rename(spec: dict[str, Any], names: dict[str, str]) -> None:
    """Rename tokens in a backend's JSON; ids stay. Merges that would spell one are dropped."""
    for token in spec["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = spec["model"]
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {names.get(piece, piece): i for piece, i in vocab.items()}
    else:  # unigram: [piece, score] by id
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocab]
    if model.get("unk_token") is not None:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if not _spells(_pair(merge), names)]


def _pair(merge: str | list[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _spells(pair: tuple[str, str], names: dict[str, str]) -> bool:
    return pair[0] in names or pair[1] in names or pair[0] + pair[1] in names


def _without_prefix(node: Any) -> Any:
    """A normalizer or pre-tokenizer that adds no space in front of the text."""
    if not isinstance(node, dict) or node["type"] == "Prepend":
        return None
    if node["type"] == "Metaspace":
        return {**node, "prepend_scheme": "never"}
    if node["type"] == "ByteLevel":
        return {**node, "add_prefix_space": False}
    for parts in ("normalizers", "pretokenizers"):
        if parts in node:
            kept = [_without_prefix(part) for part in node[parts]]
            return {**node, parts: [part for part in kept if part is not None]}
    return node


_codecs: WeakKeyDictionary[Any, Codec] = WeakKeyDictionary()
_codecs_lock = threading.Lock()


def codec_of(tokenizer: Any) -> Codec:
    """The codec of a tokenizer, made once and again when tokens were added to it since.

    Raises:
        UnsupportedModelError: the tokenizer is not a "fast" one, so it has no offsets.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not getattr(tokenizer, "is_fast", False) or not isinstance(backend, Tokenizer):
        raise UnsupportedModelError(
            f"tokenizer {type(tokenizer).__name__} has no character offsets: a fast one is needed"
        )
    with _codecs_lock:
        codec = _codecs.get(tokenizer)
        if codec is None or codec.vocab_size != backend.get_vocab_size(True):
            codec = _codecs[tokenizer] = Codec(backend)
        return codec


def encode_text(
    tokenizer: Any, text: str, user_spans: Sequence[CharRange], *, continuation: bool = False
) -> TokenizedText:
    """Encode a text in which `user_spans` hold no control tokens, whatever they spell.

    Args:
        tokenizer: a fast transformers tokenizer.
        text: the whole text; outside the spans markers are control tokens.
        user_spans: disjoint character ranges of users' text.
        continuation: the text goes on from another one: put no prefix space before it.

    Returns:
        Ids and the characters of each. Where no span spells a control token, the ids are those of
        `tokenizer(text, add_special_tokens=False)`.

    Raises:
        UnsupportedModelError: the tokenizer has no offsets.
        PromptError: lone surrogates, or control tokens that cannot be kept apart.
    """
    return codec_of(tokenizer).encode(check_text(text), user_spans, continuation=continuation)


def encode_continuation(
    tokenizer: Any,
    prefix: TokenizedText,
    prefix_spans: Sequence[CharRange],
    text: str,
    user_spans: Sequence[CharRange],
) -> TokenizedText:
    """Encode a text that continues an encoded prefix whose ids are fixed.

    Both are encoded together, as a plain encoding of the whole would be; where that changes the
    prefix (a merge across the border) or hides the text's first characters in the prefix's last
    marker, the text is encoded apart.

    Returns:
        The continuation alone, its ranges relative to `text`.
    """
    cut, count = len(prefix.text), len(prefix.ids)
    spans = [*prefix_spans, *((cut + start, cut + end) for start, end in user_spans)]
    joint = encode_text(tokenizer, prefix.text + text, spans)
    ranges = joint.ranges[count:]
    if joint.ids[:count] == prefix.ids and (ranges[0][0] == cut if ranges else not text):
        relative = tuple((start - cut, end - cut) for start, end in ranges)
        return TokenizedText(text, joint.ids[count:], relative)
    return encode_text(tokenizer, text, user_spans, continuation=True)
