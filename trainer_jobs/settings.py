"""Every setting of the jobs, in one table."""

import os
from collections.abc import Mapping
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from at2.model.default import NAME as DEFAULT_MODEL
from at2.settings import ProgramSettings, parse_pairs

SourceType = Literal["token", "word", "sentence", "paragraph", "document"]

_TEXTS = {"context": ("context", "query"), "thought": ("query",)}

_LISTS = ("exponents", "source_type", "methods", "evaluate_top_k", "evaluate_ablations")


class JobSettings(ProgramSettings):
    """Train a score estimator for a model from a data set.

    Whatever was stopped is started again in the same way: what is on disk and whole is kept.
    """

    model_config = SettingsConfigDict(env_prefix="AT2_JOBS_")
    presets = resources.files("trainer_jobs") / "configs"

    config: str | None = Field(
        default=None,
        description="File of settings (TOML), or the name of one that is in the package: "
        "`smollm2`, `phi4_mini_dolly`, `thought_attribution`.",
    )
    out: str = Field(
        min_length=1,
        description="Folder of all results, or its URL (`s3://bucket/run`); one folder is for one "
        "set of settings.",
    )

    model: str = Field(
        default=DEFAULT_MODEL,
        min_length=1,
        description="Hub name, folder or GGUF file of the model.",
    )
    revision: str | None = Field(
        default=None, description="Branch, tag or commit of a model on the hub."
    )
    device: str | None = Field(
        default=None, description="`cpu`, `cuda:0`, …; by default a GPU if there is one."
    )
    device_map: str | None = Field(
        default=None, description="`auto` spreads the model over all devices; needs accelerate."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Of the weights; `auto` is bfloat16 on a GPU, float32 on a CPU, and "
        "float16 with eight bits.",
    )
    quantization: Literal["4bit", "8bit"] | None = Field(
        default=None, description="Weights in fewer bits; needs accelerate and bitsandbytes."
    )
    attn_implementation: str | None = Field(
        default=None, description="Kernel for generation: `sdpa`, `eager`, `flash_attention_2`."
    )
    trust_remote_code: bool = Field(
        default=False, description="Run code that comes with the model's checkpoint."
    )

    dataset: str = Field(
        min_length=1,
        description="Hub name, a file (`.jsonl`, `.json`, `.csv`, `.tsv`, each also with `.gz`, "
        "`.bz2`, `.xz` or `.zip`; `.parquet`) or its URL, or a folder that `datasets` reads.",
    )
    encoding: str = Field(
        default="utf-8", min_length=1, description="Of text files: `latin-1`, `cp1252`, `utf-16`, …"
    )
    subset: str | None = Field(default=None, description="Configuration of a dataset on the hub.")
    split: str = Field(
        default="train",
        description="Split of a dataset on the hub or in a folder; `train[:100]` cuts one.",
    )
    dataset_revision: str | None = Field(
        default=None, description="Branch, tag or commit of a dataset on the hub."
    )
    task: Literal["context", "thought"] = Field(
        default="context",
        description="Attribute the response to its context, or to the thoughts before it.",
    )
    columns: Annotated[dict[str, str], NoDecode] = Field(
        default={},
        description="Columns that are called otherwise, as `query=instruction,context=text`. A "
        "context task reads `context` and `query`, a thought task `query`.",
    )
    where: Annotated[dict[str, tuple[str, ...]], NoDecode] = Field(
        default={},
        description="Keep rows whose column has one of some values, as `category=a|b,lang=en`.",
    )
    shorter_than: Annotated[dict[str, int], NoDecode] = Field(
        default={},
        description="Keep rows whose column has fewer characters, as `context=20000`.",
    )
    shuffle_seed: int | None = Field(
        default=None,
        ge=0,
        description="Shuffle the rows that are kept, as `datasets` does with this seed.",
    )
    join_contexts: int = Field(
        default=1,
        ge=1,
        description="The most contexts that one example joins: its own and neighbours in the data "
        "set, as many as are drawn. The same context in rows that follow each other counts once.",
    )
    other_queries: tuple[str, ...] = Field(
        default=(),
        description="Queries that take the place of some examples' own, such as a request for a "
        "summary.",
    )
    other_queries_share: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="The share of examples with one of `other_queries`.",
    )
    limit: int | None = Field(
        default=None,
        ge=1,
        description="Rows to train on, from the first; by default all that are not held out.",
    )
    held_out: int = Field(
        default=0,
        ge=0,
        description="Rows after these to report on and evaluate with, not trained on.",
    )
    bad_rows: Literal["stop", "skip"] = Field(
        default="stop",
        description="What to do at a row that cannot be used, which is named with its reason.",
    )

    source_type: Annotated[tuple[SourceType, ...], NoDecode] = Field(
        default=("token",),
        min_length=1,
        description="What is ablated in training; of several, separated by commas, one is drawn "
        "for each example.",
    )
    split_target_by: Literal["sentence", "paragraph", "word", "token", "response"] = Field(
        default="sentence", description="Parts of the response whose probability is predicted."
    )
    exponents: Annotated[
        tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], NoDecode
    ] = Field(
        default=(1.0,),
        min_length=1,
        description="Powers of attention that are features, separated by commas: `1` as "
        "published; `1,0.5` helps on some models, and other packages do not read it.",
    )
    contrast: bool = Field(
        default=False,
        description="Features are attention less that of the query; other packages do not read "
        "such an estimator.",
    )
    non_negative: bool = Field(default=False, description="Keep the weights at or above zero.")
    max_new_tokens: int | None = Field(
        default=None,
        ge=1,
        description="The most tokens of a response; by default 512, with thoughts 4096.",
    )
    generate_batch_size: int = Field(
        default=4, ge=1, description="Prompts that are generated for at once."
    )
    num_masks: int = Field(default=32, ge=2, le=1_000_000, description="Ablations per example.")
    token_budget: int | None = Field(
        default=None,
        ge=1,
        description="Tokens in one pass of ablations; by default what suits the device.",
    )
    shard_size: int = Field(
        default=16, ge=1, description="Examples a shard: what a killed job loses at most."
    )
    job_index: int | None = Field(
        default=None,
        ge=0,
        description="Which worker this is, from 0; by default as torchrun, accelerate, SLURM or "
        "Kubernetes says.",
    )
    num_jobs: int | None = Field(
        default=None,
        ge=1,
        description="How many workers share the work; by default as these say, or 1. With Ray: how "
        "many actors, by default as many as there is room for.",
    )
    engine: Literal["local", "ray"] = Field(
        default="local",
        description="Who does the shared work: this process, or actors of a Ray cluster.",
    )
    ray_address: str | None = Field(
        default=None,
        description="Of the Ray cluster; by default the one that RAY_ADDRESS names, or else a new "
        "one on this machine.",
    )

    save_name: str = Field(
        default="default",
        description="Name of the estimator: its folder is `estimators/NAME` in the folder of "
        "results.",
    )
    push_to_hub: str | None = Field(
        default=None,
        min_length=1,
        description="Repository on the hub, as `owner/name`, to which the estimator's folder is "
        "uploaded after training; made if need be.",
    )
    report_to: Literal["tensorboard"] | None = Field(
        default=None,
        description="Where losses, rates and held-out figures are shown meanwhile: `tensorboard` "
        "writes to the folder `tensorboard`.",
    )
    num_iterations: int = Field(default=1_000, ge=1, description="Steps of training.")
    learning_rate: float = Field(
        default=1e-3, gt=0, allow_inf_nan=False, description="Of the first step of training."
    )
    batch_size: int = Field(default=512, ge=1, description="Targets a step of training.")
    loss: Literal["pearson", "rank"] = Field(
        default="pearson",
        description="Correlation of predictions with what ablations do, as published, or with the "
        "ranks of it.",
    )
    max_grad_norm: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="Longer gradients are cut to this."
    )
    sampling_method: Literal["examples", "instances"] = Field(
        default="examples",
        description="A step draws examples and a target of each, or targets of all alike.",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="Of what training draws.")
    print_every: int = Field(default=100, ge=1, description="Steps between two lines of losses.")
    checkpoint_every: int = Field(default=100, ge=1, description="Steps between two checkpoints.")
    memory_limit_mb: int | None = Field(
        default=None,
        ge=0,
        description="Features are read from disk at each step if they need more memory, in MB; by "
        "default half of what is free.",
    )

    methods: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("at2", "average_attention", "lexical_overlap", "position", "random"),
        min_length=1,
        description="What is evaluated, separated by commas; the others are compared with the "
        "first. `docs/evaluation.md` lists all.",
    )
    evaluate_examples: int | None = Field(
        default=None, ge=1, description="Held-out examples to evaluate with; by default all."
    )
    evaluate_source_type: SourceType = Field(
        default="sentence", description="What is ablated in the evaluation."
    )
    evaluate_masks: int = Field(
        default=128, ge=2, le=1_000_000, description="Random ablations per example."
    )
    evaluate_top_k: Annotated[tuple[Annotated[int, Field(ge=1)], ...], NoDecode] = Field(
        default=(1, 3, 5),
        min_length=1,
        description="The k of drops, precision and recall, separated by commas.",
    )
    evaluate_ablations: Annotated[tuple[Literal["mask", "remove"], ...], NoDecode] = Field(
        default=("mask", "remove"),
        min_length=1,
        description="How sources are hidden: `mask`, `remove`, or both.",
    )

    @field_validator("out", "model", "dataset")
    @classmethod
    def _at_home(cls, value: str) -> str:
        return os.path.expanduser(value)

    @field_validator("columns", "shorter_than", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        return parse_pairs(value) if isinstance(value, str) else value

    @field_validator("where", mode="before")
    @classmethod
    def _choices(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {name: choices.split("|") for name, choices in parse_pairs(value).items()}
        if isinstance(value, Mapping):  # one value need not be a list
            return {name: [v] if isinstance(v, str) else v for name, v in value.items()}
        return value

    @field_validator(*_LISTS, mode="before")
    @classmethod
    def _items(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(item.strip() for item in value.split(",") if item.strip())
        return value

    @field_validator(*_LISTS)
    @classmethod
    def _different(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(value)) < len(value):
            raise ValueError("something is given twice")
        return value

    @model_validator(mode="after")
    def _columns_of_the_task(self) -> "JobSettings":
        allowed = _TEXTS[self.task]
        for name in self.columns:
            if name not in allowed:
                raise ValueError(
                    f"columns={name!r}: a {self.task} task reads {' and '.join(allowed)}"
                )
        if "context" not in allowed and self.join_contexts > 1:
            raise ValueError(f"join_contexts={self.join_contexts}: a {self.task} task has none")
        if "context" not in allowed and self.contrast:
            raise ValueError(f"contrast: no query stands behind the sources of a {self.task} task")
        return self

    @property
    def texts(self) -> dict[str, str]:
        """The column of each text that a task is made of."""
        return {name: self.columns.get(name, name) for name in _TEXTS[self.task]}
