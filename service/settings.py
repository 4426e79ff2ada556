"""Every setting of the server, in one table. Each is an environment variable: `AT2_` + the name."""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from at2 import bundled


class Settings(BaseSettings):
    """Settings with their defaults; `README.md` lists them, and a test compares the two."""

    model_config = SettingsConfigDict(env_prefix="AT2_", extra="ignore", frozen=True)

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(
        default=8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one."
    )
    model: str = Field(
        default=bundled.NAME, description="Hub name or folder of the model, or `bundled`."
    )
    revision: str | None = Field(
        default=None, description="Branch, tag or commit of a model on the hub."
    )
    estimator: str | None = Field(
        default=None,
        description="Hub name, folder or file of the score estimator; needed for any model but "
        "the bundled one, unless only other methods are used.",
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
    max_records: int = Field(
        default=1000,
        ge=1,
        description="Generations kept for later attribution; the oldest go first.",
    )
    log_level: Literal["critical", "error", "warning", "info", "debug"] = Field(
        default="info", description="Verbosity of the log."
    )
