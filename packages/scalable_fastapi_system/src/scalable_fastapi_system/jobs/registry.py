"""Job kinds: which function runs under which name, with which arguments and limits.

A handler is declared with `@job("orders.ship")`. Its keyword-only parameters are the job's arguments: they are
validated when the job is enqueued, by the signature, and again when it runs, so a job that was accepted has
arguments that its handler can take.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Generic, Literal, NotRequired, ParamSpec, TypeVar, get_args, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError
from typing_extensions import TypedDict

from scalable_fastapi_system.jobs.errors import JobUsageError
from scalable_fastapi_system.jobs.limits import (
    LEAST_TIMEOUT_SECONDS,
    MAX_ATTEMPTS,
    MAX_KEY_LENGTH,
    MAX_PRIORITY,
    MAX_QUEUE_LENGTH,
    MIN_PRIORITY,
    decode,
    encode,
    is_seconds,
    is_within,
    refuse_long_integers,
)
from scalable_fastapi_system.kit.errors import FieldProblem, ValidationException
from scalable_fastapi_system.kit.templates import names_in
from scalable_fastapi_system.kit.texts import is_short_text, is_storable

P = ParamSpec("P")
R = TypeVar("R")

RunsIn = Literal["loop", "thread", "process"]

# Names that `enqueue` takes for itself.
RESERVED_ARGUMENTS = frozenset(
    {
        "session", "handler", "job_id", "owner_id", "run_at", "delay_seconds", "priority", "queue", "max_attempts",
        "timeout_seconds", "deadline_at", "unique_key", "concurrency_key",
    }
)  # fmt: skip
_KIND = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")
MAX_KIND_LENGTH = 100
# The argument that a field of a template is about: of {shop.id} and {shops[0]} what comes first.


class Backoff:
    """Exponential back-off with full jitter: between nothing and `base * 2^(failures-1)`, at most `cap`.

    Raises TypeError for what is no number of seconds, ValueError for one below nothing or above a hundred years.
    """

    __slots__ = ("base_seconds", "cap_seconds")

    def __init__(self, base_seconds: float = 2.0, cap_seconds: float = 600.0) -> None:
        for name, seconds in (("base_seconds", base_seconds), ("cap_seconds", cap_seconds)):
            _check_seconds(seconds, f"{name} is a number of seconds from 0 to a hundred years", least=0)
        self.base_seconds = base_seconds
        self.cap_seconds = cap_seconds

    def delay_seconds(self, failures: int, random: Callable[[], float]) -> float:
        """The pause after so many failures. Full jitter keeps a crowd that failed together from coming back together."""
        ceiling = min(self.cap_seconds, self.base_seconds * 2.0 ** min(failures - 1, 32))
        return ceiling * random()


class JobHandler(Generic[P, R]):
    """A declared job kind. Calling it runs the function itself, for instance in a test.

    Raises TypeError or ValueError, which say what to write, for options that can never work: here, and not at each
    enqueue or attempt.
    """

    def __init__(
        self,
        function: Callable[P, R],
        kind: str,
        *,
        queue: str,
        timeout_seconds: float | None,
        max_attempts: int | None,
        unique: bool,
        concurrency_key: str | Callable[..., str] | None,
        priority: int,
        runs_in: RunsIn,
        backoff: Backoff,
        is_public: bool,
    ) -> None:
        if not _KIND.fullmatch(kind) or len(kind) > MAX_KIND_LENGTH:
            raise ValueError(
                f"{kind!r} is no job kind: use lower-case words joined by dots, such as orders.ship"
            )
        if isinstance(function, JobHandler):
            raise TypeError(
                f"{kind}: {function!r} is a job already: declare a function of its own for another kind"
            )
        if not callable(function):
            raise TypeError(f"{kind}: a handler is a function, and not {function!r}")
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            raise TypeError(
                f"{kind}: a handler does not yield: it returns its result, and tells ctx.progress how far it is"
            )
        if runs_in not in get_args(RunsIn):
            raise ValueError(f"{kind}: runs_in is one of {', '.join(get_args(RunsIn))}, and not {runs_in!r}")
        is_async = inspect.iscoroutinefunction(function)
        if is_async and runs_in != "loop":
            raise TypeError(
                f"{kind}: an async function runs in the loop; only a plain one runs in a {runs_in}"
            )
        if not isinstance(backoff, Backoff):
            raise TypeError(
                f"{kind}: backoff is a Backoff, such as Backoff(2, 600) for pauses that grow from 2 seconds to 600,"
                f" and not {backoff!r}"
            )
        if not is_short_text(queue, MAX_QUEUE_LENGTH):
            raise ValueError(
                f"{kind}: queue is a name of 1 to {MAX_QUEUE_LENGTH} characters that can be stored, and not {queue!r}"
            )
        if timeout_seconds is not None:
            _check_seconds(
                timeout_seconds,
                f"{kind}: timeout_seconds is a number of seconds above 0 and up to a hundred years, or None for the"
                " setting's",
                least=LEAST_TIMEOUT_SECONDS,
            )
        if max_attempts is not None and not is_within(max_attempts, 1, MAX_ATTEMPTS):
            raise ValueError(
                f"{kind}: max_attempts is a number from 1 to {MAX_ATTEMPTS}, or None for the setting's, and not"
                f" {max_attempts!r}"
            )
        if not is_within(priority, MIN_PRIORITY, MAX_PRIORITY):
            raise ValueError(
                f"{kind}: priority is a number from {MIN_PRIORITY} to {MAX_PRIORITY}, and not {priority!r}"
            )
        self._key_asks = _names_asked_by(concurrency_key, function, kind)
        self.function = function
        self.kind = kind
        self.queue = queue
        self.timeout_seconds = timeout_seconds
        self.max_attempts = max_attempts
        self.unique = unique
        self.concurrency_key = concurrency_key
        self.priority = priority
        self.runs_in: RunsIn = "thread" if not is_async and runs_in == "loop" else runs_in
        self.backoff = backoff
        self.is_public = is_public
        self.__name__ = getattr(function, "__name__", kind)
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__
        self.__wrapped__ = function
        self._arguments: TypeAdapter[dict[str, Any]] | None = None
        self._defaults: dict[str, Any] | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<job {self.kind}>"

    @property
    def arguments(self) -> TypeAdapter[dict[str, Any]]:
        """Validates the arguments; made at its first use, when every annotation can be resolved."""
        if self._arguments is None:
            self._arguments = _arguments_of(self.function, self.kind)
        return self._arguments

    @property
    def defaults(self) -> dict[str, Any]:
        """What the signature gives for arguments that are left out, as they would be if they were given."""
        if self._defaults is None:
            self._defaults = _defaults_of(self.function)
        return self._defaults

    def validate_args(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments as the function gets them. Raises ValidationException, naming each one that does not fit."""
        try:
            return self.arguments.validate_python(arguments)
        except ValidationError as error:
            raise _refusal(self.kind, error) from None

    def encode_args(self, arguments: dict[str, Any]) -> bytes:
        """The arguments as JSON. Raises ValidationException, naming each argument that does not fit."""
        return self.encode_values(self.validate_args(arguments))

    def encode_values(self, values: dict[str, Any]) -> bytes:
        """Validated arguments as JSON. Raises ValidationException where they cannot be stored."""
        try:
            raw = self.arguments.dump_json(values)
        except PydanticSerializationError as error:  # bytes that are no text, half a character, too deep
            raise ValidationException(f"The arguments of {self.kind} cannot be stored: {error}") from None
        return _storable(self.kind, raw)

    def decode_args(self, text: str) -> dict[str, Any]:
        """The keyword arguments for the function. Raises ValidationException where they do not fit this version of it."""
        try:
            return self.arguments.validate_json(text)
        except ValidationError as error:
            raise _refusal(self.kind, error) from None

    def unique_key_of(self, args: bytes) -> str:
        """The key under which a `unique` job is the only live one: its kind and its arguments.

        The order of members does not count, nor whether a default is written out.
        """
        members = {name: _sorted_json(value) for name, value in decode(args).items()}
        for name, default in self.defaults.items():
            with suppress(PydanticSerializationError):  # such a default cannot be written out
                raw = self.arguments.dump_json({name: default}, warnings=False)
                if members.get(name) == _sorted_json(decode(raw)[name]):
                    del members[name]
        digest = hashlib.sha256(f"{self.kind}:{_sorted_json(members)}".encode()).hexdigest()[:40]
        return f"{self.kind[: MAX_KEY_LENGTH - 41]}:{digest}"

    def concurrency_key_of(self, values: dict[str, Any]) -> str | None:
        """The key of which one job runs at a time: a constant, a template (`"shop:{shop_id}"`) or a function.

        Filled from validated arguments, so that one value written in two ways is one key, and from the defaults.
        Raises JobUsageError where a function gives something else than text or None.
        """
        key = self.concurrency_key
        if key is None:
            return None
        if callable(key):
            given = self.defaults | values
            if self._key_asks is not None:
                given = {name: value for name, value in given.items() if name in self._key_asks}
            made: object = key(**given)
            if made is None or isinstance(made, str):
                return made
            raise JobUsageError(
                f'the concurrency_key of {self.kind} gave {made!r}: let it give text, such as f"shop:{{shop_id}}"'
            )
        try:
            return key.format(**self.defaults | values)
        except (KeyError, IndexError) as error:
            raise ValidationException(
                f"The concurrency key {key!r} of {self.kind} names an argument that was not given: {error}"
            ) from None


class JobRegistry:
    """The job kinds that a process knows."""

    def __init__(self) -> None:
        self._handlers: dict[str, JobHandler[..., Any]] = {}

    def add(self, handler: JobHandler[..., Any]) -> None:
        """Raises ValueError where another function has the name already (the same one, imported twice, is fine)."""
        known = self._handlers.get(handler.kind)
        if known is not None and _identity(known.function) != _identity(handler.function):
            raise ValueError(
                f"the job kind {handler.kind!r} is declared twice: by {'.'.join(_identity(known.function))} and by "
                f"{'.'.join(_identity(handler.function))}"
            )
        self._handlers[handler.kind] = handler

    def get(self, kind: str) -> JobHandler[..., Any] | None:
        return self._handlers.get(kind)

    def kinds(self) -> list[str]:
        """The names, sorted."""
        return sorted(self._handlers)

    def __iter__(self) -> Iterator[JobHandler[..., Any]]:
        return iter(list(self._handlers.values()))

    def __contains__(self, kind: object) -> bool:
        return kind in self._handlers


registry = JobRegistry()


def job(
    kind: str,
    *,
    queue: str = "default",
    timeout_seconds: float | None = None,
    max_attempts: int | None = None,
    unique: bool = False,
    concurrency_key: str | Callable[..., str] | None = None,
    priority: int = 0,
    runs_in: RunsIn = "loop",
    backoff: Backoff | None = None,
    is_public: bool = False,
    registry: JobRegistry = registry,
) -> Callable[[Callable[P, R]], JobHandler[P, R]]:
    """Declares a function `(ctx, *, arguments…)` as the handler of a job kind.

    timeout_seconds: of one attempt, above 0; None takes `JOBS__DEFAULT_TIMEOUT_SECONDS`.
    max_attempts: failures after which the job has failed, 1 to 32767; None takes `JOBS__DEFAULT_MAX_ATTEMPTS`.
    unique: while one with the same owner and arguments is live, enqueueing gives that one.
    concurrency_key: of the jobs with one key, one runs at a time; `"shop:{shop_id}"` is filled from the arguments.
    priority: smaller runs first, -100 to 100.
    runs_in: for plain functions `thread` (the default; a thread cannot be ended, so a time-out abandons it) or
        `process` (a time-out or a cancel kills it). Async functions run in the loop.
    is_public: may be named by a client of `POST /tasks/background`.

    Raises TypeError or ValueError for options that can never work.
    """
    if callable(kind):
        name = getattr(kind, "__name__", "orders.ship")
        raise TypeError(
            f'write @job("{name}") above it: the name of the kind in parentheses, and not @job alone'
        )
    if not isinstance(kind, str):
        raise TypeError(f'the name of a job kind is text, such as "orders.ship", and not {kind!r}')
    target = registry

    def declare(function: Callable[P, R]) -> JobHandler[P, R]:
        handler = JobHandler(
            function,
            kind,
            queue=queue,
            timeout_seconds=timeout_seconds,
            max_attempts=max_attempts,
            unique=unique,
            concurrency_key=concurrency_key,
            priority=priority,
            runs_in=runs_in,
            backoff=Backoff() if backoff is None else backoff,
            is_public=is_public,
        )
        target.add(handler)
        return handler

    return declare


def _check_seconds(value: object, rule: str, *, least: float) -> None:
    """Raises TypeError for what is no number, ValueError for one that breaks the rule; the rule is what they say."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{rule}, and not {value!r}")
    if not is_seconds(value, least=least):
        raise ValueError(f"{rule}, and not {value!r}")


def _names_asked_by(
    key: str | Callable[..., str] | None, function: Callable[..., Any], kind: str
) -> frozenset[str] | None:
    """The arguments that a concurrency key is made of; None for all of them.

    Raises TypeError or ValueError where it asks for one that the function does not have.
    """
    if key is None:
        return frozenset()
    names = list(inspect.signature(function).parameters)[1:]
    have = f"the handler's arguments are {', '.join(names) or 'none'}"
    if callable(key):
        try:
            asked = inspect.signature(key).parameters.values()
        except ValueError:  # one written in C does not always tell
            return None
        for one in asked:
            if one.name not in names and one.default is one.empty and one.kind not in _VARIADIC:
                raise TypeError(f"{kind}: concurrency_key asks for {one.name!r}, and {have}")
        if any(one.kind is one.VAR_KEYWORD for one in asked):
            return None
        return frozenset(one.name for one in asked)
    if not isinstance(key, str):
        raise TypeError(
            f"{kind}: concurrency_key is text, such as 'shop:{{shop_id}}', or a function of arguments, and not {key!r}"
        )
    if not is_storable(key):
        raise ValueError(f"{kind}: the concurrency_key {key!r} cannot be stored")
    try:
        fields = list(names_in(key))
    except ValueError as error:
        raise ValueError(
            f"{kind}: the concurrency_key {key!r} is no template such as 'shop:{{shop_id}}': {error}"
        ) from None
    if not fields and not 0 < len(key) <= MAX_KEY_LENGTH:
        raise ValueError(
            f"{kind}: a concurrency_key has 1 to {MAX_KEY_LENGTH} characters, and not {len(key)}"
        )
    for field in fields:
        if field not in names:
            raise ValueError(f"{kind}: the concurrency_key {key!r} names {field!r}, and {have}")
    return frozenset(fields)


_VARIADIC = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def _identity(function: Callable[..., Any]) -> tuple[str, str]:
    return function.__module__, function.__qualname__


def _arguments_of(function: Callable[..., Any], kind: str) -> TypeAdapter[dict[str, Any]]:
    hints = get_type_hints(function, include_extras=True)
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise TypeError(f"{kind}: the handler's first parameter is the JobContext")
    fields: dict[str, Any] = {}
    for parameter in parameters[1:]:
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            raise TypeError(f"{kind}: the argument {parameter.name!r} must be keyword-only: put it after `*`")
        if parameter.name in RESERVED_ARGUMENTS:
            raise TypeError(f"{kind}: {parameter.name!r} is a name that enqueue takes for itself")
        if parameter.name not in hints:
            raise TypeError(f"{kind}: the argument {parameter.name!r} has no type")
        annotation = hints[parameter.name]
        is_required = parameter.default is inspect.Parameter.empty
        fields[parameter.name] = annotation if is_required else NotRequired[annotation]
    # JSON has no infinity: it would be stored as null, and refused when the job runs.
    # A typed dict and not a model: any name will do for an argument, and the answer is what the function takes.
    shape = TypedDict(f"{kind} arguments", fields)  # type: ignore[misc]
    shape.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)  # type: ignore[attr-defined]
    adapter: TypeAdapter[dict[str, Any]] = TypeAdapter(shape)  # type: ignore[arg-type]
    return adapter


def _sorted_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)  # orjson writes less deep data than pydantic does


def _defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    hints = get_type_hints(function, include_extras=True)
    defaults: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.default is not parameter.empty:
            defaults[name] = parameter.default
            # One of another type, such as None, is given to the function as it is.
            with suppress(ValidationError):
                defaults[name] = TypeAdapter(hints[name]).validate_python(parameter.default)
    return defaults


def _refusal(kind: str, error: ValidationError) -> ValidationException:
    problems = [
        FieldProblem(".".join(str(part) for part in problem["loc"]), problem["msg"], problem["type"])
        for problem in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    named = ", ".join(str(problem) for problem in problems)
    return ValidationException(f"The arguments do not fit the job {kind}: {named}", problems=problems)


def _storable(kind: str, raw: bytes) -> bytes:
    try:
        refuse_long_integers(raw)
        if b"\\u0000" in raw:
            encode(decode(raw))
    except ValueError as error:
        raise ValidationException(f"The arguments of {kind} cannot be stored: {error}") from None
    return raw
