"""From strings to a result in one call."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from at2.errors import InputError
from at2.estimator.known import find_estimator, published_estimator
from at2.estimator.linear import LinearScoreEstimator, load_estimator
from at2.methods import DEFAULT_MIN_SHARE, FusionAttributor, HopsAttributor, method_named
from at2.model import default
from at2.model.recent import recent_model
from at2.result import AttributionResult, Spans
from at2.tasks import (
    DEFAULT_GENERATE_KWARGS,
    DEFAULT_SOURCE_TYPE,
    DocumentLike,
    DocumentsContextAttributionTask,
)
from at2.tasks.spans import is_document

Model = str | Path | tuple[Any, Any]
"""A model's name or place, or a loaded model and its tokenizer."""


def attribute(
    context: DocumentLike | Sequence[DocumentLike],
    query: str,
    response: str | None = None,
    *,
    model: Model | None = None,
    estimator: str | Path | LinearScoreEstimator | None = None,
    spans: Spans = None,
    method: str | None = None,
    hops: int = 0,
    retrieval_scores: Sequence[float] | None = None,
    source_type: str = DEFAULT_SOURCE_TYPE,
    min_share: float = DEFAULT_MIN_SHARE,
    generate_kwargs: Mapping[str, Any] = DEFAULT_GENERATE_KWARGS,
) -> AttributionResult:
    """Find the parts of a context that a model's response to a query rests on.

    `at2.attribute(text, "When?", spans="in April")[0].sources[0].source.text`

    Args:
        context: a document, or a sequence of them: texts, or mappings or objects with `text` and,
            if they have them, `title` and `id`.
        query: what is asked about it.
        response: written elsewhere; by default the model writes one, greedily.
        model: by default SmolLM2-135M-Instruct, which comes as a Python package. The two models
            that were named last stay loaded in the process (`at2.model.recent.forget_models`).
        estimator: a score estimator, its file, folder or name on the hub, or "published" for the
            one on the hub by the authors of AT2. By default one that says it was trained for this
            model: in the folder `estimators` of the working directory, or else in this package.
        spans: what to attribute: the whole response (None), "sentence" for each statement, a text
            that the response says once, characters `(start, end)`, or a list of texts and ranges.
        method: a method's name; by default "at2" where there is an estimator, else
            "contrastive_attention", which needs none.
        hops: over how many statements before a span scores are carried on to the context behind
            them, see `HopsAttributor`; for methods that weigh attention.
        retrieval_scores: what a retriever or reranker gave each document, or each source, for
            method "fusion", which then is the default; see `FusionAttributor`.
        source_type: what the context is cut into: `document`, `paragraph`, `sentence`, `word` or
            `token`.
        min_share: the share of a span's positive scores from which on a source is cited.
        generate_kwargs: arguments of `model.generate` where a response is written.

    Raises:
        SpanError: a span is outside the response, or not said, or said several times.
        InputError: another argument is wrong; the message names it.
        ModelError: the model cannot be loaded.
        EstimatorError: the estimator cannot be used, or was trained for another model.
    """
    if retrieval_scores is not None:
        method = method or "fusion"
        if method != "fusion":
            raise InputError(f"method {method} takes no retrieval scores", param="retrieval_scores")
    loaded, tokenizer = _loaded(model)
    documents: Any = [context] if is_document(context) else context
    task = DocumentsContextAttributionTask(
        documents, query, loaded, tokenizer, generate_kwargs, source_type=source_type
    )
    if method is not None and not method_named(method).needs_estimator:
        if estimator is not None:
            raise InputError(f"method {method} takes no estimator", param="estimator")
        name, weights = None, None
    else:
        name, weights = _estimator(estimator, loaded, tokenizer)
    if response is not None:
        task.set_generation(response)
    chosen = method or ("contrastive_attention" if weights is None else "at2")
    attributor = method_named(chosen).build(task, weights)
    if isinstance(attributor, FusionAttributor):
        attributor.use_retrieval_scores(retrieval_scores)
    if hops:
        attributor = HopsAttributor(attributor, hops)
    return AttributionResult.of(
        attributor, spans, min_share=min_share, method=chosen, estimator=name
    )


def _loaded(model: Model | None) -> tuple[Any, Any]:
    if isinstance(model, tuple):
        if len(model) != 2:
            raise InputError(
                f"model is a tuple of {len(model)}, not (model, tokenizer)", param="model"
            )
        return model
    return recent_model(default.NAME if model is None else str(model))


def _estimator(
    given: str | Path | LinearScoreEstimator | None, model: Any, tokenizer: Any
) -> tuple[str | None, LinearScoreEstimator | None]:
    """The estimator to use, and its name."""
    if given is None:
        return find_estimator(model, tokenizer) or (None, None)
    if isinstance(given, LinearScoreEstimator):
        return (given.identity or {}).get("model"), given
    if given == "published":
        given = published_estimator(str(model.name_or_path))
    place = Path(given)  # a result says which it was, and not where: it may be shown to others
    local = isinstance(given, Path) or place.expanduser().exists()
    return place.name if local else str(given), load_estimator(given)
