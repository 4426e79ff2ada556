"""What happens to a real server when the world is against it; docs/operations.md says the same."""

import json
import os
import resource
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.engine import Engine
from service.settings import Settings
from tests.helpers.replies import alike
from tests.helpers.servers import samples
from tests.helpers.tiny import NAME, tiny_server, tiny_settings

CONTEXT = (
    "Charlotte Bennett works for Halden Freight. Charlotte Bennett lives in Lisbon. "
    "Omar Whitfield plays the cello."
)
BODY = {"context": CONTEXT, "query": "Where does Charlotte Bennett live?"}
ENDLESS = {"temperature": 5.0, "seed": 1, "max_new_tokens": 1000}
_LIMIT_S = 120

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's process limits")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str, Path]]:
    """A server whose store was no database when it started: process, address, folder."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "store.sqlite").write_bytes(b"\x00\xffnot a database" * 1000)
    with tiny_server(AT2_STORE=str(folder / "store.sqlite")) as (process, address):
        yield process.pid, address, folder


@pytest.fixture(scope="module")
def storeless() -> Iterator[tuple[int, str]]:
    """A server that keeps nothing: process and address."""
    with tiny_server(AT2_STORE="none") as (process, address):
        yield process.pid, address


def _client(address: str) -> httpx.Client:
    return httpx.Client(base_url=address, timeout=_LIMIT_S)


def _generate(client: httpx.Client) -> dict[str, Any]:
    response = client.post("/generate", json=BODY)
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    return reply


def test_an_id_works_after_the_process_was_killed(tmp_path: Path) -> None:
    store = str(tmp_path / "store.sqlite")
    with tiny_server(AT2_STORE=store) as (process, address):
        with _client(address) as client:
            generation = _generate(client)
            attributed = client.post("/attribute", json={"id": generation["id"]}).json()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with tiny_server(AT2_STORE=store) as (_, address), _client(address) as client:
        assert client.get(f"/generations/{generation['id']}").json() == generation
        again = client.post("/attribute", json={"id": generation["id"]}).json()
        assert alike(again["attributions"], attributed["attributions"])
        assert client.delete(f"/generations/{generation['id']}").status_code == 204
        files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert b"Omar Whitfield" not in files


def test_a_corrupt_store_is_moved_aside_and_the_server_starts(
    stored: tuple[int, str, Path],
) -> None:
    _, address, folder = stored
    with _client(address) as client:
        generation = _generate(client)
        assert client.get(f"/generations/{generation['id']}").json() == generation
    (aside,) = (path for path in folder.iterdir() if ".damaged-" in path.name)
    assert aside.read_bytes().startswith(b"\x00\xffnot a database")


def _rewrite(folder: Path, generation_id: str, change: Callable[[str], str]) -> None:
    """Change a record behind the server's back."""
    with (
        closing(sqlite3.connect(folder / "store.sqlite", timeout=_LIMIT_S)) as connection,
        connection,
    ):
        query = "SELECT record FROM generations WHERE id = ?"
        ((record,),) = connection.execute(query, (generation_id,)).fetchall()
        connection.execute(
            "UPDATE generations SET record = ? WHERE id = ?",
            (change(record.decode()).encode(), generation_id),
        )


def test_what_another_model_wrote_is_not_attributed(stored: tuple[int, str, Path]) -> None:
    _, address, folder = stored
    with _client(address) as client:
        generation = _generate(client)
        path = f"/generations/{generation['id']}"

        def other(record: str) -> str:
            fields = json.loads(record)
            assert fields["model"].count("-") == 2
            return json.dumps(fields | {"model": "of-another-model"})

        _rewrite(folder, generation["id"], other)
        asked = {"id": generation["id"], "source_type": "word"}  # no scores of words are in memory
        for response in (
            client.get(path),
            client.get(f"{path}/export.html?source_type=word"),
            client.post("/attribute", json=asked),
        ):
            assert response.status_code == 409
            error = response.json()["error"]
            assert error["code"] == "other_model" and NAME in error["message"]
        assert client.get(f"{path}/prompt").json()["query"] == BODY["query"]
        assert client.delete(path).status_code == 204


def test_a_damaged_record_is_told_and_can_be_deleted(stored: tuple[int, str, Path]) -> None:
    _, address, folder = stored
    with _client(address) as client:
        generation = _generate(client)
        path = f"/generations/{generation['id']}"
        _rewrite(folder, generation["id"], lambda record: record[: len(record) // 2])
        response = client.get(path)
        assert response.status_code == 500 and "retry-after" not in response.headers
        assert response.json()["error"]["code"] == "damaged_record"
        assert client.delete(path).status_code == 204
        assert client.get(path).status_code == 404


@linux_only
def test_a_full_disk_costs_the_record_and_not_the_reply(stored: tuple[int, str, Path]) -> None:
    process_id, address, _ = stored
    with _client(address) as client:
        kept = _generate(client)
        assert kept["expires"] is not None
        _, hard = resource.prlimit(process_id, resource.RLIMIT_FSIZE)
        resource.prlimit(process_id, resource.RLIMIT_FSIZE, (1, hard))  # no file may grow
        lost = _generate(client)
        assert lost["expires"] is None
        assert lost["response"] == kept["response"]
        assert client.post("/attribute", json={"id": lost["id"]}).status_code == 404
        assert client.post("/attribute", json={"id": kept["id"]}).status_code == 200
        deletion = client.delete(f"/generations/{kept['id']}")
        assert deletion.status_code == 503
        assert deletion.json()["error"]["code"] == "store_unavailable"
        assert client.get("/ready").status_code == 200
        resource.prlimit(process_id, resource.RLIMIT_FSIZE, (hard, hard))
        assert _generate(client)["expires"] is not None
        assert client.delete(f"/generations/{kept['id']}").status_code == 204


def test_an_attribution_beyond_its_time_gets_504_and_the_next_one_its_reply() -> None:
    text = {"context": " ".join([CONTEXT] * 20), "query": "Who?", "response": CONTEXT}
    long = text | {"method": "leave_one_out", "source_type": "word"}  # hundreds of passes
    own = Settings(**tiny_settings(), request_seconds=0.5)
    with TestClient(create_app(Engine(own))) as client:
        late = client.post("/attribute", json=long)
        assert late.status_code == 504
        assert late.json()["error"]["code"] == "deadline_exceeded"
        short = text | {"method": "random"}
        for _ in range(_LIMIT_S):  # on a busy machine, it may be late itself
            if client.post("/attribute", json=short).status_code == 200:
                return
    pytest.fail("the server does not go on")


def test_nothing_is_kept_where_nothing_is_to_be(storeless: tuple[int, str]) -> None:
    with _client(storeless[1]) as client:
        generation = _generate(client)
        assert generation["expires"] is None
        assert client.get(f"/generations/{generation['id']}").status_code == 404
        assert client.post("/attribute", json={"id": generation["id"]}).status_code == 404
        assert client.get("/info").json()["store"] == {"kind": "none", "seconds": 0}


@pytest.mark.parametrize("stream", [False, True])
def test_citations_take_no_pass_where_nothing_is_kept(
    storeless: tuple[int, str], stream: bool
) -> None:
    question = {"role": "user", "content": BODY["query"]}
    body = {"messages": [question], "documents": [{"text": CONTEXT}], "stream": stream}
    with _client(storeless[1]) as client:
        passes = [samples(client.get("/metrics").text)["at2_scoring_passes_total", ()]]
        reply = client.post("/v1/chat/completions", json=body | {"max_tokens": 20})
        assert reply.status_code == 200 and "annotations" in reply.text, reply.text
        passes.append(samples(client.get("/metrics").text)["at2_scoring_passes_total", ()])
        assert passes[0] == passes[1]


@linux_only
def test_out_of_memory_is_told_and_the_server_goes_on(storeless: tuple[int, str]) -> None:
    # a layer's attention rows of the long response would take tens of megabytes
    long = {
        "context": "The cat sat. " * 10,
        "query": "What did the cat do?",
        "response": "The cat sat on the mat. " * 180,
    }
    process_id, address = storeless
    with _client(address) as client:
        before = _generate(client)["response"]
        short = long | {"response": "The cat sat.", "method": "random"}
        with ThreadPoolExecutor(8) as pool:  # all threads are there: a new one takes memory, too
            replies = pool.map(lambda _: client.post("/attribute", json=short), range(32))
            assert {reply.status_code for reply in replies} == {200}
        _, hard = resource.prlimit(process_id, resource.RLIMIT_AS)
        pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[0])
        now = pages * resource.getpagesize()
        resource.prlimit(process_id, resource.RLIMIT_AS, (now + 8 * 2**20, hard))
        refused = client.post("/attribute", json=long)
        assert refused.status_code == 507, refused.text
        assert refused.json()["error"]["code"] == "out_of_memory"
        resource.prlimit(process_id, resource.RLIMIT_AS, (hard, hard))
        assert client.post("/attribute", json=long).status_code == 200
        assert _generate(client)["response"] == before
        assert client.get("/ready").status_code == 200
