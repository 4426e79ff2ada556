"""The clients: when they ask again."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.client import (
    ApiError,
    BusyError,
    Retry,
)
from service.client.retry import parse_retry_after
from tests.helpers.client_script import (
    DELTAS,
    END,
    GENERATION,
    TEXTS,
    Both,
    Script,
    error_reply,
    json_reply,
    stream_reply,
)


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(both: Both, script: Script, status: int) -> None:
    busy = error_reply(status, "busy", Retry_After="0")
    script.replies = [busy, busy, json_reply(200, GENERATION), busy, stream_reply(*TEXTS, *END)]
    assert both.call("get", "gen-1").id == "gen-1"
    assert both.read()[0] == DELTAS
    assert not script.replies


@pytest.mark.parametrize(("status", "sent"), [(429, 3), (503, 3), (500, 1), (504, 1), (400, 1)])
def test_it_is_given_up_after_the_attempts(
    both: Both, script: Script, status: int, sent: int
) -> None:
    script.replies = [error_reply(status, "x")] * 5
    with pytest.raises(ApiError):
        both.call("get", "gen-1")
    assert len(script.asked) == sent


def test_a_server_that_wants_a_long_wait_is_not_waited_for(both: Both, script: Script) -> None:
    script.replies = [error_reply(429, "busy", Retry_After="3600")]
    with pytest.raises(BusyError) as caught:
        both.call("get", "gen-1")
    assert caught.value.retry_after == 3600


@given(
    attempt=st.integers(1, 20),
    asked=st.none() | st.floats(0, 100),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_waits_double_within_bounds(attempt: int, asked: float | None, chance: float) -> None:
    retry = Retry(attempts=10, first_seconds=0.5, most_seconds=30.0)
    wait = retry.wait(attempt, asked, chance)
    if attempt >= 10 or (asked or 0) > 30:
        assert wait is None
    else:
        assert wait is not None
        assert (asked or 0) <= wait <= 30
        plain = 0.5 * 2 ** (attempt - 1)
        assert wait >= min(30, plain / 2)
        if not asked:
            assert wait <= plain


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 59.0),
        ("Fri, 31 Dec 1999 23:00:00 GMT", 0.0),
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("Fri, 31 Dec 99999999999999999999 23:59:59 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    now = datetime(1999, 12, 31, 23, 59, 0, tzinfo=UTC)
    assert parse_retry_after(header, now) == seconds
