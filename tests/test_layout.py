"""The house keeps its shape: imports go one way, and what is public is named."""

import ast
from pathlib import Path

import pytest

import at2
import at2.methods
import at2.tasks

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "at2": {"service", "trainer_jobs", "fastapi", "uvicorn"},
    "service": {"trainer_jobs"},
    "trainer_jobs": {"service", "fastapi", "uvicorn"},
}


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_go_one_way(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        assert not _imported(path) & FORBIDDEN[package], path


def test_routes_do_not_import_each_other() -> None:
    routes = list((ROOT / "service" / "routes").glob("*.py"))
    assert routes
    for path in routes:
        assert "service.routes" not in path.read_text(), path


@pytest.mark.parametrize("module", [at2, at2.methods, at2.tasks])
def test_what_is_public_is_named_in_order(module: object) -> None:
    names: list[str] = module.__all__  # type: ignore[attr-defined]
    constants_first = sorted(names, key=lambda name: (not name.isupper(), name))
    assert [name for name in names if name != "__version__"] == [
        name for name in constants_first if name != "__version__"
    ]
    assert all(hasattr(module, name) for name in names)


def test_every_module_says_what_it_is() -> None:
    for package in FORBIDDEN:
        for path in (ROOT / package).rglob("*.py"):
            docstring = ast.get_docstring(ast.parse(path.read_text()))
            assert docstring or not path.read_text().strip(), path
