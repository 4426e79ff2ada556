"""The routes behind the page: its files, prompts, and the export."""

import html
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.page import assets

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "service" / "page"

BODY = {
    "documents": [
        {"id": "a", "title": "Staff", "text": "Omar Whitfield plays the cello. <b>Bold</b> & 👍."},
        {"text": "Charlotte Bennett lives in Lisbon."},
    ],
    "query": "Where does Charlotte Bennett live?",
    "messages": [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hi."}],
}


@pytest.fixture(scope="module")
def generation(server: str) -> Iterator[str]:
    """The id of a generation."""
    yield httpx.post(f"{server}/generate", json=BODY, timeout=60).json()["id"]


@pytest.mark.parametrize("path", ["/", *(f"/page/{name}" for name in sorted(assets()))])
def test_files_are_served_as_they_are_under_a_strict_policy(
    client: httpx.Client, path: str
) -> None:
    reply = client.get(path)
    name = path.removeprefix("/page/") if path != "/" else "index.html"
    assert reply.content == (FOLDER / name).read_bytes()
    policy = reply.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
    quoted = " ".join((ROOT / "docs/page.md").read_text("utf-8").split())
    assert f"```text {policy} ```" in quoted
    assert reply.headers["Cache-Control"] == "no-cache"
    again = client.get(path, headers={"If-None-Match": reply.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    changed = client.get(path, headers={"If-None-Match": '"other"'})
    assert changed.content == reply.content


def test_every_file_that_the_page_names_is_served() -> None:
    for name, asset in assets().items():
        text = asset.content.decode()
        for named in re.findall(r'(?:/page/|from "\./)([\w.]+)"', text):
            assert named in assets(), f"{name} names {named}"


def test_the_page_has_no_inline_script_or_style_and_parses_no_markup() -> None:
    page = assets()["index.html"].content.decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
    for name, asset in assets().items():
        if name.endswith(".js"):
            code = asset.content.decode()
            assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", code)


@pytest.mark.parametrize(
    "name", ["nothing.js", "__init__.py", "..%2f__init__.py", "..%2f..%2fsettings.py", ""]
)
def test_nothing_else_is_served(client: httpx.Client, name: str) -> None:
    reply = client.get(f"/page/{name}")
    assert reply.status_code == 404
    assert set(reply.json()) == {"error"}


def test_the_prompt_of_a_generation_is_what_was_sent(client: httpx.Client, generation: str) -> None:
    prompt = client.get(f"/generations/{generation}/prompt").json()
    assert prompt["query"] == BODY["query"]
    assert prompt["messages"] == BODY["messages"]
    assert prompt["documents"] == [
        {"id": None, "title": None} | document  # type: ignore[operator]
        for document in BODY["documents"]
    ]


def test_the_export_is_a_file_with_every_text_escaped(
    client: httpx.Client, generation: str
) -> None:
    reply = client.get(
        f"/generations/{generation}/export.html", params={"source_type": "word", "top_k": 3}
    )
    assert reply.headers["Content-Type"].startswith("text/html")
    assert reply.headers["Content-Disposition"] == f'attachment; filename="{generation}.html"'
    assert reply.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert "<b>" not in reply.text.partition("</head>")[2]
    shown = html.unescape(re.sub(r"</?(?:span|mark)[^>]*>", "", reply.text))
    assert "Omar Whitfield plays the cello. <b>Bold</b> & 👍." in shown
    assert '"ranked":3' in reply.text


@pytest.mark.parametrize("path", ["prompt", "export.html"])
def test_an_unknown_generation_is_said_to_be_unknown(client: httpx.Client, path: str) -> None:
    reply = client.get(f"/generations/gen-unknown/{path}")
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "unknown_id"


@pytest.mark.parametrize(
    ("params", "param"),
    [({"method": "magic"}, "method"), ({"top_k": 0}, "top_k"), ({"estimator": "no"}, "estimator")],
)
def test_a_wrong_choice_for_the_export_is_named(
    client: httpx.Client, generation: str, params: dict[str, str], param: str
) -> None:
    reply = client.get(f"/generations/{generation}/export.html", params=params)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param
