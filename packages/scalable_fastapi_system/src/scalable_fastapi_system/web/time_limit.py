"""The time that a request may take until its answer begins.

`asyncio.timeout` cancels the task wherever it stands, also while it waits for a thread that goes on with the same session and
transaction: what the thread does then is torn in two, and the thread is counted no more among those that may run at once. anyio's
scopes spare such a task, and then cancel it at each of its waits, so that what it does at its end (a rollback, giving back a
lock) is cancelled too. So here is what asyncio's does, once and not while the task is shielded.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from anyio._backends._asyncio import _task_states

from scalable_fastapi_system.kit.errors import ServiceUnavailableException


class TimeLimit:
    """`with TimeLimit(seconds) as limit:` answers 503 where what is inside took longer, unless the limit was lifted."""

    __slots__ = ("_cancelling", "_has_struck", "_is_lifted", "_task", "_timer")

    def __init__(self, seconds: float) -> None:
        self._task: asyncio.Task[object] = asyncio.current_task()  # type: ignore[assignment] # a request has one
        self._cancelling = self._task.cancelling()
        self._has_struck = self._is_lifted = False
        self._timer: asyncio.Handle | None = asyncio.get_running_loop().call_later(seconds, self._strike)

    def lift(self) -> None:
        """From here on there is no limit."""
        self._is_lifted = True
        if self._timer is not None:
            self._timer.cancel()

    def __enter__(self) -> TimeLimit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.lift()
        task = self._task
        del self._task  # which holds all that the request does
        # Where somebody else has cancelled the task as well, it is theirs.
        if self._has_struck and task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise ServiceUnavailableException("The request took too long and was ended") from error

    def _strike(self, _waited_for: object = None) -> None:
        self._timer = None
        if self._is_lifted:
            return
        task = self._task
        if not _is_shielded(task):
            self._has_struck = True
            task.cancel()
            return
        waits_for = task._fut_waiter  # type: ignore[attr-defined] # as anyio has it
        if waits_for is None:
            self._timer = task.get_loop().call_soon(self._strike)
        else:
            # After the task itself, which has asked first: it takes the thread's result before it is cancelled.
            waits_for.add_done_callback(self._strike)


def _is_shielded(task: asyncio.Task[object]) -> bool:
    """Whether the task stands inside a scope of anyio's that is not to be cancelled from outside, as around each thread."""
    state = _task_states.get(task)
    scope = state.cancel_scope if state is not None else None
    while scope is not None:
        if scope.shield:
            return True
        scope = scope._parent_scope
    return False
