"""`Batcher`: many callers, few trips. While one flush runs, the next batch gathers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """Hands items to `flush` in batches; each caller gets its own answer, or the error of its batch.

    An error goes to every waiter of the batch: nobody is left waiting.
    """

    def __init__(
        self, flush: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]], *, max_size: int = 500
    ) -> None:
        self._flush = flush
        self._max_size = max_size
        self._waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def size(self) -> int:
        """How many items wait for a flush."""
        return len(self._waiting)

    def submit(self, item: Item) -> asyncio.Future[Answer]:
        """Adds an item to the next batch. Whether or not the caller waits, it is flushed."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return future

    async def drain(self) -> None:
        """Returns when everything submitted so far has been flushed."""
        while self._task is not None and not self._task.done():
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        while self._waiting:
            await asyncio.sleep(0)  # lets everybody who is ready in this turn of the loop join
            batch, self._waiting = self._waiting[: self._max_size], self._waiting[self._max_size :]
            try:
                answers = await self._flush([item for item, _ in batch])
                if len(answers) != len(batch):
                    raise RuntimeError(f"a flush of {len(batch)} gave {len(answers)} answers")
            except BaseException as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(_copy_for_waiter(error))
                        future.exception()  # a caller that went away must not make noise
                if not isinstance(error, Exception):
                    raise
                continue
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)


def _copy_for_waiter(error: BaseException) -> BaseException:
    """Each waiter raises an exception of its own: one object raised in many places mixes their tracebacks."""
    if isinstance(error, asyncio.CancelledError):
        return RuntimeError("the batch was cancelled")
    try:
        copy = type(error)(*error.args)
    except Exception:  # noqa: BLE001 - a constructor of any kind; then the original has to do
        return error
    copy.__dict__.update(error.__dict__)
    copy.__cause__ = error
    return copy
