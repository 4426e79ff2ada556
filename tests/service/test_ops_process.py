"""The real server as an operator runs it: keys, logs, metrics and signals of one process."""

import json
import signal
import socket
from typing import Any

import httpx
import pytest

from service.client import AuthenticationError, Client
from service.security import key_id
from tests.helpers.processes import start_server, wait_until_ready
from tests.helpers.servers import samples
from tests.helpers.tiny import tiny_environment

KEY = "a-key-of-sixteen-or-more"
WORD = "Quixotic"
CONTEXT = f"Charlotte Bennett lives in Lisbon. Omar {WORD} plays the cello."
QUERY = "Where does Charlotte Bennett live?"

_LIMIT_S = 120


def test_a_stop_under_load_loses_nothing_and_ends_well() -> None:
    process, address = start_server(
        forked=True,
        **tiny_environment(),
        AT2_API_KEYS=KEY,
        AT2_LOG_LEVEL="info",
        AT2_SHUTDOWN_SECONDS="120",
    )
    try:
        wait_until_ready(process, address)
        with Client(address) as nobody, pytest.raises(AuthenticationError):
            nobody.info()
        with Client(address, key=KEY, timeout=_LIMIT_S) as client:
            with client.stream(QUERY, CONTEXT) as stream:
                assert "".join(stream) == stream.generation.response
            whole = stream.generation
            client.attribute(whole)
            authorization = {"Authorization": f"Bearer {KEY}"}
            metrics = httpx.get(f"{address}/metrics", headers=authorization, timeout=_LIMIT_S).text
            with client.stream(
                QUERY, CONTEXT, temperature=5.0, seed=1, max_new_tokens=300
            ) as stream:
                texts = iter(stream)
                received = next(texts)  # so it runs
                process.send_signal(signal.SIGTERM)
                received += "".join(texts)
            assert received == stream.generation.response  # all of it, although asked to stop
        output, _ = process.communicate(timeout=_LIMIT_S)
    finally:
        process.kill()
    assert process.returncode == 0, output

    _check_metrics(metrics, whole.usage.prompt_tokens, whole.usage.completion_tokens)
    lines = [json.loads(line) for line in output.splitlines()]
    _check_lines(lines, whole.usage.completion_tokens)
    assert KEY not in output and WORD not in output and "Lisbon" not in output
    assert not any("exception" in line for line in lines)


def _check_metrics(text: str, prompt_tokens: int, completion_tokens: int) -> None:
    found = samples(text)
    assert found["at2_prompt_tokens_total", ()] == prompt_tokens
    assert found["at2_generation_tokens_total", ()] == completion_tokens
    assert found["at2_time_to_first_token_seconds_count", ()] == 1
    assert found["at2_generation_duration_seconds_count", (("finish_reason", "stop"),)] == 1
    assert found["at2_attribution_duration_seconds_count", (("method", "at2"),)] == 1
    assert found["at2_requests_running", ()] == found["at2_requests_waiting", ()] == 0
    assert 0 <= found["at2_cache_usage", ()] <= 1
    refused = (("code", "missing_api_key"), ("type", "authentication_error"))
    assert found["at2_errors_total", refused] == 1


def _check_lines(lines: list[dict[str, Any]], completion_tokens: int) -> None:
    requests = [line for line in lines if line["logger"] == "at2.access"]
    assert [(line["route"], line["status"]) for line in requests if line["route"]] == [
        ("/generate", 200),
        ("/attribute", 200),
        ("/generate", 200),
    ]
    generated = next(line for line in requests if line["route"] == "/generate")
    assert generated["completion_tokens"] == completion_tokens
    assert generated["finish_reason"] == "stop"
    assert len({line["request_id"] for line in requests}) == len(requests)
    assert {line["key_id"] for line in requests if line["status"] == 200} == {key_id(KEY)}


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_loading_ends_at_once_and_well(sig: signal.Signals) -> None:
    process, address = start_server(forked=True, **tiny_environment(), AT2_LOG_LEVEL="info")
    while not process.stdout or not process.stdout.readline():  # its first line: it is loading
        assert process.poll() is None
    process.send_signal(sig)
    output, _ = process.communicate(timeout=_LIMIT_S)
    assert process.returncode == 0
    assert "Traceback" not in output
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", int(address[-5:]))):
        pass
