"""What happens to a real server when the world is against it; docs/operations.md says the same."""

import os
import resource
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.conftest import running_server, start_server

CONTEXT = (
    "Charlotte Bennett works for Halden Freight. Charlotte Bennett lives in Lisbon. "
    "Omar Whitfield plays the cello."
)
BODY = {"context": CONTEXT, "query": "Where does Charlotte Bennett live?"}
ENDLESS = {"temperature": 5.0, "seed": 1, "max_new_tokens": 1000}
SLOTS = 4
_LIMIT_S = 120

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's process limits")


def _client(address: str) -> httpx.Client:
    return httpx.Client(base_url=address, timeout=_LIMIT_S)


def _generate(client: httpx.Client) -> dict[str, Any]:
    response = client.post("/generate", json=BODY)
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    return reply


def test_an_id_works_after_the_process_was_killed(tmp_path: Path) -> None:
    store = str(tmp_path / "store.sqlite")
    with running_server(AT2_STORE=store) as (process, address):
        with _client(address) as client:
            generation = _generate(client)
            attributed = client.post("/attribute", json={"id": generation["id"]}).json()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with running_server(AT2_STORE=store) as (_, address), _client(address) as client:
        assert client.get(f"/generations/{generation['id']}").json() == generation
        again = client.post("/attribute", json={"id": generation["id"]}).json()
        assert again["attributions"] == attributed["attributions"]
        assert client.delete(f"/generations/{generation['id']}").status_code == 204
        files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert b"Omar Whitfield" not in files


@linux_only
def test_a_full_disk_costs_the_record_and_not_the_reply(tmp_path: Path) -> None:
    with (
        running_server(AT2_STORE=str(tmp_path / "store.sqlite")) as (process, address),
        _client(address) as client,
    ):
        kept = _generate(client)
        assert kept["expires"] is not None
        _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, hard))  # no file may grow
        lost = _generate(client)
        assert lost["expires"] is None
        assert lost["response"] == kept["response"]
        assert client.post("/attribute", json={"id": lost["id"]}).status_code == 404
        assert client.post("/attribute", json={"id": kept["id"]}).status_code == 200
        deletion = client.delete(f"/generations/{kept['id']}")
        assert deletion.status_code == 503
        assert deletion.json()["error"]["code"] == "store_unavailable"
        assert client.get("/ready").status_code == 200
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert _generate(client)["expires"] is not None
        assert client.delete(f"/generations/{kept['id']}").status_code == 204


def test_a_corrupt_store_is_moved_aside_and_the_server_starts(tmp_path: Path) -> None:
    store = tmp_path / "store.sqlite"
    store.write_bytes(b"\x00\xffnot a database" * 1000)
    with running_server(AT2_STORE=str(store)) as (_, address), _client(address) as client:
        generation = _generate(client)
        assert client.get(f"/generations/{generation['id']}").json() == generation
        assert [path for path in tmp_path.iterdir() if ".damaged-" in path.name]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"AT2_MODEL": "{tmp}/empty"}, "empty"),
        ({"AT2_MODEL": "{tmp}/wrong"}, "wrong"),
        ({"AT2_ESTIMATORS": "mine={tmp}/empty"}, "'mine'"),
        ({"AT2_ESTIMATORS": "nonsense"}, "AT2_ESTIMATORS"),
        ({"AT2_STORE": "{tmp}/empty"}, "the store 'empty'"),
    ],
)
def test_a_server_that_cannot_start_says_why_and_ends(
    tmp_path: Path, settings: dict[str, str], named: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "config.json").write_text('{"model_type": "no-such-type"}')
    process, _ = start_server(**{k: v.format(tmp=tmp_path) for k, v in settings.items()})
    output, _ = process.communicate(timeout=_LIMIT_S)
    assert process.returncode == 1
    assert named in output and "Traceback" not in output


def test_overload_gets_200_or_429_and_the_server_recovers() -> None:
    with (
        running_server(AT2_MAX_REQUESTS=str(SLOTS)) as (_, address),
        _client(address) as client,
    ):
        alone = _generate(client)["response"]

        def ask(number: int) -> httpx.Response:
            body: dict[str, Any] = BODY | {"stream": number % 3 == 0}
            if number % 4 == 1:
                body = BODY | {"response": "Charlotte Bennett lives in Lisbon."}
                return client.post("/attribute", json=body)
            return client.post("/generate", json=body)

        with ThreadPoolExecutor(10 * SLOTS) as pool:
            responses = list(pool.map(ask, range(30 * SLOTS)))
        assert {response.status_code for response in responses} == {200, 429}
        for response in responses:
            if response.status_code == 429:
                assert int(response.headers["retry-after"]) >= 1
                assert response.json()["error"]["code"] == "server_busy"
            elif response.headers["content-type"].startswith("application/json"):
                assert response.json().get("response", alone) == alone
            else:
                assert response.text.endswith("data: [DONE]\n\n")
        assert _generate(client)["response"] == alone


def test_a_request_beyond_its_time_gets_504_in_or_before_the_stream() -> None:
    with (
        running_server(AT2_REQUEST_SECONDS="0.4") as (_, address),
        _client(address) as client,
    ):
        late = client.post("/generate", json=BODY | ENDLESS)
        assert late.status_code == 504
        assert late.json()["error"]["code"] == "deadline_exceeded"
        events = client.post("/generate", json=BODY | ENDLESS | {"stream": True}).text
        assert '"code":"deadline_exceeded"' in events.split("\n\n")[-3]
        assert events.endswith("data: [DONE]\n\n")


@linux_only
def test_out_of_memory_is_told_and_the_server_goes_on() -> None:
    # a layer's attention rows of the long response would take tens of megabytes
    long = {
        "context": "The cat sat. " * 10,
        "query": "What did the cat do?",
        "response": "The cat sat on the mat. " * 180,
    }
    with running_server(AT2_STORE="none") as (process, address), _client(address) as client:
        before = _generate(client)["response"]
        _, hard = resource.prlimit(process.pid, resource.RLIMIT_AS)
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0])
        now = pages * resource.getpagesize()
        resource.prlimit(process.pid, resource.RLIMIT_AS, (now + 8 * 2**20, hard))
        refused = client.post("/attribute", json=long)
        assert refused.status_code == 507, refused.text
        assert refused.json()["error"]["code"] == "out_of_memory"
        resource.prlimit(process.pid, resource.RLIMIT_AS, (hard, hard))
        assert client.post("/attribute", json=long).status_code == 200
        assert _generate(client)["response"] == before
        assert client.get("/ready").status_code == 200


def test_nothing_is_kept_where_nothing_is_to_be() -> None:
    with running_server(AT2_STORE="none") as (_, address), _client(address) as client:
        generation = _generate(client)
        assert generation["expires"] is None
        assert client.get(f"/generations/{generation['id']}").status_code == 404
        assert client.post("/attribute", json={"id": generation["id"]}).status_code == 404
        assert client.get("/info").json()["store"] == {"kind": "none", "seconds": 0}


def test_what_has_expired_is_gone() -> None:
    with (
        running_server(AT2_STORE_SECONDS="1") as (_, address),
        _client(address) as client,
    ):
        generation = _generate(client)
        while time.time() <= generation["expires"]:
            time.sleep(0.1)
        assert client.get(f"/generations/{generation['id']}").status_code == 404
