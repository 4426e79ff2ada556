"""The README is true: its conversation and its Python run as shown, with the default model, and so
does the Python of the server's page; every setting of the server is in the table."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.settings import Settings

pytestmark = pytest.mark.default_model

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _requests() -> list[tuple[str, Any]]:
    """(curl command, reply) of every such block."""
    blocks = re.findall(r"```console\n\$ (curl.*?)\n(\{.*?)\n```", README, flags=re.DOTALL)
    return [(command, json.loads(reply)) for command, reply in blocks]


def _assert_alike(shown: Any, real: Any) -> None:
    """Equal but for ids, times and the last digits of scores."""
    if isinstance(shown, dict):
        assert set(shown) == set(real)
        for key in set(shown) - {"id", "created", "expires"}:
            _assert_alike(shown[key], real[key])
    elif isinstance(shown, list):
        assert len(shown) == len(real)
        for one, other in zip(shown, real, strict=True):
            _assert_alike(one, other)
    elif isinstance(shown, float):
        assert real == pytest.approx(shown, abs=2e-4)
    else:
        assert shown == real


def test_the_conversation_gets_the_replies_shown(default_client: httpx.Client) -> None:
    requests = _requests()
    assert len(requests) >= 2
    last_id = ""
    for command, shown in requests:
        words = shlex.split(command)
        address = next(word for word in words if word.startswith("localhost:8000"))
        body = json.loads(words[words.index("-d") + 1])
        if "id" in body:
            body["id"] = last_id
        response = default_client.post(address.removeprefix("localhost:8000"), json=body)
        assert response.status_code == 200, response.text
        _assert_alike(shown, response.json())
        last_id = response.json()["id"] or last_id


def test_every_setting_is_in_the_table_with_its_default() -> None:
    pages = [README, *(path.read_text(encoding="utf-8") for path in ROOT.glob("docs/**/*.md"))]
    (page,) = (page for page in pages if "| `AT2_HOST` |" in page)
    rows = dict(re.findall(r"^\| `AT2_(\w+)` \| (.*?) \|", page, flags=re.MULTILINE))
    fields = Settings.model_fields
    assert {name.lower() for name in rows} == set(fields)
    for name, shown in rows.items():
        default = fields[name.lower()].default
        assert shown == ("" if default is None else f"`{default}`")


@pytest.mark.usefixtures("default_pair_by_name")
def test_the_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    exec("\n".join(blocks), {})
    assert "£1,284" in capsys.readouterr().out


def test_the_python_of_the_servers_page_runs(
    default_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "server.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert "http://127.0.0.1:8000" in code
    exec(code.replace("http://127.0.0.1:8000", default_server), {})
    printed = capsys.readouterr().out.strip()
    assert printed and printed in code  # the source is a sentence of the text that was sent
