"""What goes over the wire at /v1, in OpenAI's shapes, with documents and citations beside them.

A parameter that would change the reply and cannot be followed is refused by name; where a client
gives the value that changes nothing (`n: 1`, `tools: null`), it is taken. Characters are Unicode
code points; ranges are half-open.
"""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from service.citation_schemas import (
    Annotation,
    CitationFormat,
    CohereCitation,
    MeasuredAnnotation,
    TextBlock,
)
from service.field_types import (
    DEFAULT_MIN_SHARE,
    DEFAULT_TOP_K,
    EXAMPLE,
    MAX_ITEMS,
    BoundedList,
    MinShare,
    SourceMessages,
    SourceType,
    Stop,
    Text,
)
from service.openai_fields import (
    CONTENT_SCHEMA,
    DOCUMENT_SCHEMA,
    AcceptOnly,
    OrFlag,
    document_of,
    text_of,
)
from service.reply_schemas import ErrorBody
from service.request_schemas import Document, RequestModel

MOST_CITED = 100
"""Sources that a statement may have in a reply."""

ChatMethod = Literal["at2", "average_attention", "contrastive_attention"]
"""Methods that need no pass for each source: others are asked for at /attribute."""

FinishReason = Literal["stop", "length"]

Annotations = list[MeasuredAnnotation] | list[Annotation] | list[TextBlock] | list[CohereCitation]

_AnyDocument = Annotated[Document, BeforeValidator(document_of), WithJsonSchema(DOCUMENT_SCHEMA)]


class FunctionCall(RequestModel):
    """Which function an earlier reply called."""

    name: Text
    arguments: Text = Field(description="As JSON.")


class ToolCall(RequestModel):
    """A call of an earlier reply."""

    id: Any = None
    index: Any = None
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(RequestModel):
    """A turn. `annotations` are read over, so that a message of a reply can be sent back."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[Text | None, BeforeValidator(text_of), WithJsonSchema(CONTENT_SCHEMA)] = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_ITEMS)] | None = Field(
        default=None, description="Of the assistant: what it called, which is shown as text."
    )
    tool_call_id: Any = None
    annotations: Any = None
    name: Annotated[Any, AcceptOnly()] = None
    refusal: Annotated[Any, AcceptOnly()] = None
    audio: Annotated[Any, AcceptOnly()] = None
    function_call: Annotated[Any, AcceptOnly()] = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"a message of role {self.role} has tool_calls: only the assistant's")
        if self.content is None and not self.tool_calls:
            raise ValueError("a message has no content")
        return self

    @property
    def text(self) -> str:
        """What the model is shown: the content, and then the calls, each as a line of JSON."""
        calls = [call.function for call in self.tool_calls or ()]
        lines = [f'{{"name": {json.dumps(c.name)}, "arguments": {c.arguments}}}' for c in calls]
        return "\n".join([*([self.content] if self.content else []), *lines])


class StreamOptions(RequestModel):
    """What a stream has beside the text."""

    include_usage: bool | None = Field(
        default=None, description="A last chunk without choices has the numbers of tokens."
    )
    include_obfuscation: bool | None = Field(default=None, description="Read over.")


class AttributionOptions(RequestModel):
    """How statements get their citations."""

    enabled: bool = True
    source_type: SourceType = Field(default="sentence", description="What the context is cut into.")
    top_k: int = Field(
        default=DEFAULT_TOP_K,
        ge=1,
        le=MOST_CITED,
        description="The most sources that a statement may cite.",
    )
    min_share: MinShare = DEFAULT_MIN_SHARE
    method: ChatMethod | None = Field(
        default=None, description="By default as for /attribute; other methods are asked for there."
    )
    estimator: Text | None = Field(
        default=None, description="Name of a loaded estimator, see /info; by default the first."
    )
    support: bool = Field(
        default=False,
        description="Measure whether the context made the model say each statement: two passes "
        "over the model, when the response is there.",
    )
    citation_format: CitationFormat | None = Field(
        default=None, description="Annotations in Anthropic's or Cohere's shape."
    )
    source_messages: SourceMessages | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.support and self.citation_format is not None:
            raise ValueError(
                f"support has no place in {self.citation_format}'s citations: leave out one of "
                "support and citation_format"
            )
        return self


class ChatRequest(RequestModel):
    """What to answer, and how."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "messages": [{"role": "user", "content": EXAMPLE["query"]}],
                    "documents": [{"text": EXAMPLE["context"]}],
                }
            ]
        }
    )

    model: Text = Field(default="", description="The served model, see /v1/models, or empty.")
    messages: BoundedList[ChatMessage] = Field(
        min_length=1,
        description="The turns, oldest first; the last is the user's, or a tool's result.",
    )
    documents: BoundedList[_AnyDocument] | None = Field(
        default=None,
        min_length=1,
        description="What to answer from and to cite. Without them, earlier turns are cited.",
    )
    attribution: Annotated[AttributionOptions, OrFlag()] = Field(
        default=AttributionOptions(), description="How citations are found; `false` for none."
    )
    max_tokens: int | None = Field(
        default=None, ge=1, description="By default 256, or less if the model has no room for them."
    )
    max_completion_tokens: int | None = Field(
        default=None, ge=1, description="OpenAI's newer name of `max_tokens`."
    )
    temperature: float | None = Field(
        default=None,
        ge=0.0,
        le=5.0,
        allow_inf_nan=False,
        description="By default 0, which is greedy decoding; OpenAI's default is 1.",
    )
    top_p: float | None = Field(default=None, gt=0.0, le=1.0, allow_inf_nan=False)
    seed: int | None = Field(
        None, ge=0, lt=2**63, description="Makes sampling repeatable; ignored when greedy."
    )
    stop: Stop | None = None
    stream: bool | None = Field(default=None, description="Reply in chunks, as they are written.")
    stream_options: StreamOptions | None = None

    # read over: they change nothing in the reply
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Any = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    parallel_tool_calls: bool | None = None

    # refused, unless the value changes nothing
    n: Annotated[Any, AcceptOnly(1)] = None
    tools: Annotated[Any, AcceptOnly([])] = None
    tool_choice: Annotated[Any, AcceptOnly("none", "auto")] = None
    functions: Annotated[Any, AcceptOnly([])] = None
    function_call: Annotated[Any, AcceptOnly("none", "auto")] = None
    response_format: Annotated[Any, AcceptOnly({"type": "text"})] = None
    logprobs: Annotated[Any, AcceptOnly(False)] = None
    top_logprobs: Annotated[Any, AcceptOnly(0)] = None
    logit_bias: Annotated[Any, AcceptOnly({})] = None
    presence_penalty: Annotated[Any, AcceptOnly(0)] = None
    frequency_penalty: Annotated[Any, AcceptOnly(0)] = None
    modalities: Annotated[Any, AcceptOnly(["text"])] = None
    moderation: Annotated[Any, AcceptOnly()] = None
    audio: Annotated[Any, AcceptOnly()] = None
    prediction: Annotated[Any, AcceptOnly()] = None
    reasoning_effort: Annotated[Any, AcceptOnly("none")] = None
    verbosity: Annotated[Any, AcceptOnly("medium")] = None
    web_search_options: Annotated[Any, AcceptOnly()] = None

    @property
    def new_tokens(self) -> int | None:
        """The most tokens of the response, by either name."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @model_validator(mode="after")
    def _complete(self) -> Self:
        role = self.messages[-1].role
        if role not in ("user", "tool"):
            raise ValueError(f"the last message is of role {role}: it must be the user's")
        if role == "tool" and self.documents is not None:
            raise ValueError("with documents, the last message must be the user's")
        if not self.messages[-1].text.strip():
            raise ValueError("the last message is empty")
        both = None not in (self.max_tokens, self.max_completion_tokens)
        if both and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ: give one of them")
        options = self.attribution
        if options.source_messages == "tool" and all(m.role != "tool" for m in self.messages):
            raise ValueError("attribution.source_messages is tool, but no message is of that role")
        return self


class ReplyMessage(BaseModel):
    """The response."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    annotations: Annotations = Field(
        description="One for each statement, or what `citation_format` asks for."
    )


class Choice(BaseModel):
    """The one response there is."""

    index: Literal[0] = 0
    message: ReplyMessage
    logprobs: None = None
    finish_reason: FinishReason = Field(
        description="The response ended, or was cut off at its limit of tokens or of time."
    )


class ChatUsage(BaseModel):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatReply(BaseModel):
    """A completion. Its `id` is what /attribute and /generations take."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="Seconds since 1970.")
    model: str
    choices: list[Choice]
    usage: ChatUsage
    system_fingerprint: None = None
    attribution_error: ErrorBody | None = Field(
        default=None,
        description="Why the response has no annotations, where citing failed; else left out. In a "
        "stream, of the chunk with the `finish_reason`.",
    )


class Delta(BaseModel):
    """What a chunk adds to the message: some text, or the citations of a statement."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    annotations: Annotations | None = None


class ModelReply(BaseModel):
    """The model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When this server loaded it, in seconds since 1970.")
    owned_by: str


class ModelsReply(BaseModel):
    """The one model there is."""

    object: Literal["list"] = "list"
    data: list[ModelReply]
