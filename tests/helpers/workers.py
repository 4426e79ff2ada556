"""How tests are dealt out to the workers of `pytest -n 2`.

xdist's own groups (`--dist loadgroup`) change the names of tests, which pytest 9.2 does not allow:
there tests are dealt out one by one, and each worker starts the servers of every file.
"""

import re
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

LONGEST = (
    "tests/trainer_jobs/test_engines.py",
    "tests/trainer_jobs/test_jobs.py",
    "tests/trainer_jobs/test_processes.py",
    "tests/service/test_written_scores.py",
    "tests/service/test_failures.py",
    "tests/service/test_load.py",
    "tests/service/test_page.py",
    "tests/service/test_page_visits.py",
    "tests/service/test_ops_contract.py",
    "tests/at2/test_trainer_crashes.py",
    "tests/service/test_hostile.py",
    "tests/service/test_replicas.py",
    "tests/trainer_jobs/test_deploy_scripts.py",
    "tests/at2/test_attention.py",
    "tests/at2/test_published.py",
)
"""Files that take half a minute and more."""

_ROOT = Path(__file__).parents[2]


def _of_default_model() -> frozenset[str]:
    """Files with tests of the default model."""
    files = (_ROOT / "tests").rglob("test_*.py")
    return frozenset(
        str(path.relative_to(_ROOT))
        for path in files
        if re.search(r"\bmark\.default_model\b", path.read_text(encoding="utf-8"))
    )


class ByFile(LoadScopeScheduling):
    """The tests of a file stay with one worker, so that its servers start once; so do all files of
    the default model. What takes longest begins first, so that the workers end together."""

    def __init__(self, config: pytest.Config, log: object) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)
        self._default_model = _of_default_model()

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "default model" if file in self._default_model else file


def sort(items: list[pytest.Item]) -> None:
    """Put the tests first that take longest."""
    order = {file: place for place, file in enumerate((*sorted(_of_default_model()), *LONGEST))}
    items.sort(key=lambda item: order.get(item.nodeid.partition("::")[0], len(order)))
