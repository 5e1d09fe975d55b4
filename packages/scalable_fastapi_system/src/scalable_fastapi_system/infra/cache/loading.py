"""Loading what is missing, once: of all callers in all processes one loads, the others wait for it or take stale.

In one process the callers of an entry share a flight. Between processes the flight's leader holds a lock in Redis,
renewed while it loads; the lock of a leader that died ends by itself after `CACHE__LOCK_SECONDS`. A leader that is
cancelled hands over to the next caller, with that caller's own arguments. An error reaches everyone who waited in
the process; the other processes try by themselves. A flight that takes longer than six lock times is taken to
be stuck: the next caller begins another one, and whoever still waits gets the value of the one that ends first.

A value that was loaded before its entry was changed is not stored, and nobody joins a flight that began before.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from scalable_fastapi_system.infra.cache import metrics
from scalable_fastapi_system.infra.cache.memory import Entry
from scalable_fastapi_system.infra.cache.shared import SHORTEST_SECONDS, Lock, Offer, SharedEntry
from scalable_fastapi_system.infra.ending import end_tasks
from scalable_fastapi_system.infra.redis import RedisAwayError

if TYPE_CHECKING:
    from scalable_fastapi_system.infra.cache.manager import CacheManager

# After a failed load the stale value counts as fresh for this long, so that an outage is not met with a storm.
ERROR_PAUSE_SECONDS = 1.0
# A load that takes longer than this many lock times is taken to be stuck, and another caller may try.
MAX_LOCK_TIMES = 6
_FIRST_POLL_SECONDS = 0.005
_LAST_POLL_SECONDS = 0.1
_CLIENT_ERROR, _SERVER_ERROR = 400, 500

_log = structlog.get_logger("cache.loading")


class Loaded(NamedTuple):
    """What a loader gives: the encoded value, and whether it says that there is nothing."""

    payload: bytes
    is_negative: bool = False


class UncacheableError(Exception):
    """Raised by a loader whose result must not be kept; `result` is for this caller alone."""

    def __init__(self, result: Any) -> None:
        super().__init__("not to be cached")
        self.result = result


Load = Callable[[], Awaitable[Loaded]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an entry is kept.

    fresh_seconds: its life proper.
    stale_seconds: for so long after, callers get the stale value while one of them loads a new one.
    error_seconds: for so long after, the stale value answers where loading fails.
    negative_seconds: the life of a value that says that there is nothing; 0 keeps none.
    is_refreshed_in_background: whether that one caller gets the stale value, too, and the load runs on its own. Not
        where the loader uses what belongs to a request, such as its session.
    """

    fresh_seconds: float
    stale_seconds: float = 0.0
    error_seconds: float = 0.0
    negative_seconds: float = 30.0
    tags: tuple[str, ...] = ()
    is_refreshed_in_background: bool = True

    @property
    def grace_seconds(self) -> float:
        """How long a stale value is of use."""
        return max(self.stale_seconds, self.error_seconds)

    @property
    def life_seconds(self) -> float:
        """How long an entry is kept in all."""
        return self.fresh_seconds + self.grace_seconds


class _Flight:
    """One load under way in this process. `landed` gives the entry, or None where the next caller must lead.

    began: when its load began, in monotonic seconds; until then, when it was made.
    before: the flight in whose place this one was begun because that one was stuck.
    refresh: the task that loads, where that runs in the background.
    """

    __slots__ = ("before", "began", "landed", "mark", "refresh", "stale")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, mark: int, began: float, before: _Flight | None
    ) -> None:
        self.landed: asyncio.Future[Entry | None] = loop.create_future()
        self.mark = mark
        self.began = began
        self.before = before
        self.stale: Entry | None = None
        self.refresh: asyncio.Task[None] | None = None

    def offer_stale(self, entry: Entry) -> None:
        """Lets those go who wait and may take stale; the flight goes on."""
        self.stale = entry
        self.land(entry)
        self.landed = self.landed.get_loop().create_future()

    def land(self, entry: Entry | None) -> None:
        if not self.landed.done():
            self.landed.set_result(entry)

    def land_loaded(self, entry: Entry) -> None:
        """Gives the entry to those, too, who wait for a flight before this one: it may never land by itself."""
        flight: _Flight | None = self
        while flight is not None:
            flight.land(entry)
            flight = flight.before

    def crash(self, error: BaseException) -> None:
        if not self.landed.done():
            self.landed.set_exception(error)
            self.landed.exception()  # with nobody waiting it is not lost: the leader raises it

    def end_refresh(self) -> None:
        """Ends a load in the background; one that a caller waits for is the caller's own."""
        if self.refresh is not None:
            self.refresh.cancel()


class SingleFlight:
    """Loads entries of one cache."""

    def __init__(self, cache: CacheManager) -> None:
        self._cache = cache
        self._flights: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Flight]] = (
            weakref.WeakKeyDictionary()
        )
        self._tasks: set[asyncio.Task[Any]] = set()

    async def entry(self, key: str, load: Load, recipe: Recipe) -> Entry:
        """The entry, loaded if need be. Raises what `load` raises where there is no stale value to take."""
        cache = self._cache
        while True:
            now = cache.now()
            known = cache.in_memory(key, now)
            if known is not None and now < known.fresh_until:
                metrics.read_memory.inc()
                return known
            flights = self._flights_here()
            flight = flights.get(key)
            stuck = flight if flight is not None and self._left(flight) <= 0 else None
            if flight is None or stuck is not None or cache.memory.was_dropped(key, recipe.tags, flight.mark):
                return await self._lead(key, load, recipe, known, flights, before=stuck)
            stale = self._usable(flight.stale or known, recipe.stale_seconds)
            if stale is not None:
                metrics.read_stale.inc()
                return stale
            landing = await self._landing(key, flight, flights)
            if landing is None:
                continue
            try:
                landed = landing.result()
            except UncacheableError:
                return _passing(await load())
            if landed is None or (landed is flight.stale and not self._usable(landed, recipe.stale_seconds)):
                continue
            metrics.read_joined.inc()
            return landed

    async def _landing(
        self, key: str, flight: _Flight, flights: dict[str, _Flight]
    ) -> asyncio.Future[Entry | None] | None:
        """How the flight ended, or one that was begun in its place; None where no flight is worth waiting for."""
        landing = flight.landed
        while not landing.done():
            current = flights.get(key)
            left = 0.0 if current is None else self._left(current)
            if left <= 0:
                return None
            # Not awaited itself: a future that is awaited is cancelled with the one who awaits it.
            await asyncio.wait([landing], timeout=left)
        return landing

    async def stop(self) -> None:
        """Ends the loads in the background that the running loop has."""
        loop = asyncio.get_running_loop()
        tasks = [task for task in self._tasks if task.get_loop() is loop]
        await end_tasks(tasks)

    # -- leading --------------------------------------------------------------------------------------

    async def _lead(
        self,
        key: str,
        load: Load,
        recipe: Recipe,
        known: Entry | None,
        flights: dict[str, _Flight],
        *,
        before: _Flight | None,
    ) -> Entry:
        cache = self._cache
        loop, mark = asyncio.get_running_loop(), cache.memory.mark()
        flight = flights[key] = _Flight(loop, mark=mark, began=cache.now(), before=before)
        if before is not None and before.before is not None:
            before.before.end_refresh()  # twice as long: they would become ever more while the source hangs
        goes_on = False
        try:
            offer = await self._offer(key, recipe, flight)
            if isinstance(offer, Entry):
                flight.land(offer)
                return offer
            entry = flight.stale
            if offer is None:
                entry = cache.in_memory(key, cache.now()) or known
                if entry is not None and self._usable(entry, 0.0) is not None:
                    metrics.read_memory.inc()
                    flight.land(entry)
                    return entry
            stale = self._usable(entry, recipe.stale_seconds)
            work = self._load(key, load, recipe, flight, offer, self._usable(entry, recipe.grace_seconds))
            if stale is not None and recipe.is_refreshed_in_background:
                flight.offer_stale(stale)
                goes_on = True
                flight.refresh = self._in_background(self._land(key, work, flights, flight))
                metrics.read_stale.inc()
                return stale
            loaded = await work
            flight.land_loaded(loaded)
            return loaded
        except asyncio.CancelledError:
            flight.land(None)
            raise
        except BaseException as error:
            flight.crash(error)
            raise
        finally:
            if not goes_on:
                _end(flights, key, flight)

    async def _offer(self, key: str, recipe: Recipe, flight: _Flight) -> Entry | Lock | None:
        """The entry that somebody else has loaded, or the right to load; None where Redis has no say."""
        cache = self._cache
        token, pause = secrets.token_hex(8), _FIRST_POLL_SECONDS
        while not cache.redis.is_away:
            mark = cache.memory.mark()
            try:
                await cache.settle()
            except RedisAwayError:
                return None
            offer = await self._ask(key, token, recipe)
            if offer is None:
                return None
            if offer.fresh is not None:
                metrics.read_redis.inc()
                return cache.keep(key, offer.fresh, since=mark)
            flight.stale = None if offer.stale is None else cache.keep(key, offer.stale, since=mark)
            if offer.lock is not None:
                return offer.lock
            stale = self._usable(flight.stale, recipe.stale_seconds)
            if stale is not None:
                metrics.read_stale.inc()
                return stale
            await asyncio.sleep(pause * random.uniform(0.7, 1.3))  # noqa: S311 - spreads the processes
            pause = min(pause * 1.6, _LAST_POLL_SECONDS)
        return None

    async def _ask(self, key: str, token: str, recipe: Recipe) -> Offer | None:
        """What Redis has or gives; None where it did not answer."""
        cache = self._cache
        try:
            return await cache.shared.read_or_lock(
                key,
                token=token,
                lock_seconds=cache.settings.lock_seconds,
                life_seconds=recipe.life_seconds,
                tags=recipe.tags,
            )
        except RedisAwayError:
            cache.note_left(Lock(key, token, ()))  # one that stands still reads the request when it goes on
            return None
        except asyncio.CancelledError:
            self._in_background(self._give_up(Lock(key, token, ())))  # perhaps it was just being given
            raise

    async def _load(
        self,
        key: str,
        load: Load,
        recipe: Recipe,
        flight: _Flight,
        lock: Lock | None,
        stale: Entry | None,
    ) -> Entry:
        metrics.read_missing.inc()
        flight.began = self._cache.now()
        is_settled = False
        try:
            async with self._renewed(lock):
                loaded = await load()
            fresh_seconds = recipe.negative_seconds if loaded.is_negative else recipe.fresh_seconds
            if fresh_seconds < SHORTEST_SECONDS:
                return _passing(loaded)
            life_seconds = fresh_seconds if loaded.is_negative else recipe.life_seconds
            entry = await self._store(
                key, loaded.payload, fresh_seconds, life_seconds, recipe.tags, flight, lock
            )
            is_settled = True
        except Exception as error:
            left = 0.0 if stale is None else stale.expires_at - self._cache.now()
            if stale is None or left < SHORTEST_SECONDS or not _is_failure(error):
                raise
            _log.warning("loading failed: the stale value answers", key=key, exc_info=error)
            metrics.load_failed.inc()
            entry = await self._store(
                key, stale.payload, min(ERROR_PAUSE_SECONDS, left), left, recipe.tags, flight, lock
            )
            is_settled = True
        finally:
            if lock is not None and not is_settled:
                # In a task of its own: whoever is being cancelled can wait for nothing.
                self._in_background(self._give_up(lock))
        return entry

    async def _store(
        self,
        key: str,
        payload: bytes,
        fresh_seconds: float,
        life_seconds: float,
        tags: tuple[str, ...],
        flight: _Flight,
        lock: Lock | None,
    ) -> Entry:
        cache = self._cache
        if lock is not None:
            try:
                is_stored = await cache.shared.store(
                    key,
                    payload,
                    fresh_seconds=fresh_seconds,
                    life_seconds=life_seconds,
                    tags=tags,
                    lock=lock,
                )
            except RedisAwayError:
                cache.note_missed(key)  # perhaps it arrived, and something was changed after
            else:
                if not is_stored:
                    metrics.load_outdated.inc()
                    return _passing(Loaded(payload))
                metrics.load_stored.inc()
                found = SharedEntry(payload, fresh_seconds, life_seconds, tags)
                return cache.keep(key, found, since=flight.mark)
        if flight.landed.done():  # one that was begun in its place was quicker, and its value is newer
            metrics.load_outdated.inc()
            return _passing(Loaded(payload))
        metrics.load_stored.inc()
        return cache.put_alone(
            key, payload, fresh_seconds, life_seconds=life_seconds, tags=tags, since=flight.mark
        )

    # -- the lock -------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _renewed(self, lock: Lock | None) -> AsyncIterator[None]:
        if lock is None:
            yield
            return
        renewal = asyncio.create_task(self._renew(lock))
        try:
            yield
        finally:
            renewal.cancel()

    async def _renew(self, lock: Lock) -> None:
        seconds = self._cache.settings.lock_seconds
        with contextlib.suppress(RedisAwayError):
            for _ in range((MAX_LOCK_TIMES - 1) * 3):
                await asyncio.sleep(seconds / 3)
                if not await self._cache.shared.hold(lock, seconds):
                    return

    async def _give_up(self, lock: Lock) -> None:
        try:
            await self._cache.shared.give_up([lock])
        except RedisAwayError:
            self._cache.note_left(lock)

    # -- small things ---------------------------------------------------------------------------------

    async def _land(
        self, key: str, work: Coroutine[Any, Any, Entry], flights: dict[str, _Flight], flight: _Flight
    ) -> None:
        try:
            flight.land_loaded(await work)
        except UncacheableError:
            flight.land(None)
        except Exception as error:  # noqa: BLE001 - nobody waits for it: the log is where it can be said
            _log.warning("refreshing failed", key=key, exc_info=error)
            metrics.load_failed.inc()
            flight.land(None)
        finally:
            flight.land(None)
            _end(flights, key, flight)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _left(self, flight: _Flight) -> float:
        """Seconds that the flight may still take; none where it counts as stuck."""
        return flight.began + MAX_LOCK_TIMES * self._cache.settings.lock_seconds - self._cache.now()

    def _flights_here(self) -> dict[str, _Flight]:
        return self._flights.setdefault(asyncio.get_running_loop(), {})

    def _usable(self, entry: Entry | None, stale_seconds: float) -> Entry | None:
        if entry is None:
            return None
        now = self._cache.now()
        return entry if now < min(entry.fresh_until + stale_seconds, entry.expires_at) else None


def _end(flights: dict[str, _Flight], key: str, flight: _Flight) -> None:
    if flights.get(key) is flight:
        del flights[key]


def _passing(loaded: Loaded) -> Entry:
    """An entry that is kept nowhere."""
    never = float("-inf")
    return Entry(loaded.payload, never, never, never, never)


def _is_failure(error: Exception) -> bool:
    """Whether loading failed. "Not found" and "not allowed" are answers, and no stale value hides them."""
    if isinstance(error, UncacheableError):
        return False
    status = getattr(error, "status_code", None)
    return not (isinstance(status, int) and _CLIENT_ERROR <= status < _SERVER_ERROR)
