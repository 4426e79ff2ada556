"""The application around an engine: records that expire, and an engine that has died."""

import time
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.app import create_app
from service.engine import Engine
from service.settings import Settings
from tests.helpers.tiny import tiny_settings

BODY = {"context": "Charlotte Bennett lives in Lisbon.", "query": "Where does Charlotte live?"}


def test_what_has_expired_is_gone() -> None:
    with TestClient(create_app(Engine(Settings(**tiny_settings(), store_seconds=1)))) as client:
        generation = client.post("/generate", json=BODY).json()
        while time.time() <= generation["expires"]:
            time.sleep(0.05)
        assert client.get(f"/generations/{generation['id']}").status_code == 404
        assert client.post("/attribute", json={"id": generation["id"]}).status_code == 404


@pytest.mark.parametrize("store", ["none", "memory"])
def test_scores_are_prepared_of_what_is_kept_and_of_nothing_else(store: str) -> None:
    engine = Engine(Settings(**tiny_settings(), store=store))
    with TestClient(create_app(engine)) as client:
        kept = client.post("/generate", json=BODY).json()["expires"] is not None
        body = BODY | {"response": "Lisbon.", "method": "random"}
        while engine.load.preparing:
            client.post("/attribute", json=body)
        assert kept == (store == "memory") == (engine.load.score_bytes > 0)


@pytest.mark.parametrize("path", ["/health", "/ready", "/"])
def test_a_balancer_may_ask_without_a_body(client: httpx.Client, path: str) -> None:
    response = client.head(path)
    assert response.status_code == 200 and response.content == b""


@pytest.fixture()
def broken() -> Iterator[tuple[FastAPI, TestClient]]:
    """An application whose next step of generation fails for good, and a client of it."""
    engine = Engine(Settings(**tiny_settings()))
    app = create_app(engine)
    with TestClient(app) as client:
        generated = client.post("/generate", json=BODY)
        assert generated.status_code == 200

        def fail(*_: object) -> None:
            raise RuntimeError("the weights in /secret/place have melted")

        engine._writer._model.register_forward_pre_hook(fail)
        app.state.id = generated.json()["id"]
        yield app, client


@pytest.mark.parametrize("stream", [False, True])
def test_generation_gets_503_probes_fail_and_attribution_goes_on(
    broken: tuple[FastAPI, TestClient], stream: bool
) -> None:
    app, client = broken
    assert client.get("/ready").status_code == client.get("/health").status_code == 200
    first = client.post("/generate", json=BODY | {"stream": stream})
    if stream:
        events = first.text.removesuffix("\n\n").split("\n\n")
        error, end = (event for event in events if not event.startswith(":"))  # a comment
        assert '"code":"engine_down"' in error and end == "data: [DONE]"
    else:
        assert first.status_code == 503
        assert first.json()["error"]["code"] == "engine_down"
    assert "melted" not in first.text and "secret" not in first.text
    while not app.state.engine.dead:  # its supervisor looks ten times a second
        client.get("/ready")
    for path in ("/ready", "/health"):
        probed = client.get(path)
        assert probed.status_code == 503
        assert int(probed.headers["retry-after"]) >= 1
    assert client.post("/generate", json=BODY).status_code == 503
    assert client.post("/attribute", json={"id": app.state.id}).status_code == 200
    assert client.get("/metrics").text.count('code="engine_down"') >= 1
