"""Every setting of the server, in one table."""

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from at2.model.default import NAME as DEFAULT_MODEL
from at2.settings import ProgramSettings, parse_pairs
from service.field_types import fits_header

USUAL_SECONDS = 120.0
"""What a request may take where `request_seconds` does not say."""

_DAY = 86_400
_CENTURY = 100 * 365 * _DAY
"""Seconds; what is longer is no limit, and too long for the clocks of some libraries."""


_Seconds = Annotated[float, Field(gt=0, le=_DAY, allow_inf_nan=False)]


class Settings(ProgramSettings):
    """Serve a language model that says which parts of the context it used.

    Without any setting, the default model is served to this machine at http://127.0.0.1:8000.
    """

    model_config = SettingsConfigDict(env_prefix="AT2_")
    named_by_variable = True
    secret = frozenset({"api_keys", "generator", "generator_key", "store"})
    foreign: ClassVar = {
        "AT2_JOBS_": "belongs to the jobs",
        "AT2_API_KEY": "is the key that `at2 ask` sends; the server's keys are AT2_API_KEYS",
        "AT2_URL": "is where `at2 ask` finds a server; this one listens on AT2_HOST and AT2_PORT",
        "AT2_PUBLISHED_PORT": "belongs to docker-compose.yml",
    }

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(
        default=8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one."
    )
    model: str = Field(
        default=DEFAULT_MODEL,
        description="Hub name or folder of the model, or a GGUF file: its path, or "
        "`owner/repository/file.gguf` on the hub.",
    )
    revision: str | None = Field(
        default=None, description="Branch, tag or commit of a model on the hub."
    )
    estimator: str | None = Field(
        default=None,
        description="Hub name, folder or file of the score estimator; the default model has its "
        "own. Without one, method `at2` is not available.",
    )
    estimators: Annotated[dict[str, str] | None, NoDecode] = Field(
        default=None,
        description="Further score estimators by name, as `name=place,name=place` or a JSON "
        "object; requests choose one by `estimator`.",
    )
    estimators_folder: str | None = Field(
        default=None,
        min_length=1,
        description="Folder of estimators, such as `OUT/estimators` of training jobs, or its URL: "
        "each that is finished and fits the model is loaded, by its folder's name.",
    )
    device: str | None = Field(
        default=None, description="`cpu`, `cuda:0`, …; by default a GPU if there is one."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Of the weights; `auto` is bfloat16 on a GPU and float32 on a CPU.",
    )
    max_new_tokens: int = Field(
        default=1024, ge=1, description="The most tokens that one request may generate."
    )
    max_context_tokens: int | None = Field(
        default=None,
        ge=8,  # in fewer no prompt fits, nor the pass by which the speed is measured
        description="The most tokens of prompt and response, whatever the model's configuration "
        "says; by default what that names.",
    )
    max_documents: int = Field(
        default=1000, ge=1, le=10_000, description="The most documents in one request."
    )
    max_spans: int = Field(
        default=256,
        ge=1,
        le=10_000,
        description="The most spans that one request may have attributed.",
    )
    max_passes: int = Field(
        default=1024,
        ge=1,
        description="The most passes over the model that one attribution may take.",
    )
    max_requests: int = Field(
        default=64,
        ge=1,
        description="Generations and attributions running or waiting; further ones get 429.",
    )
    max_requests_per_key: int | None = Field(
        default=None,
        ge=1,
        description="How many of them one key may have; by default three quarters.",
    )
    max_long_attributions: int | None = Field(
        default=None,
        ge=1,
        description="How many of them may be attributions of 16 passes or more (leave-one-out, "
        "ContextCite, `verify`), half of them of one key; by default a quarter.",
    )
    request_seconds: _Seconds | None = Field(
        default=None,
        description="A generation that takes longer ends there, an attribution gets 504; by "
        "default 120, or four times what its tokens or its passes over the model take here, if "
        "that is more.",
    )
    cache_tokens: int | None = Field(
        default=None,
        ge=64,
        le=2**31,
        description="Tokens that all running generations share in the key-value cache; by default "
        "8192 on a CPU and 65536 on a GPU.",
    )
    share_prefixes: bool = Field(
        default=True,
        description="Prompts of one key that begin alike are read once, as far as they are still "
        "in the key-value cache; without keys, all callers are one.",
    )
    score_cache_mb: int = Field(
        default=256,
        ge=0,
        description="Memory for scores of finished attributions, in MB; they are recomputed when "
        "they have gone.",
    )
    prepare: bool = Field(
        default=True,
        description="Where scores take a pass (see `/info`), compute those of a generation as soon "
        "as it ends, not when first asked.",
    )
    generator: str | None = Field(
        default=None,
        description="Address of an OpenAI-compatible server that writes the responses, as "
        "`http://HOST:PORT/v1`; they are attributed here, on the same weights.",
    )
    generator_key: SecretStr | None = Field(
        default=None,
        description="Key for that server; as a flag, everybody on the machine can read it.",
    )
    generator_model: str | None = Field(
        default=None, description="What that server calls the model; by default `model`."
    )
    store: str = Field(
        default="memory",
        min_length=1,
        description="Where generations are kept: `memory`, `none`, a file (SQLite), which outlives "
        "the process, or the address of a Redis server that replicas share "
        "(`redis://:PASSWORD@HOST:6379/0`, `rediss://` with TLS, `unix://`), with their scores.",
    )
    store_seconds: int = Field(
        default=_DAY, ge=1, le=_CENTURY, description="How long a generation is kept."
    )
    store_mb: int = Field(
        default=1024,
        ge=1,
        description="Size of all that is kept, in MB; the oldest go first. Redis has a limit of "
        "its own, `maxmemory`.",
    )
    max_records: int = Field(
        default=100_000,
        ge=1,
        description="Generations kept; the oldest go first. Not for Redis.",
    )
    api_keys: SecretStr | None = Field(
        default=None,
        description="Keys that callers may use, separated by commas; as a flag, everybody on the "
        "machine can read them.",
    )
    api_keys_file: Path | None = Field(
        default=None,
        description="File of such keys, one a line; lines from `#` on are comments. It is read "
        "again when it changes.",
    )
    allow_no_key: bool = Field(
        default=False,
        description="Listen on other addresses than this machine's own although no key is set.",
    )
    trusted_hosts: str | None = Field(
        default=None,
        description="Names by which the server is called beside its own addresses, separated by "
        "commas; `*.example.org` and `*` are taken. With keys, any name is, unless this is set.",
    )
    cors_origins: str | None = Field(
        default=None,
        description="Origins whose pages may call from a browser, separated by commas, or `*`.",
    )
    max_body_bytes: int = Field(
        default=4_194_304, ge=1024, description="The largest request body; a larger one gets 413."
    )
    max_connections: int = Field(
        default=1024,
        ge=1,
        le=65_536,
        description="Connections at once; beyond, and beyond half of the files that the process "
        "may open, those that have sent no whole request are closed.",
    )
    header_seconds: _Seconds = Field(
        default=10.0,
        description="How long a client may take to send a request's headers, or stand still in "
        "the middle of its body.",
    )
    write_seconds: _Seconds = Field(
        default=30.0,
        description="A client that has read less than a kilobyte a second for so long is cut off.",
    )
    shutdown_seconds: float = Field(
        default=30.0,
        ge=0,
        le=_DAY,
        allow_inf_nan=False,
        description="How long running requests may take to finish when the server stops.",
    )
    open_metrics: bool = Field(
        default=False, description="Serve `/metrics` without a key although keys are set."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto",
        description="`json`, `text`, or by default text at a terminal and JSON elsewhere.",
    )
    log_text: bool = Field(
        default=False, description="Log what users wrote: queries, responses, error messages."
    )
    log_level: Literal["critical", "error", "warning", "info", "debug"] = Field(
        default="info", description="Verbosity of the log."
    )

    @field_validator("generator")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        """An address, without a slash at its end."""
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("not an address that begins with http:// or https://")
        if not value.isprintable() or " " in value:
            raise ValueError("an address has no white space")
        parts.port  # noqa: B018 (raises where it is no number, or none of a port)
        if "@" in parts.netloc or "?" in value or "#" in value:
            raise ValueError("an address has no key or query; AT2_GENERATOR_KEY is the key")
        return value.rstrip("/")

    @field_validator("generator_key")
    @classmethod
    def _printable(cls, value: SecretStr | None) -> SecretStr | None:
        """A key that can be sent."""
        key = "" if value is None else value.get_secret_value()
        if not fits_header(key):
            raise ValueError(
                "the key has white space around it, or a character that is not printable ASCII"
            )
        return value

    @field_validator("estimators", mode="before")
    @classmethod
    def _named_places(cls, value: Any) -> Any:
        """Both spellings of a table of names and places."""
        if not isinstance(value, str):
            return value
        if not value.strip():
            return None
        if value.lstrip().startswith("{"):
            try:
                return json.loads(value)
            except ValueError as error:
                raise ValueError("not a JSON object") from error
        return parse_pairs(value)
