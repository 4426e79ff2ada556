"""The run that tests of training share."""

from typing import Any

import pytest

from at2 import AT2Trainer
from tests.helpers.training import make_model, make_trainer, run_stages


@pytest.fixture(scope="module")
def model() -> Any:
    """See `make_model`; other tests have models of their own."""
    return make_model()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, model: Any) -> AT2Trainer:
    """A run whose features are done. Each example has as many targets as its response tokens."""
    return run_stages(make_trainer(tmp_path_factory.mktemp("trained"), model))
