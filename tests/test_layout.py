"""The house keeps its shape: imports go one way, and what is public is named."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import at2
import at2.methods
import at2.tasks

ROOT = Path(__file__).parents[1]
PACKAGES = ("at2", "service", "trainer_jobs")


def test_imports_go_one_way() -> None:
    # In a process of its own: it configures logging.
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    linted = subprocess.run(
        [sys.executable, "-c", command, "--no-cache", ROOT / "pyproject.toml"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.parametrize("module", [at2, at2.methods, at2.tasks])
def test_what_is_public_is_named_in_order(module: object) -> None:
    names: list[str] = module.__all__  # type: ignore[attr-defined]
    constants_first = sorted(names, key=lambda name: (not name.isupper(), name))
    assert [name for name in names if name != "__version__"] == [
        name for name in constants_first if name != "__version__"
    ]
    assert all(hasattr(module, name) for name in names)


def test_the_library_loads_what_models_need_when_it_is_used() -> None:
    code = (
        "import sys, at2\n"
        "assert not {'torch', 'transformers', 'sklearn'} & set(sys.modules)\n"
        "from at2.attribute import attribute\n"
        "assert at2.attribute is attribute and at2.methods.Attributor is at2.Attributor"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


DOORS = [
    *sorted((ROOT / "at2/attribution").glob("*.py")),
    *sorted((ROOT / "at2/tasks").glob("*_attribution.py")),
    ROOT / "at2/utils.py",
]


@pytest.mark.parametrize("path", DOORS, ids=lambda path: str(path.relative_to(ROOT)))
def test_import_paths_of_the_published_package_hold_no_code(path: Path) -> None:
    for statement in ast.parse(path.read_text()).body:
        assert isinstance(statement, ast.Expr | ast.Assign | ast.ImportFrom), statement.lineno
        if isinstance(statement, ast.ImportFrom):
            assert statement.module and statement.module.startswith("at2.")


def test_every_module_says_what_it_is() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            docstring = ast.get_docstring(ast.parse(path.read_text()))
            assert docstring or not path.read_text().strip(), path
