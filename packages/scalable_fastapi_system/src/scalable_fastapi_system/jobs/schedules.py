"""Schedules: jobs at set times, once a slot however many workers there are and whatever their clocks say.

A slot is taken by inserting its row in `cron_runs`, whose key is (schedule, slot), in the transaction that inserts the
job. The clock is the database's. What was missed while no worker ran is treated by the schedule's misfire policy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import dropwhile, islice, takewhile
from typing import Any, Literal, TypeVar, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import CroniterBadDateError, croniter
from sqlalchemy import CursorResult, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.jobs.errors import JobUsageError
from scalable_fastapi_system.jobs.records import Hint, NewJob
from scalable_fastapi_system.jobs.registry import JobHandler
from scalable_fastapi_system.jobs.store.clock import database_now
from scalable_fastapi_system.jobs.store.inserting import insert_jobs
from scalable_fastapi_system.jobs.tables import cron_runs, cron_schedules
from scalable_fastapi_system.kit.clock import utc_now
from scalable_fastapi_system.kit.errors import ValidationException
from scalable_fastapi_system.kit.ids import new_id

Misfire = Literal["skip", "once", "all"]
H = TypeVar("H", bound=JobHandler[..., Any])

# A slot that is taken this late was missed: workers tick every second or so.
PUNCTUAL_SECONDS = 30.0
MAX_CAUGHT_UP = 1000
# What the columns of `cron_schedules` hold.
MAX_NAME_LENGTH = 100
MAX_EXPRESSION_LENGTH = 100
MAX_TIMEZONE_LENGTH = 64
_PART_SLOTS = 250  # so many at once are looked at in a search for the last ones


@dataclass(frozen=True, slots=True)
class CronSchedule:
    """A job kind that runs at the times of a cron expression.

    expression: five fields, or six with seconds last. timezone: of the expression; slots keep their wall-clock time
    through changes of daylight saving. misfire: of slots missed by more than half a minute, `skip` runs none, `once`
    the last one where none since is on time, `all` each (at most 1000).

    Raises ValueError for what can never be kept: no cron expression or none that a day fits, a zone or a policy that
    there is not, more characters than the tables hold, arguments that do not fit the handler.
    """

    name: str
    expression: str
    handler: JobHandler[..., Any]
    arguments: tuple[tuple[str, Any], ...] = ()
    timezone: str = "UTC"
    misfire: Misfire = "once"

    def __post_init__(self) -> None:
        for what, text, most, advice in (
            ("the name", self.name, MAX_NAME_LENGTH, ""),
            (
                "the expression",
                self.expression,
                MAX_EXPRESSION_LENGTH,
                ": write a range or a step, such as */5",
            ),
            ("the time zone", self.timezone, MAX_TIMEZONE_LENGTH, ""),
        ):
            if not 0 < len(text) <= most:
                raise ValueError(
                    f"the schedule {self.name[:MAX_NAME_LENGTH]!r}: {what} has 1 to {most} characters, and not"
                    f" {len(text)}{advice}"
                )
            if "\0" in text:
                raise ValueError(f"{what} of a schedule cannot have the character U+0000: {text!r}")
        if self.misfire not in get_args(Misfire):
            raise ValueError(
                f"the schedule {self.name!r}: misfire is one of {', '.join(get_args(Misfire))}, and not"
                f" {self.misfire!r}"
            )
        # croniter takes names such as @daily, too, which have no fields
        if len(self.expression.split()) < 5 or not croniter.is_valid(self.expression):
            raise ValueError(f"{self.expression!r} is no cron expression")
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"there is no time zone {self.timezone!r}") from None
        try:
            self.next_after(utc_now())
        except CroniterBadDateError:
            raise ValueError(f"no day will ever fit {self.expression!r}") from None
        try:
            self.job_for(utc_now())
        except ValidationException as error:
            raise ValueError(f"the schedule {self.name!r} cannot run its job: {error.message}") from None
        except NameError:
            pass  # a type that the module declares further down: what does not fit is found at the first slot

    def slots(self, after: datetime, until: datetime) -> list[datetime]:
        """The moments of the schedule after one and up to another, in order; the last 1000 of them."""
        return list(islice(self._latest_first(after, until), MAX_CAUGHT_UP))[::-1]

    def next_after(self, moment: datetime) -> datetime:
        """The first moment of the schedule after this one, in UTC."""
        return next(self._moments(moment))

    def _moments(self, after: datetime) -> Iterator[datetime]:
        """The moments of the schedule after one, in UTC, without end.

        Of an hour that occurs twice, when the clocks go back, a schedule that names its hour takes the first.
        """
        zone = ZoneInfo(self.timezone)
        names_hours = not self.expression.split()[1].startswith("*")
        moments = croniter(self.expression, after.astimezone(zone), ret_type=datetime)
        while True:
            moment: datetime = moments.get_next(datetime).astimezone(UTC)
            if not (names_hours and moment.astimezone(zone).fold):
                yield moment

    def _latest_first(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """The moments of the schedule after one and up to another, from the last on back.

        A few cost the same however long that time is: the worker's loop stands still meanwhile, and an outage of days
        has hundreds of thousands. Each part of the time is searched forwards, for backwards croniter finds other
        moments where clocks change.
        """
        zone = ZoneInfo(self.timezone)
        width = timedelta(seconds=PUNCTUAL_SECONDS)
        while until > after:
            start = until - width if until - after > width else after
            # From within a time that occurs twice croniter may find moments that it passes over coming from before it.
            before = max(after, start.astimezone(zone).replace(fold=0).astimezone(UTC))
            moments = takewhile(until.__ge__, dropwhile(start.__ge__, self._moments(before)))
            part = list(islice(moments, _PART_SLOTS + 1))
            if len(part) > _PART_SLOTS:
                width = (until - start) / 2
            else:
                yield from reversed(part)
                until, width = start, width * 2

    def slots_to_run(self, after: datetime, now: datetime) -> list[datetime]:
        """What of the slots since `after` is to run now, by the misfire policy."""
        if self.misfire == "all":
            return self.slots(after, now)
        punctual_from = now - timedelta(seconds=PUNCTUAL_SECONDS)
        punctual = list(takewhile(punctual_from.__le__, self._latest_first(after, now)))[::-1]
        if punctual or self.misfire == "skip":
            return punctual
        return list(islice(self._latest_first(after, now), 1))

    def job_for(self, slot_at: datetime, *, default_max_attempts: int = 1) -> NewJob:
        """The job of one slot; slots wait for nothing, so it is queued at once."""
        handler = self.handler
        values = handler.validate_args(dict(self.arguments))
        return NewJob(
            id=new_id(),
            kind=handler.kind,
            queue=handler.queue,
            args=handler.encode_values(values).decode(),
            max_attempts=handler.max_attempts or default_max_attempts,
            priority=handler.priority,
            timeout_seconds=handler.timeout_seconds,
            concurrency_key=handler.concurrency_key_of(values),
            unique_key=f"cron:{self.name}:{slot_at.isoformat()}",
        )


schedules: dict[str, CronSchedule] = {}


def cron(
    expression: str,
    *,
    name: str | None = None,
    timezone: str = "UTC",
    misfire: Misfire = "once",
    **arguments: Any,
) -> Callable[[H], H]:
    """Runs the job below it at the times of a cron expression: `@cron("0 3 * * *")` above `@job("reports.nightly")`."""
    if not isinstance(expression, str):
        raise TypeError(f'write @cron("0 3 * * *") above @job(…): the times are text, and not {expression!r}')

    def declare(handler: H) -> H:
        if not isinstance(handler, JobHandler):
            found = getattr(handler, "__name__", repr(handler))
            raise TypeError(f"write @cron(…) above @job(…): {found} is no job yet")
        schedule = CronSchedule(
            name or handler.kind, expression, handler, tuple(sorted(arguments.items())), timezone, misfire
        )
        known = schedules.get(schedule.name)
        if known is not None and known.handler.kind != handler.kind:
            raise ValueError(f"the schedule {schedule.name!r} is declared twice")
        schedules[schedule.name] = schedule
        return handler

    return declare


async def take_due_slots(
    session: AsyncSession, schedule: CronSchedule, *, default_max_attempts: int
) -> list[Hint]:
    """Inserts the jobs of a schedule's due slots. Raises IntegrityError where another worker took one of them first,
    JobUsageError where the product's own code cannot make the job of a slot.

    A schedule seen for the first time starts now: it has missed nothing. One with another expression or time zone than
    before has missed nothing either, but its slots of the last half minute are on time and run.
    """
    now = await database_now(session)
    row = (
        await session.execute(
            select(
                cron_schedules.c.last_slot_at,
                cron_schedules.c.paused_at,
                cron_schedules.c.expression,
                cron_schedules.c.timezone,
            ).where(cron_schedules.c.name == schedule.name)
        )
    ).one_or_none()
    facts = {
        "expression": schedule.expression,
        "timezone": schedule.timezone,
        "misfire": schedule.misfire,
        "kind": schedule.handler.kind,
    }
    if row is None:
        await session.execute(
            insert(cron_schedules).values(name=schedule.name, last_slot_at=now, paused_at=None, **facts)
        )
        return []
    after = row.last_slot_at
    is_changed = (row.expression, row.timezone) != (schedule.expression, schedule.timezone)
    if is_changed:
        # While workers of two releases run, each finds the other's expression here, tick by tick. Would it begin at
        # this moment, as a new schedule does, they would set each other back for as long, and a slot that comes due
        # between two ticks would never run. So the last half minute is left to both: what is due in it is on time.
        after = max(after, now - timedelta(seconds=PUNCTUAL_SECONDS))
    is_due = schedule.next_after(after) <= now
    if not (is_due or is_changed):
        return []
    slots = schedule.slots_to_run(after, now) if is_due and row.paused_at is None else []
    if slots:
        after = slots[-1]
    elif is_due:
        after = now  # its slots pass
    moved: CursorResult[Any] = await session.execute(  # type: ignore[assignment]
        update(cron_schedules)
        .where(cron_schedules.c.name == schedule.name, cron_schedules.c.last_slot_at == row.last_slot_at)
        .values(last_slot_at=after, **facts)
    )
    if not moved.rowcount:
        return []  # another worker moved on from the same slot
    hints: list[Hint] = []
    for slot_at in slots:
        try:
            job = schedule.job_for(slot_at, default_max_attempts=default_max_attempts)
        except Exception as error:
            # A key may be made by a function of the product: an OSError of its own is not the store's.
            raise JobUsageError(f"the job of the slot {slot_at} cannot be made: {error}") from error
        await session.execute(insert(cron_runs).values(name=schedule.name, slot_at=slot_at, job_id=job.id))
        await insert_jobs(session, [job])
        hints.append(Hint(job.id, 0, job.queue, 0, job.priority))
    return hints
