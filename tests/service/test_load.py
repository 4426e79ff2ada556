"""Many callers at once: nothing lost, every reply as alone, memory bounded, overload survived.

`python -m benchmarks.serving` sends more.
"""

from collections.abc import Iterator

import httpx
import psutil
import pytest

from tests.helpers import load
from tests.helpers.replies import alike
from tests.helpers.tiny import tiny_server

REQUESTS = 160
CONCURRENCY = 32
SLOTS = 64
"""More than callers: who leaves frees its place a moment later than it calls again."""
BURSTS = 5
"""At the most, until one comes faster than it is answered."""
GROWTH_BYTES = 32 * 2**20
"""A batch's or a pass's working memory comes and goes; what leaks with each request adds up."""


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[int, str]]:
    """A server whose stores are soon full: its process and its address."""
    with tiny_server(AT2_MAX_REQUESTS=str(SLOTS), AT2_MAX_RECORDS="40", AT2_SCORE_CACHE_MB="1") as (
        process,
        address,
    ):
        yield process.pid, address


def test_mixed_requests_get_the_replies_they_get_alone(place: tuple[int, str]) -> None:
    process_id, address = place
    jobs = load.mixed_jobs(REQUESTS)
    expected = load.send_alone(address, jobs)
    assert {outcome.status for outcome in expected.values()} == {200, 204, 400}
    load.send(address, jobs[:64], CONCURRENCY)  # memory for so many at once
    memory = psutil.Process(process_id).memory_info
    before = memory().rss
    outcomes = load.send(address, jobs, CONCURRENCY)
    assert not load.count_wrong(jobs, outcomes, expected)
    assert memory().rss - before < GROWTH_BYTES


def test_ten_times_overload_gets_200_or_429_and_recovers(place: tuple[int, str]) -> None:
    _, address = place
    (question,) = load.make_questions(1)
    kinds = ("generate", "stream", "sample", "attribute text")
    jobs = [(kinds[number % len(kinds)], question) for number in range(10 * SLOTS)]
    expected = load.send_alone(address, jobs)
    found: set[int] = set()
    for _ in range(BURSTS):
        outcomes = load.send(address, jobs, concurrency=len(jobs))
        assert len(outcomes) == len(jobs)
        for job, outcome in zip(jobs, outcomes, strict=True):
            if outcome.status == 200:
                assert alike(outcome.reply, expected[load.request_name(*job)].reply)
            else:
                assert outcome.reply["error"]["code"] == "server_busy"
        found |= {outcome.status for outcome in outcomes}
        if 429 in found:
            break
    assert found == {200, 429}
    with httpx.Client(base_url=address, timeout=60) as client:
        assert client.post("/generate", json=question).status_code == 200
        while "at2_requests_running 0.0" not in client.get("/metrics").text:
            pass


def test_the_helper_finds_what_is_wrong() -> None:
    jobs = load.mixed_jobs(3)
    expected = {
        load.request_name(*job): load.Outcome(job[0], load.EXPECTED_STATUS[job[0]], 0.1, "as ever")
        for job in jobs
    }
    good = [expected[load.request_name(*job)] for job in jobs]
    assert not load.count_wrong(jobs, good, expected)
    assert load.count_wrong(jobs, good[:2], expected) == {"lost": 1}
    failed = [*good[:2], load.Outcome(jobs[2][0], 500, 0.1, "as ever")]
    assert load.count_wrong(jobs, failed, expected) == {f"{jobs[2][0]}: status 500": 1}
    other = [*good[:2], load.Outcome(jobs[2][0], 200, 0.1, "other")]
    assert load.count_wrong(jobs, other, expected) == {f"{jobs[2][0]}: another reply": 1}
