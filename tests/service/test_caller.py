"""Who waits for a reply, and that they no longer do: one way for all three reasons."""

import asyncio

import pytest
from starlette.types import Message

from service.caller import Caller, ClientGoneError, Departure
from service.disconnect import connected
from service.failures import DeadlineError, EngineDownError

ERRORS: dict[Departure, type[Exception]] = {
    Departure.GONE: ClientGoneError,
    Departure.LATE: DeadlineError,
    Departure.STOPPING: EngineDownError,
}


@pytest.mark.parametrize("why", Departure)
@pytest.mark.parametrize("early", [False, True])
def test_who_leaves_ends_the_work_and_the_reason_is_told(why: Departure, early: bool) -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("work")

    async def main() -> None:
        caller = Caller()
        if early:
            caller.leave(why)
        staying = asyncio.ensure_future(caller.result_of(work()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        caller.leave(why)
        with pytest.raises(ERRORS[why]):
            await staying
        assert early or ended == ["work"]
        assert caller.departures == [why]

    asyncio.run(main())


def test_work_that_is_done_is_the_result_and_its_error_the_error() -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    async def main() -> None:
        caller = Caller()
        assert await caller.result_of(asyncio.sleep(0, "done")) == "done"
        with pytest.raises(ZeroDivisionError):
            await caller.result_of(broken())

    asyncio.run(main())


def test_some_work_goes_on_for_who_is_late() -> None:
    async def main() -> None:
        caller = Caller()
        go_on = asyncio.Event()
        staying = asyncio.ensure_future(caller.result_of(go_on.wait(), though_late=True))
        await asyncio.sleep(0)
        caller.leave(Departure.LATE)
        go_on.set()
        assert await staying

    asyncio.run(main())


def test_time_is_over_so_long_after_the_caller_came_unless_the_block_ended() -> None:
    async def main() -> None:
        early, late = Caller(), Caller()
        with early.within(0.01):
            pass
        with late.within(60):
            late.allow(0.01)
            with pytest.raises(DeadlineError, match=r"0\.01"):
                await late.result_of(asyncio.Event().wait())
        assert not early.departures

    asyncio.run(main())


def test_a_cancelled_request_is_one_of_a_stopping_server() -> None:
    async def main() -> None:
        caller = Caller()
        staying = asyncio.ensure_future(caller.result_of(asyncio.Event().wait()))
        await asyncio.sleep(0)
        staying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await staying
        assert caller.departures == [Departure.STOPPING]

    asyncio.run(main())


def test_a_client_that_closes_the_connection_leaves() -> None:
    async def main() -> None:
        caller, closed = Caller(), asyncio.Event()

        async def receive() -> Message:
            await closed.wait()
            return {"type": "http.disconnect"}

        async with connected(receive, caller):
            staying = asyncio.ensure_future(caller.result_of(asyncio.Event().wait()))
            await asyncio.sleep(0)
            closed.set()
            with pytest.raises(ClientGoneError):
                await staying

    asyncio.run(main())
