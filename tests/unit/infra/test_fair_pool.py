"""Who waits for a connection gets it in turn, within its patience, and loses none by leaving."""

from __future__ import annotations

import asyncio

import pytest
from scalable_fastapi_system.infra.database.fair_pool import _Line
from sqlalchemy.exc import TimeoutError as PoolTimeoutError


class Holder:
    """What asyncpg's pool keeps in its queue."""

    def is_connected(self) -> bool:
        return True


@pytest.fixture
def holder() -> Holder:
    return Holder()


async def begun(line: _Line) -> asyncio.Task[Holder]:
    """A caller that has begun to wait, or has its holder."""
    task = asyncio.create_task(line.get())
    await asyncio.sleep(0)
    return task


async def test_who_comes_just_as_one_is_given_back_waits_behind_those_that_were_there(holder: Holder) -> None:
    line = _Line(1, None)
    first, second = await begun(line), await begun(line)
    line.put_nowait(holder)
    late = asyncio.create_task(line.get())  # before the first has run
    await asyncio.sleep(0)
    assert first.done()
    assert not second.done()
    line.put_nowait(first.result())
    await asyncio.sleep(0)
    assert second.done()
    assert not late.done()
    line.put_nowait(second.result())
    assert await late is holder
    assert line.empty()


async def test_what_nobody_waits_for_is_kept(holder: Holder) -> None:
    line = _Line(1, 5.0)
    line.put_nowait(holder)
    assert not line.empty()
    assert await line.get() is holder


async def test_a_wait_ends_with_its_patience_and_later_ones_with_theirs(holder: Holder) -> None:
    line = _Line(1, 0.2)
    loop = asyncio.get_running_loop()
    first, second = asyncio.create_task(line.get()), asyncio.create_task(line.get())
    await asyncio.sleep(0)
    since, handed = line._waiting[1]
    line._waiting[1] = (since + 60, handed)  # so much later that no busy machine ends both at once
    with pytest.raises(PoolTimeoutError):
        await first
    assert not second.done()
    assert line._timer is not None
    assert line._timer.when() > since + 60
    line._timer.cancel()
    line._waiting[0] = (since - 60, handed)
    line._end_waits(loop, 0.2)
    with pytest.raises(PoolTimeoutError):
        await second
    line.put_nowait(holder)  # to nobody that has gone
    assert await line.get() is holder


async def test_one_that_is_given_to_a_caller_who_leaves_goes_to_the_next(holder: Holder) -> None:
    line = _Line(1, 5.0)
    leaving, waiting = await begun(line), await begun(line)
    line.put_nowait(holder)
    leaving.cancel()
    assert await waiting is holder
    assert leaving.cancelled()


async def test_a_caller_who_leaves_as_its_patience_ends_is_cancelled() -> None:
    line = _Line(1, 5.0)
    leaving = await begun(line)
    line._waiting[0][1].set_exception(PoolTimeoutError("too late"))
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_a_caller_who_leaves_is_passed_over(holder: Holder) -> None:
    line = _Line(1, 5.0)
    leaving, waiting = await begun(line), await begun(line)
    leaving.cancel()
    await asyncio.sleep(0)
    line.put_nowait(holder)
    assert await waiting is holder
