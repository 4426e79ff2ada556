"""The README is true: its conversation and its Python run as shown, with the default model, and so
do the tutorial's, and the Python of the pages on the server and the library; every setting of the
server is in the table."""

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
TUTORIAL = (ROOT / "docs" / "tutorial-attribute.md").read_text(encoding="utf-8")
LIBRARY = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")


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


def _assert_part_of(shown: Any, real: Any) -> None:
    """All that is shown is there, but for ids; of a list some items may be left out."""
    if isinstance(shown, dict):
        for key in set(shown) - {"id"}:
            _assert_part_of(shown[key], real[key])
    elif isinstance(shown, list):
        for item in shown:
            place = item.get("index", shown.index(item))
            _assert_part_of(item, real[place])
    else:
        assert shown == real


def test_the_tutorials_requests_get_the_replies_shown(default_client: httpx.Client) -> None:
    commands = re.findall(r"```console\n\$ (curl.*?)\n```", TUTORIAL, flags=re.DOTALL)
    replies = re.findall(r"```json\n(.*?)\n```", TUTORIAL, flags=re.DOTALL)
    assert len(commands) == 2
    last_id = ""
    for command, shown in zip(commands, replies, strict=True):
        words = shlex.split(command)
        address = next(word for word in words if word.startswith("localhost:8000"))
        body = json.loads(words[words.index("-d") + 1].replace('"ID"', f'"{last_id}"'))
        response = default_client.post(address.removeprefix("localhost:8000"), json=body)
        assert response.status_code == 200, response.text
        _assert_part_of(json.loads(shown), response.json())
        last_id = response.json()["id"]
    quote = re.search(r'`"quote": "(\w+)"`', TUTORIAL)
    assert quote
    asked = default_client.post("/attribute", json={"id": last_id, "quote": quote[1]})
    assert asked.status_code == 200, asked.text


@pytest.mark.usefixtures("default_pair_by_name")
def test_the_tutorials_python_finds_the_sentence_shown(
    default_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    client, library = re.findall(r"```python\n(.*?)```", TUTORIAL, flags=re.DOTALL)
    assert "http://127.0.0.1:8000" in client
    exec(client.replace("http://127.0.0.1:8000", default_server), {})
    assert "] The reading room on the second floor now has sixty seats." in capsys.readouterr().out
    exec(library, {})
    first = capsys.readouterr().out.splitlines()[1]
    assert first.endswith("The reading room on the second floor now has sixty seats.")


@pytest.mark.usefixtures("default_pair_by_name")
def test_the_librarys_one_call_finds_the_sentence_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = re.findall(r"```python\n(.*?)```", LIBRARY, flags=re.DOTALL)[0]
    exec(code, {})
    assert capsys.readouterr().out == "The reading room has sixty seats.\n"


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
