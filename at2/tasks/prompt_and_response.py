"""A prompt and the response to it, as ids.

Ids are the truth. Text is decoded from them once, and nothing generated is ever encoded again.
Knows nothing of sources or of what is attributed.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

from transformers import BatchEncoding

from at2.errors import InputError
from at2.model.positions import check_length
from at2.ranges import CharRange
from at2.tasks.generation import (
    DEFAULT_GENERATE_KWARGS,
    check_generate_kwargs,
    end_ids,
    generate_responses,
)
from at2.text.alignment import TokenizedText
from at2.text.chat_template import Prompt
from at2.text.decoding import decode_with_offsets
from at2.text.encoding import check_text, encode_continuation, encode_text


class Exchange(ABC):
    """A prompt and its response, which is generated when it is first needed, unless it is set.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer, a "fast" one.
        generate_kwargs: arguments of `model.generate`; greedy, up to 512 tokens, by default.
        cache: as in the published package. Its entry `text`, prompt and response in one, gives the
            response; whatever else it holds is computed anew.
        **kwargs: ignored with a warning, for code that passes its settings through.

    Raises:
        InputError: the arguments of `model.generate` do not give the ids of one response.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        generate_kwargs: Mapping[str, Any] = DEFAULT_GENERATE_KWARGS,
        cache: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        for name in kwargs:
            warnings.warn(f"{type(self).__name__} ignores the argument {name!r}", stacklevel=2)
        self.model = model
        self.tokenizer = tokenizer
        self.generate_kwargs = check_generate_kwargs(generate_kwargs)
        self._given_text = (cache or {}).get("text")
        # What depends on the response; emptied when another one is set.
        self._cache: dict[str, Any] = {}
        self._responses_set = 0

    # The prompt

    @property
    @abstractmethod
    def input_text(self) -> str:
        """The prompt as the model reads it, with all markers."""

    @cached_property
    def encoded_prompt(self) -> Prompt:
        """The encoded prompt. Here all of `input_text` is taken for the template's own."""
        return Prompt(encode_text(self.tokenizer, self.input_text, ()))

    @property
    def input_ids(self) -> list[int]:
        """Token ids of the prompt."""
        return list(self.encoded_prompt.encoded.ids)

    def check_length(self, new_tokens: int | None = None) -> None:
        """Check that the prompt and so many new tokens fit the model.

        Args:
            new_tokens: by default the length of the response if it is known, else 1.

        Raises:
            PromptTooLongError: they do not.
        """
        if new_tokens is None:
            new_tokens = len(self.generation_ids) if "generation_ids" in self._cache else 1
        check_length(self.model, len(self.encoded_prompt.encoded.ids), new_tokens)

    # The response

    @property
    def generation_ids(self) -> list[int]:
        """Token ids of the response, with the end-of-sequence token if the model wrote one."""
        if "generation_ids" not in self._cache:
            if self._given_text is not None:
                self.set_generation(self._response_in(self._given_text))
            else:
                self.set_generation_ids(self._respond([1] * len(self.input_ids)))
        return list(self._cache["generation_ids"])

    def set_generation_ids(self, ids: Iterable[int], characters: int | None = None) -> None:
        """Attribute the response with these ids.

        Args:
            ids: of the response.
            characters: where its text is cut off, if that is before their end. The last token
                may then cover a part of what it says; those behind it belong to no text.

        Raises:
            InputError: an id is not in the model's vocabulary.
        """
        ids = [int(token_id) for token_id in ids]
        size = self.model.config.get_text_config().vocab_size
        for token_id in ids:
            if not 0 <= token_id < size:
                raise InputError(f"token id {token_id} is not in the vocabulary of {size}")
        self._renew(ids)
        self._cache["characters"] = characters

    def set_generation(self, text: str) -> None:
        """Attribute a response written elsewhere. Afterwards `generation == text`.

        Raises:
            PromptError: the text is not valid Unicode.
        """
        check_text(text, "response")
        encoded = encode_continuation(
            self.tokenizer,
            self.encoded_prompt.encoded,
            self.encoded_prompt.user_spans,
            text,
            self._response_user_spans(text),
        )
        self._renew(list(encoded.ids))
        self._cache["encoded_generation"] = encoded

    def _renew(self, ids: list[int]) -> None:
        """Take another response, and forget what depended on the one before."""
        self._cache.clear()
        self._cache["generation_ids"] = ids
        self._responses_set += 1

    @property
    def response_number(self) -> int:
        """How many responses this task has been given, with the one that it has now: what was
        computed from a response holds while this number stays."""
        _ = self.generation_ids
        return self._responses_set

    def _response_user_spans(self, text: str) -> list[CharRange]:
        """The parts of a given response in which control tokens are text: all of it."""
        return [(0, len(text))]

    def _response_in(self, text: str) -> str:
        """The response in a text of prompt and response, without the marker of its end."""
        if not text.startswith(self.input_text):
            raise InputError("the text in cache does not begin with the prompt", param="cache")
        response = text[len(self.input_text) :]
        for token_id in self._end_ids:
            marker = self.tokenizer.convert_ids_to_tokens(token_id)
            if marker and response.endswith(marker):
                return response[: -len(marker)]
        return response

    def _respond(self, visible: Sequence[int]) -> list[int]:
        """Generate ids of a response to the prompt's tokens that are visible (1)."""
        self.check_length(1)
        return generate_responses(self.model, [self.input_ids], [visible], self.generate_kwargs)[0]

    @classmethod
    def batch_generate(cls, tasks: Sequence["Exchange"]) -> list[str]:
        """Generate and set the responses of tasks that share a model, in one batch.

        Returns:
            The responses as text.

        Raises:
            PromptTooLongError: a prompt leaves no room for a response.
        """
        if not tasks:
            return []
        for task in tasks:
            task.check_length(1)
        first, prompts = tasks[0], [task.input_ids for task in tasks]
        visible = [[1] * len(ids) for ids in prompts]
        responses = generate_responses(first.model, prompts, visible, first.generate_kwargs)
        for task, ids in zip(tasks, responses, strict=True):
            task.set_generation_ids(ids)
        return [task.generation for task in tasks]

    @property
    def _end_ids(self) -> frozenset[int]:
        return end_ids(self.model, self.generate_kwargs)

    @property
    def encoded_generation(self) -> TokenizedText:
        """The response without end-of-sequence tokens, and what else is cut off, at its end: text,
        ids, characters per token."""
        ids = self.generation_ids
        if "encoded_generation" not in self._cache:
            while ids and ids[-1] in self._end_ids:
                ids.pop()
            decoded = decode_with_offsets(self.tokenizer, ids, self.encoded_prompt.encoded.ids)
            self._cache["encoded_generation"] = decoded.cut(self._cache.get("characters"))
        return cast(TokenizedText, self._cache["encoded_generation"])

    @property
    def generation(self) -> str:
        """The response as text, without the end-of-sequence token."""
        return self.encoded_generation.text

    @property
    def generation_token_start(self) -> int:
        """Position of the response's first token."""
        return len(self.encoded_prompt.encoded.ids)

    @property
    def generation_token_end(self) -> int:
        """Position after the response's last token, the end-of-sequence token not counted."""
        return self.generation_token_start + len(self.encoded_generation.ids)

    # Both

    @property
    def token_ids(self) -> list[int]:
        """Token ids of prompt and response, for a pass of the model.

        Raises:
            PromptTooLongError: the model does not take as many.
        """
        response = self.generation_ids
        self.check_length(len(response))
        return [*self.encoded_prompt.encoded.ids, *response]

    @property
    def text(self) -> str:
        """Prompt and response as text, without the end-of-sequence token."""
        return self.input_text + self.generation

    @property
    def token_char_ranges(self) -> list[CharRange]:
        """Characters of `text` per token of `token_ids`; empty for end-of-sequence tokens."""
        offset, length = len(self.encoded_prompt.encoded.text), len(self.text)
        generation = [
            (offset + start, offset + end) for start, end in self.encoded_generation.ranges
        ]
        ended = len(self.generation_ids) - len(generation)
        return [*self.encoded_prompt.encoded.ranges, *generation, *[(length, length)] * ended]

    def get_input_tokens(self, return_tensors: str | None = None) -> BatchEncoding:
        """The prompt's `input_ids` and `attention_mask`, for `model` or `model.generate`.

        Args:
            return_tensors: None for lists of [tokens], "pt" for tensors of [1, tokens].
        """
        return _encoding(self.input_ids, return_tensors)

    def get_tokens(self, return_tensors: str | None = None) -> BatchEncoding:
        """`input_ids` and `attention_mask` of prompt and response; see `get_input_tokens`."""
        return _encoding(self.token_ids, return_tensors)


def _encoding(ids: list[int], return_tensors: str | None) -> BatchEncoding:
    return BatchEncoding(
        {"input_ids": ids, "attention_mask": [1] * len(ids)},
        tensor_type=return_tensors,
        prepend_batch_axis=return_tensors is not None,
    )
