"""The page on methods and evaluation is true: it names every method, and its Python runs."""

import re
from pathlib import Path

import pytest

from at2.methods import METHODS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "evaluation.md").read_text()


def test_the_table_names_every_method_with_its_passes() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .*? \| (.*?) \| (.*?) \|$", PAGE, flags=re.MULTILINE)
    assert [name for name, _, _ in rows] == list(METHODS)
    for name, forward, backward in rows:
        passes = METHODS[name].passes(1000)
        if forward.endswith(" a span"):
            shown = (0, int(forward.split()[0]), int(backward.split()[0]))
        else:
            shown = (1001 if forward == "*d* + 1" else int(forward), 0, int(backward))
        assert shown == (passes.forward, passes.forward_per_span, passes.backward_per_span)


@pytest.mark.default_model
@pytest.mark.usefixtures("default_pair_by_name")
def test_the_python_runs_as_shown(capsys: pytest.CaptureFixture[str]) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL))
    exec(code, {})
    printed = capsys.readouterr().out
    drops = re.findall(r"^([+-]\d+\.\d\d) nats without: (.*)$", printed, flags=re.MULTILINE)
    assert len(drops) == 2
    assert all(text in code for _, text in drops)
    assert "| context_cite_16 | 16.0 | 0.0 |" in printed
