"""Every public name of the library says what it is: modules, classes, functions, constants.

Reads the sources and imports nothing. Public is what has no underscore, in a module that has none.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "at2"
MODULES = sorted(
    path
    for path in ROOT.rglob("*.py")
    if not path.name.startswith("_") or path.name == "__init__.py"
)
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public_definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """Classes and functions, and those in public classes, with their dotted names."""
    for node in body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body, f"{prefix}{node.name}.")


def public_constants(body: list[ast.stmt]) -> Iterator[tuple[str, bool]]:
    """Names in capitals, and whether a string follows that says what they are."""
    for node, after in zip(body, [*body[1:], None], strict=True):
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        for target in targets:
            if isinstance(target, ast.Name) and target.id.isupper() and target.id[0] != "_":
                described = (
                    isinstance(after, ast.Expr)
                    and isinstance(after.value, ast.Constant)
                    and isinstance(after.value.value, str)
                )
                yield target.id, described


def has_no_body(node: Definition) -> bool:
    """Whether a function has no body of its own: the class says what it is for."""
    return (
        not isinstance(node, ast.ClassDef)
        and len(node.body) == 1
        and isinstance(node.body[0], ast.Expr)
        and isinstance(node.body[0].value, ast.Constant)
        and node.body[0].value.value is ...
    )


def names_of(path: Path) -> list[str]:
    """The public names of a module that say nothing."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    silent = [
        name
        for name, node in public_definitions(tree.body)
        if not ast.get_docstring(node) and not has_no_body(node)
    ]
    return silent + [name for name, described in public_constants(tree.body) if not described]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_public_name_is_documented(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert names_of(path) == []


def test_a_name_that_says_nothing_is_found(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "A = 1\nB = 2\n'''Two.'''\n_C = 3\n\n"
        "def f(): pass\ndef g():\n    '''G.'''\ndef _h(): pass\n\n"
        "class K:\n    '''K.'''\n    def m(self): pass\n    def _n(self): pass\n"
    )
    assert names_of(path) == ["f", "K.m", "A"]
