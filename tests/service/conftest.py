"""The server that tests of the clients tell what to say, and the browser of tests of the page."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI, Request, Response
from playwright.sync_api import Browser, Page, expect

from service.lifecycle import Lifecycle
from tests.helpers import browser as browsers
from tests.helpers.client_script import (
    Both,
    Script,
)
from tests.helpers.page_visits import DESK
from tests.helpers.servers import serving, settings
from tests.helpers.tiny import tiny_server


@pytest.fixture(scope="module")
def scripted() -> Iterator[Script]:
    script = Script()
    app = FastAPI()

    @app.api_route("/{path:path}", methods=["GET", "POST", "DELETE"])
    async def anything(path: str, request: Request) -> Response:
        body = await request.body()
        raw_path = request.scope["raw_path"].decode()
        headers = dict(request.headers)
        script.asked.append((request.method, raw_path, json.loads(body or "null"), headers))
        return script.replies.pop(0)()

    with serving(app, settings(), Lifecycle()) as (address, _):
        script.address = address
        yield script


@pytest.fixture()
def script(scripted: Script) -> Script:
    scripted.replies.clear()
    scripted.asked.clear()
    return scripted


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def make_both(request: pytest.FixtureRequest, script: Script) -> Callable[..., Both]:
    return lambda **arguments: Both(request.param, **({"address": script.address} | arguments))


@pytest.fixture()
def both(make_both: Callable[..., Both]) -> Both:
    return make_both()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsers.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def records_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records") / "records.db"


@pytest.fixture(scope="module")
def address(records_file: Path) -> Iterator[str]:
    with tiny_server(AT2_STORE=str(records_file)) as (_, address):
        yield address


@pytest.fixture(scope="module")
def blank(browser: Browser, address: str) -> Iterator[Page]:
    """A page that only lends its scripts."""
    with browsers.visit(browser, address) as page:
        expect(page.locator(".chip").first).to_be_visible()
        yield page


@pytest.fixture()
def page(browser: Browser, address: str) -> Iterator[Page]:
    with browsers.visit(browser, address, **DESK) as page:
        yield page
