"""The house keeps its shape: imports go one way, and what is public is named."""

import ast
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

import at2
import at2.methods
import at2.tasks

ROOT = Path(__file__).parents[1]
PACKAGES = ("at2", "service", "trainer_jobs")


def test_imports_go_one_way(capsys: pytest.CaptureFixture[str]) -> None:
    status = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert status == 0, capsys.readouterr().out


@pytest.mark.parametrize("module", [at2, at2.methods, at2.tasks])
def test_what_is_public_is_named_in_order(module: object) -> None:
    names: list[str] = module.__all__  # type: ignore[attr-defined]
    constants_first = sorted(names, key=lambda name: (not name.isupper(), name))
    assert [name for name in names if name != "__version__"] == [
        name for name in constants_first if name != "__version__"
    ]
    assert all(hasattr(module, name) for name in names)


def test_every_module_says_what_it_is() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            docstring = ast.get_docstring(ast.parse(path.read_text()))
            assert docstring or not path.read_text().strip(), path
