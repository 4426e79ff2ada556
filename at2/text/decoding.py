"""Token ids to text, piece by piece, with the characters of each token.

One implementation serves finished responses and streams. Nothing is ever encoded again, so the text
and its offsets are right for any ids, also those that no text would encode to.
"""

import codecs
import re
from collections.abc import Iterable, Sequence
from typing import Any

from at2.ranges import CharRange
from at2.text.alignment import TokenizedText
from at2.text.encoding import codec_of

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What stands for bytes that are no character."""

# A character has at most 4 UTF-8 bytes and a token at least one, so no character spans more tokens.
_MAX_TOKENS_PER_CHARACTER = 4
# Enough of the prompt to know whether a first token shows its leading space.
_CONTEXT_TOKENS = 8

# How vocabularies write bytes: as `<0xF0>`, or each byte as a visible character of its own.
_BYTE_PIECE = re.compile("<0x([0-9A-F]{2})>")
_VISIBLE_BYTES = (*range(33, 127), *range(161, 173), *range(174, 256))
_BYTE_OF = {chr(byte): byte for byte in _VISIBLE_BYTES} | {
    chr(256 + number): byte
    for number, byte in enumerate(byte for byte in range(256) if byte not in _VISIBLE_BYTES)
}


class TextStream:
    """Decodes ids one by one; each step returns the text that became certain.

    A token that ends inside a character is held back until the character is whole; if it never is,
    because the response was cut there, it shows nothing. Bytes that turn out to be no character at
    all become U+FFFD each.

    Args:
        tokenizer: a fast transformers tokenizer.
        context_ids: what comes before, usually the prompt; decides whether a leading space shows.
        skip_special_tokens: show nothing for special tokens.

    Attributes:
        text: everything returned so far.
        ranges: characters of each token that has been decided; parts of one character share it.
    """

    def __init__(
        self, tokenizer: Any, context_ids: Sequence[int] = (), *, skip_special_tokens: bool = False
    ) -> None:
        self._backend = codec_of(tokenizer).plain
        self._skip = skip_special_tokens
        self._context: list[int] = []
        self._context_text = ""
        self._pending: list[int] = []
        self._deltas: list[str] = []
        self._length = 0
        self.ranges: list[CharRange] = []
        for count in range(1, min(_CONTEXT_TOKENS, len(context_ids)) + 1):
            self._set_context(list(context_ids[-count:]))
            if self._context_text.strip(REPLACEMENT):
                break

    @property
    def text(self) -> str:
        """The text decided so far."""
        return "".join(self._deltas)

    def step(self, token_id: int) -> str:
        """Take one more id; returns the new text, often that of this id, or an empty string."""
        self._pending.append(token_id)
        delta = ""
        while self._pending:
            shown = self._decode(self._pending)
            # U+FFFD may be what the model wrote.
            if not shown.endswith(REPLACEMENT) or not self._unfinished_tokens(self._pending):
                return delta + self._emit_all(shown)
            if len(self._pending) < _MAX_TOKENS_PER_CHARACTER:
                break
            # The first pending token cannot be waiting for more: whatever it ends in is decided.
            delta += self._emit(1, self._decode(self._pending[:1]))
        return delta

    def finish(self) -> str:
        """Decide what is still held back. Tokens of an unfinished character show nothing of it and
        have an empty range at the end."""
        waiting = self._unfinished_tokens(self._pending)
        rest = self._pending[len(self._pending) - waiting :]
        self._pending = self._pending[: len(self._pending) - waiting]
        delta = self._emit_all(self._decode(self._pending)) if self._pending else ""
        if rest:
            self._pending = rest
            delta += self._emit(len(rest), self._decode(rest).rstrip(REPLACEMENT))
        return delta

    def _unfinished_tokens(self, ids: list[int]) -> int:
        """How many tokens, from the last one, hold bytes of a character that lacks more."""
        pieces = [_bytes_of(self._backend.id_to_token(i) or "") for i in ids]
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        decoder.decode(b"".join(pieces))
        missing, count = len(decoder.getstate()[0]), 0
        while missing > 0:
            count += 1
            missing -= len(pieces[-count])
        return count

    def _emit_all(self, shown: str) -> str:
        """Emit the pending tokens in the smallest groups that show the same text."""
        delta = ""
        while len(self._pending) > 1:
            ids = self._pending
            for count in range(1, len(ids)):
                head = self._decode(ids[:count])
                rest = self._decode(ids[count:], after=ids[:count])
                if head + rest == shown and (rest or not self._unfinished_tokens(ids[:count])):
                    delta += self._emit(count, head)
                    shown = rest
                    break
            else:
                break
        return delta + self._emit(len(self._pending), shown)

    def _emit(self, count: int, shown: str) -> str:
        ids, self._pending = self._pending[:count], self._pending[count:]
        start, self._length = self._length, self._length + len(shown)
        self.ranges += [(start, self._length)] * count
        self._deltas.append(shown)
        if shown and REPLACEMENT not in shown:  # broken bytes would break those that follow
            self._set_context(ids)
        return shown

    def _set_context(self, ids: list[int]) -> None:
        self._context, self._context_text = ids, self._text_of(ids)

    def _decode(self, ids: list[int], after: list[int] | None = None) -> str:
        """What `ids` show after the context (and after the ids `after` it)."""
        context, context_text = self._context, self._context_text
        if after:
            context = context + after
            context_text = self._text_of(context)
        whole = self._text_of(context + ids)
        if whole.startswith(context_text):
            return whole[len(context_text) :]
        # Decoders that treat a run of byte tokens as one string spoil the context as well.
        return self._text_of(ids)

    def _text_of(self, ids: list[int]) -> str:
        text: str = self._backend.decode(ids, skip_special_tokens=self._skip)
        return text


def _bytes_of(piece: str) -> bytes:
    """The bytes that an entry of a vocabulary stands for."""
    if written := _BYTE_PIECE.fullmatch(piece):
        return bytes([int(written[1], 16)])
    if all(char in _BYTE_OF for char in piece):
        return bytes(_BYTE_OF[char] for char in piece)
    return piece.encode(errors="replace")


def decode_with_offsets(
    tokenizer: Any,
    ids: Iterable[int],
    context_ids: Sequence[int] = (),
    *,
    skip_special_tokens: bool = False,
) -> TokenizedText:
    """The text of ids that continue `context_ids`, and the characters of each of them.

    Linear in the number of ids. For ids whose bytes are valid UTF-8 the text is that of
    `tokenizer.decode` without `clean_up_tokenization_spaces`, apart from leading white space, which
    is shown as in a continuation. Where they end inside a character, nothing is shown of it.
    """
    stream = TextStream(tokenizer, context_ids, skip_special_tokens=skip_special_tokens)
    taken = []
    for token_id in ids:
        taken.append(token_id)
        stream.step(token_id)
    stream.finish()
    return TokenizedText(stream.text, tuple(taken), tuple(stream.ranges))
