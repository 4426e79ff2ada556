"""Small tasks on a tiny model that never ends a response by itself."""

from functools import cache
from typing import Any

from hypothesis import strategies as st

from at2.tasks import SimpleContextAttributionTask, SimpleThoughtAttributionTask
from tests.helpers.models import tiny_model
from tests.helpers.tokenizers import CONTROL, MARKUP, tiny_tokenizer

CONTEXT = (
    "Ada wrote the program. It ran in 1987!\r\n\tThe fox 😀 saw it. 你好，世界。 Nobody else did."
)
QUERY = "Who wrote it?"
any_text = st.lists(
    st.sampled_from(
        [*CONTROL, *MARKUP, " ", "\n\n", "\r\n", "the ", "It was. ", "😀", "你好。", "é"]
    )
    | st.text(max_size=4),
    max_size=8,
).map("".join)
"""Texts with control tokens, markup and characters of several tokens."""


@cache
def parts(kind: str = "byte_level", limit: int = 2048) -> tuple[Any, Any]:
    """A model that takes so many tokens, and its tokenizer."""
    tokenizer = tiny_tokenizer(kind)
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": limit}
    return tiny_model("llama", eos_token_id=None, **sizes), tokenizer


def context_task(
    context: str = CONTEXT,
    query: str = QUERY,
    kind: str = "byte_level",
    source_type: str = "sentence",
    **kwargs: Any,
) -> SimpleContextAttributionTask:
    """A context and a query; the response has 12 tokens."""
    kwargs.setdefault("generate_kwargs", {"max_new_tokens": 12, "do_sample": False})
    return SimpleContextAttributionTask(
        context, query, *parts(kind), source_type=source_type, **kwargs
    )


def thought_task(**kwargs: Any) -> SimpleThoughtAttributionTask:
    """A query alone."""
    return SimpleThoughtAttributionTask("How many?", *parts(), **kwargs)
