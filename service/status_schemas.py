"""What the server says of itself: replies of `/info`, `/health` and `/ready`."""

from typing import Any, Literal

from pydantic import BaseModel, Field


class EstimatorInfo(BaseModel):
    """A loaded estimator."""

    name: str
    num_layers: int
    num_heads: int
    exponents: list[float] = Field(description="Powers of attention that have weights.")
    metadata: dict[str, Any]


class Limits(BaseModel):
    """What one request may ask for, and what all may together."""

    max_context_tokens: int = Field(description="Tokens of prompt and response.")
    max_new_tokens: int
    max_documents: int
    max_spans: int
    max_passes: int = Field(description="Passes over the model for one attribution.")
    max_requests: int = Field(description="Requests in progress at once.")
    max_requests_per_key: int
    max_long_attributions: int = Field(
        description="Attributions of 16 passes or more in progress at once; half as many of a key."
    )
    request_seconds: float = Field(
        description="More where its tokens or its passes over the model take longer, unless the "
        "server sets a limit."
    )


class StoreInfo(BaseModel):
    """How generations are kept."""

    kind: Literal["memory", "none", "file", "redis"]
    seconds: int = Field(description="For how long, at the most.")


class GenerationInfo(BaseModel):
    """How responses are generated."""

    batched: bool = Field(description="Many at a time, or one after the other.")
    reason: str | None = Field(description="Why one after the other; null if many at a time.")
    server: str | None = Field(
        description="The address of the server that writes them; null if they are written here."
    )


class ScoringInfo(BaseModel):
    """How responses that are written here get the scores of methods that weigh attention."""

    as_written: bool = Field(
        description="Taken while a response is written, so that attributing it by id takes no "
        "pass over the model; or else by one pass afterwards."
    )
    reason: str = Field(description="Why, and how exactly the two agree.")


class SupportInfo(BaseModel):
    """What `support` says about this model."""

    supported: float = Field(description="From here on a text is supported, in nats a token.")
    from_memory: float = Field(description="Below this it is from memory; between, it is weak.")
    measured: dict[str, Any] = Field(
        description="Verdicts on held-out answers of known origin, with 95 % intervals."
    )


class InfoReply(BaseModel):
    """What serves here, and within which limits."""

    version: str
    model: str
    revision: str | None
    device: str
    dtype: str
    parameters: int
    max_context_tokens: int
    max_new_tokens: int
    limits: Limits
    generation: GenerationInfo
    store: StoreInfo
    methods: list[str]
    default_method: str
    source_types: list[str]
    estimators: list[EstimatorInfo]
    scoring: ScoringInfo
    support: SupportInfo | None = Field(
        description="Null where verdicts are not calibrated for the model."
    )


class StatusReply(BaseModel):
    """Whether the server is well."""

    status: Literal["ok"]
