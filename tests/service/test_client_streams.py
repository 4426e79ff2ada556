"""The clients: responses as they are written, however the bytes come."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.client import (
    ApiError,
    BadRequestError,
    BusyError,
    ConnectionFailedError,
    DeadlineError,
    ProtocolError,
    ServerError,
    UnavailableError,
)
from tests.helpers.client_script import (
    DELTAS,
    END,
    GENERATION,
    TEXTS,
    Both,
    Script,
    sse_event,
    stream_reply,
)


def _cut_anywhere(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(places)]


@given(cuts=st.lists(st.integers(min_value=0), max_size=30))
def test_a_stream_reads_the_same_however_it_is_cut(scripted: Script, cuts: list[int]) -> None:
    comment = b": still here\n\n"
    data = comment + b"".join(TEXTS) + comment + b"".join(END)
    scripted.replies = [stream_reply(*_cut_anywhere(data, cuts))]
    texts, generation = Both(False, scripted.address).read()
    assert texts == DELTAS
    assert generation.response == "".join(DELTAS) == GENERATION["response"]


@pytest.mark.parametrize("block", [True, False])
def test_a_stream_gives_its_pieces_and_then_the_generation(
    both: Both, script: Script, block: bool
) -> None:
    script.replies = [stream_reply(*TEXTS, *END)]
    texts, generation = both.read(block=block)
    assert texts == DELTAS
    assert generation.usage.completion_tokens == 4
    assert script.asked[0][2] == {"query": "q", "context": "c", "stream": True}


def test_leaving_early_leaves_no_generation(both: Both, script: Script) -> None:
    script.replies = [stream_reply(*TEXTS, *END)]
    with pytest.raises(ProtocolError, match="not been read to its end"):
        both.read(most=2)


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        ("deadline_exceeded", DeadlineError, "server_error"),
        ("engine_down", UnavailableError, "server_error"),
        ("generator_failed", ServerError, "server_error"),
        ("generator_late", DeadlineError, "server_error"),
        ("generator_unavailable", UnavailableError, "server_error"),
        ("out_of_memory", ServerError, "server_error"),
        ("of_a_newer_server", ServerError, "server_error"),
        ("server_busy", BusyError, "rate_limit_error"),
        ("store_unavailable", UnavailableError, "server_error"),
        ("invalid_value", BadRequestError, "invalid_request_error"),
    ],
)
def test_an_error_in_the_middle_is_raised_there(
    both: Both, script: Script, code: str, kind: type[ApiError], says: str
) -> None:
    error = {"error": {"message": "late", "type": says, "param": None, "code": code}}
    script.replies = [stream_reply(TEXTS[0], sse_event(error), b"data: [DONE]\n\n")]
    with pytest.raises(kind, match="late") as caught:
        both.read()
    assert type(caught.value) is kind
    assert caught.value.status is None and caught.value.request_id == "r-9"


@pytest.mark.parametrize(
    "parts",
    [
        [],
        TEXTS,
        [*TEXTS, b"data: [DONE]\n\n"],
        [*TEXTS, END[0]],
        [*TEXTS, END[0][:-20]],
        [b"data: {}\n\n"],
        [b"data: nothing\n\n"],
        [sse_event({"type": "delta"})],
    ],
)
def test_a_stream_that_is_not_whole_is_an_error(
    both: Both, script: Script, parts: list[bytes]
) -> None:
    script.replies = [stream_reply(*parts)]
    with pytest.raises(ProtocolError):
        both.read()


def test_a_connection_that_breaks_is_an_error(both: Both, script: Script) -> None:
    script.replies = [stream_reply(*TEXTS, cut=True)]
    with pytest.raises(ConnectionFailedError, match="broke off"):
        both.read()
