"""A few requests begin in each round of the event loop, of all callers in turns."""

import asyncio
from collections import Counter
from typing import Any

from service.middleware.pace import Pace


class Seen:
    """Which requests have begun, and in which round of the loop."""

    def __init__(self) -> None:
        self.begun: list[tuple[int, str]] = []
        self.round = 0
        self.app = Pace(self._begin)

    async def _begin(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun.append((self.round, scope["path"]))

    async def request(self, path: str, *, key: str = "", host: str = "10.0.0.1") -> None:
        async def nothing(*_: Any) -> Any:
            raise AssertionError

        state = {"key_id": key} if key else {}
        scope = {"type": "http", "path": path, "client": (host, 4000), "state": state}
        await self.app(scope, nothing, nothing)

    async def rounds(self) -> None:
        """Count the rounds of the loop, until cancelled."""
        while True:
            self.round += 1
            await asyncio.sleep(0)


def _begun(*asked: dict[str, str]) -> list[tuple[int, str]]:
    """What begins when, of requests that come at once."""

    async def main() -> list[tuple[int, str]]:
        seen = Seen()
        counting = asyncio.create_task(seen.rounds())
        await asyncio.gather(*(seen.request(**one) for one in asked))
        counting.cancel()
        return seen.begun

    return asyncio.run(main())


def test_a_thousand_requests_begin_a_few_in_each_round_and_all_of_them() -> None:
    begun = _begun(*({"path": f"/{number}"} for number in range(1000)))
    assert [path for _, path in begun] == [f"/{number}" for number in range(1000)]
    assert max(Counter(number for number, _ in begun).values()) <= 16


def test_a_few_begin_at_once() -> None:
    begun = _begun(*({"path": f"/{number}"} for number in range(5)))
    assert len({number for number, _ in begun}) == 1


def test_callers_take_turns_whether_told_by_key_or_by_address() -> None:
    many = [{"path": "/many", "key": "many"} for _ in range(200)]
    begun = _begun(*many, {"path": "/key", "key": "few"}, {"path": "/host", "host": "10.0.0.2"})
    places = [path for _, path in begun]
    assert places.index("/key") < 20 and places.index("/host") < 20


def test_probes_wait_for_nobody() -> None:
    many = [{"path": "/many"} for _ in range(200)]
    begun = _begun(*many, {"path": "/health"}, {"path": "/ready"})
    rounds = {path: number for number, path in begun if path != "/many"}
    assert rounds["/health"] == rounds["/ready"] == begun[0][0]


def test_whoever_leaves_while_waiting_takes_no_turn() -> None:
    async def main() -> list[str]:
        seen = Seen()
        asked = [asyncio.create_task(seen.request(f"/{number}")) for number in range(50)]
        await asyncio.sleep(0)
        for task in asked[20:40]:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        return [path for _, path in seen.begun]

    assert asyncio.run(main()) == [f"/{number}" for number in (*range(20), *range(40, 50))]
