"""Which estimator belongs to a model: those at hand, found by identity, and the published ones.

Nothing is fetched here. An estimator at hand says in its file which model it was trained for; a
published one says nothing, so a table names the models that it was published for.
"""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from at2.errors import EstimatorError, EstimatorMismatchError, InputError
from at2.estimator.identity import ModelIdentity
from at2.estimator.linear import PUBLISHED_FILE, SAFETENSORS_FILE, LinearScoreEstimator
from at2.files import Place, exists, folders_in

LOCAL_FOLDER = Path("estimators")
"""In the working directory: a folder of estimators, each a folder, as a trainer writes them."""

SHIPPED_FOLDER = Path(__file__).parents[1] / "estimators"
"""The estimators that come with this package."""

PUBLISHED: Mapping[str, str] = MappingProxyType(
    {
        model: f"madrylab/at2-{model.split('/')[1].lower()}"
        for model in (
            "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",  # attributes to thoughts
            "google/gemma-3-4b-it",
            "meta-llama/Llama-3.1-8B-Instruct",
            "microsoft/Phi-4-mini-instruct",
            "Qwen/Qwen2.5-7B-Instruct",
        )
    }
)
"""The estimators on the hub of the authors of AT2, by the model's name there."""


def published_estimator(model_name: str) -> str:
    """The hub's name of the published estimator for a model.

    Raises:
        InputError: none was published for it.
    """
    if model_name not in PUBLISHED:
        raise InputError(
            f"no estimator is published for {model_name!r}, only for: {', '.join(PUBLISHED)}",
            param="estimator",
        )
    return PUBLISHED[model_name]


def find_estimator(model: Any, tokenizer: Any) -> tuple[str, LinearScoreEstimator] | None:
    """The estimator at hand that was trained for a model, with the name of its folder.

    Those in `LOCAL_FOLDER` come before those in `SHIPPED_FOLDER`. A file that cannot be read is
    passed over with a warning.

    Raises:
        InputError: there are several in one folder, which the message names.
    """
    identity = ModelIdentity.of(model, tokenizer)
    for folder in (LOCAL_FOLDER, SHIPPED_FOLDER):
        found = list(_trained_for(folder, identity))
        if len(found) > 1:
            names = ", ".join(name for name, _ in found)
            raise InputError(
                f"several estimators in {folder.name!r} fit {identity.model!r}: {names}; "
                "say which by its path",
                param="estimator",
            )
        if found:
            return found[0]
    return None


def _trained_for(
    folder: Path, identity: ModelIdentity
) -> Iterator[tuple[str, LinearScoreEstimator]]:
    """The estimators of a folder that say that they were trained for a model."""
    for name, found in estimators_in(folder, identity):
        if isinstance(found, EstimatorMismatchError):
            continue
        if isinstance(found, EstimatorError):
            warnings.warn(f"estimator passed over: {found}", stacklevel=4)
        elif found.identity is not None:
            yield name, found


def estimators_in(
    folder: Place, identity: ModelIdentity
) -> Iterator[tuple[str, LinearScoreEstimator | EstimatorError]]:
    """Each estimator in a folder's folders by name, or why it cannot be used with a model. What is
    still being trained is left out.

    Raises:
        OSError: the folder cannot be read.
    """
    for place in folders_in(folder):
        if any(exists(place / file) for file in (SAFETENSORS_FILE, PUBLISHED_FILE)):
            try:
                estimator = LinearScoreEstimator.load(place)
                estimator.check_fits(identity)
            except EstimatorError as error:
                yield place.name, error
            else:
                yield place.name, estimator
