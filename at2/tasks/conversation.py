"""Attribute a reply to the turns of the conversation before it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from at2.errors import InputError
from at2.ranges import CharRange
from at2.tasks.context import ContextAttributionTask
from at2.tasks.generation import DEFAULT_GENERATE_KWARGS
from at2.tasks.sources import DEFAULT_SOURCE_TYPE
from at2.text.chat_template import Message


class ConversationAttributionTask(ContextAttributionTask):
    """Turns of a chat are the documents, numbered as the messages are; the reply is the target.

    What a chat template does not show of a turn, such as thoughts in an earlier reply, is a source
    without tokens, whose score is zero.

    Args:
        messages: all turns, dictionaries with `role` and `content`.
        source_messages: which of them are sources, by number; all but the last by default.
        source_ranges: per message the character ranges of its text to use as sources.

    The other arguments are those of `AttributionTaskWithChatPrompt`.

    Raises:
        InputError: there is no message, or no message of such a number.
    """

    def __init__(
        self,
        messages: Sequence[Message],
        model: Any,
        tokenizer: Any,
        generate_kwargs: Mapping[str, Any] = DEFAULT_GENERATE_KWARGS,
        source_messages: Collection[int] | None = None,
        source_type: str = DEFAULT_SOURCE_TYPE,
        **kwargs: Any,
    ) -> None:
        if not messages:
            raise InputError("there are no messages", param="messages")
        self._messages = [dict(message) for message in messages]
        super().__init__(
            model,
            tokenizer,
            generate_kwargs,
            self._messages[:-1],
            source_type,
            source_messages=range(len(messages) - 1)
            if source_messages is None
            else source_messages,
            **kwargs,
        )

    @property
    def _turns(self) -> list[Message]:
        return self.messages

    @property
    def prompt(self) -> str:
        """The text of the last message."""
        return self._messages[-1]["content"]

    @property
    def messages(self) -> list[Message]:
        """Every turn of the chat."""
        return list(self._messages)

    def _get_document_ranges(self) -> list[CharRange]:
        return []  # the documents are turns, not parts of the last one
