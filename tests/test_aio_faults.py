"""What goes wrong around asyncio: closed twice, used after, listened to too late, a loop that is gone or another."""

import asyncio
import gc
import sys

import pytest

import projections
from eventstore.errors import StoreClosed
from eventstore.notes import MetaSet
from projections.streaming import Delta
from tests.test_aio import PATIENCE, run


@pytest.fixture(params=["memory", "sqlite"])
def url(request, tmp_path):
    return "memory:" if request.param == "memory" else str(tmp_path / "agent.db")


def test_closing_a_second_time_does_nothing_and_what_comes_is_refused(url):
    async def program():
        async with projections.aconnect(url) as runs:
            notes = runs.store.stream("notes")
            await runs.close()
            with pytest.raises(StoreClosed):
                await notes.append(MetaSet("n", 1))
            with pytest.raises(StoreClosed):
                await runs.submit("w")
            await runs.close()

    run(program())


def test_who_listens_once_it_is_closed_hears_nothing_and_is_let_go(url):
    async def program():
        async with projections.aconnect(url) as runs:
            pass
        assert [delta async for delta in runs.listen()] == []

    run(program())

    runs = projections.connect(url)
    runs.close()
    with runs.listen() as listener:
        assert listener.closed


def test_a_coroutine_that_is_thrown_away_ends_without_a_word(url, monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)

    async def program():
        async with projections.aconnect(url) as runs:
            left = runs.submit("w")
            left.send(None)  # it waits for its thread
            left.close()
            del left
            gc.collect()

    run(program())

    assert told == []


def test_what_is_said_while_a_listeners_loop_closes_costs_the_speaker_nothing(url):
    def closed(*_):
        raise RuntimeError("Event loop is closed")

    async def program():
        async with projections.aconnect(url) as runs:
            listening = asyncio.ensure_future(anext(runs.listen()))
            await asyncio.sleep(0)
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(asyncio.get_running_loop(), "call_soon_threadsafe", closed)
                runs.runs._channel.publish(Delta("run-1", 1, "token"))
            listening.cancel()

    run(program())


def test_handles_of_one_loop_are_refused_in_another(url):
    async def opened():
        return await projections.aconnect(url)

    first = asyncio.new_event_loop()
    runs = first.run_until_complete(opened())

    async def other():
        with pytest.raises(RuntimeError, match="another event loop"):
            await runs.store.append("notes", MetaSet("n", 1))

    asyncio.run(asyncio.wait_for(other(), PATIENCE))

    async def again():
        await runs.store.append("notes", MetaSet("n", 2))
        assert [recorded.event.value async for recorded in runs.store.read("notes")] == [2]
        await runs.close()

    first.run_until_complete(asyncio.wait_for(again(), PATIENCE))
    first.close()
