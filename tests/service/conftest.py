"""The server that tests of the clients tell what to say."""

import json
from collections.abc import Callable, Iterator

import pytest
from fastapi import FastAPI, Request, Response

from service.lifecycle import Lifecycle
from tests.helpers.client_script import (
    Both,
    Script,
)
from tests.helpers.servers import serving, settings


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
