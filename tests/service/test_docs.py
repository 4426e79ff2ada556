"""The documents of the server are true: their examples run, and their tables lack nothing."""

import json
import re
import shlex
from pathlib import Path

import httpx
import pytest

from docs.tables import FOLDER, TABLES, with_tables
from service import errors
from service.settings import Settings

ROOT = Path(__file__).parents[2]
SERVER = (ROOT / "docs" / "server.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def test_the_requests_shown_are_answered(client: httpx.Client) -> None:
    commands = re.findall(r"```console\n\$ (curl.*?)\n```", SERVER, flags=re.DOTALL)
    assert commands
    for command in commands:
        words = shlex.split(command)
        address = next(word for word in words if word.startswith("localhost:8000"))
        body = json.loads(words[words.index("-d") + 1])
        response = client.post(address.removeprefix("localhost:8000"), json=body)
        assert response.status_code == 200, response.text


def test_every_code_of_an_error_is_in_the_table() -> None:
    documented = dict(re.findall(r"^\| (\d{3}) \| (.*?) \|", SERVER, flags=re.MULTILINE))
    codes = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| \d{3} \|.*", SERVER, re.M))))
    for _, status, _, code in errors._FAILURES:
        assert str(status) in documented and code in codes
    written = set()
    for path in (ROOT / "service").rglob("*.py"):
        written |= set(re.findall(r'\bcode="(\w+)"', path.read_text()))
    assert written <= codes, written - codes


def test_every_setting_named_exists() -> None:
    known = {f"AT2_{name.upper()}" for name in Settings.model_fields}
    for text in (SERVER, OPERATIONS):
        assert set(re.findall(r"\bAT2_[A-Z_]+\b", text)) <= known
    limits = re.search(r"## Limits\n(.*?)\n## ", SERVER, flags=re.DOTALL)
    assert limits
    for name in ("MAX_DOCUMENTS", "MAX_SPANS", "MAX_PASSES", "MAX_REQUESTS", "REQUEST_SECONDS"):
        assert f"`AT2_{name}`" in limits[1]


@pytest.mark.parametrize("page", TABLES)
def test_tables_are_those_of_the_code(page: str) -> None:
    assert (FOLDER / page).read_text("utf-8") == with_tables(page)


def test_every_file_of_tests_named_exists() -> None:
    names = re.findall(r"`(test_\w+\.py)`", OPERATIONS)
    assert names
    assert all((ROOT / "tests" / "service" / name).is_file() for name in names)
