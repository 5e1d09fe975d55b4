"""What tells one call of a function from another: the values of its arguments, and who asks.

Arguments are bound by the function's signature with defaults filled in, so names, order and form of the call do not
matter. What says how an answer is made and not which one (a request, a session, a manager) is passed over by its type.
A principal or a user is not an argument but the identity of the caller. Anything else that has no canonical form is a
TypeError: a silent hit would give one caller another's answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import PurePath
from typing import Any, get_args, get_type_hints
from uuid import UUID

import orjson
from pydantic import AnyUrl, BaseModel

from scalable_fastapi_system.kit.templates import names_in

# By name: this module must not load the frameworks whose objects it is to know.
_PASSED_OVER = frozenset(
    {
        "starlette.requests.HTTPConnection",
        "starlette.responses.Response",
        "starlette.background.BackgroundTask",
        "fastapi.params.Depends",
        "fastapi.security.oauth2.SecurityScopes",
        "sqlalchemy.orm.session.Session",
        "sqlalchemy.ext.asyncio.session.AsyncSession",
        "sqlalchemy.engine.base.Connection",
        "sqlalchemy.engine.base.Engine",
        "sqlalchemy.ext.asyncio.engine.AsyncConnection",
        "sqlalchemy.ext.asyncio.engine.AsyncEngine",
        "httpx.Client",
        "httpx.AsyncClient",
        "scalable_fastapi_system.infra.resources.Resources",
        "scalable_fastapi_system.infra.cache.manager.CacheManager",
        "scalable_fastapi_system.infra.database.manager.DatabaseManager",
        "scalable_fastapi_system.infra.http_client.HttpClient",
        "scalable_fastapi_system.infra.storage.base.FileStorage",
        "scalable_fastapi_system.jobs.client.JobClient",
    }
)
_REQUEST = "starlette.requests.Request"
# By their types and not by what they look like: a filter may well have a `key` and a `kind`.
_CALLERS = frozenset(
    {
        "scalable_fastapi_system.identity.principal.Principal",
        "scalable_fastapi_system.identity.models.User",
    }
)
CREDENTIALS = (b"authorization", b"x-api-key", b"cookie")
_MAX_KINDS = 4096
_JSON_TYPES = frozenset({str, bool, type(None)})
# Of these none is a caller or passed over, so nobody needs to look.
_PLAIN_TYPES = frozenset({int, float, UUID, Decimal, date, datetime, list, tuple, dict, set})
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
# Their text tells any two of one type apart.
_KNOWN_BY_TEXT = (
    UUID, Decimal, date, time, timedelta, PurePath, AnyUrl, IPv4Address, IPv6Address, IPv4Interface, IPv6Interface,
    IPv4Network, IPv6Network,
)  # fmt: skip

_FIXED_TYPES = (str, int, float, bytes, tuple, frozenset, type(None), Enum, datetime, *_KNOWN_BY_TEXT)


@dataclass(slots=True)  # not frozen: one is made for every call
class Call:
    """One call as the cache sees it.

    args, kwargs: as the function is given them.
    arguments: the same by name, defaults filled in.
    digest: of the values that tell it from other calls.
    identity: of the caller, None where nobody is named.
    request: the request that it was given, if any.
    url: digest of that request's path and query, which the function may read; "" without a request.
    has_passing_arguments: whether it was given something that ends with the request, such as a session.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    arguments: dict[str, Any]
    digest: str
    identity: str | None
    request: Any
    url: str
    has_passing_arguments: bool


class CallKeys:
    """Makes keys for the calls of one function."""

    def __init__(self, function: Any, *, ignore: Collection[str] = ()) -> None:
        """ignore: names of parameters that are passed over. Raises ValueError for one that there is not."""
        self._function = function
        self.signature = inspect.signature(function)
        unknown = set(ignore) - set(self.signature.parameters)
        if unknown:
            raise ValueError(f"{function.__qualname__} has no parameter {', '.join(sorted(unknown))}")
        self._ignored = frozenset(ignore)
        parameters = self.signature.parameters.values()
        self._names = tuple(parameter.name for parameter in parameters)
        self._sorted = sorted(self._names)
        self._defaults = {
            parameter.name: parameter.default
            for parameter in parameters
            if parameter.default is not parameter.empty
        }
        # Most functions can be bound by a few dictionary operations in place of `Signature.bind`.
        self._is_simple = all(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters)

    def check_template(self, tag: str) -> None:
        """Raises ValueError for a tag that no call can fill in: it is better told where it is written than by each call."""
        try:
            names = set(names_in(tag))
        except ValueError as error:
            raise ValueError(f"the tag {tag!r} of {self._function.__qualname__}: {error}") from None
        for name in names:
            if name not in self.signature.parameters:
                raise ValueError(
                    f"{self._function.__qualname__} has no parameter {name}, which the tag {tag!r} names"
                    if name
                    else f"the tag {tag!r} of {self._function.__qualname__} has to name a parameter"
                )

    def of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """The call. Raises TypeError for a wrong call, or for an argument that cannot be part of a key."""
        arguments = self._bound(args, kwargs)
        if arguments is None:
            bound = self.signature.bind(*args, **kwargs)
            bound.apply_defaults()
            arguments = bound.arguments
        return self._call(args, kwargs, arguments)

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
        """The arguments by name; None where it takes more to tell what they are, or what is wrong."""
        if not self._is_simple or len(args) > len(self._names):
            return None
        arguments = {**self._defaults, **dict(zip(self._names, args, strict=False)), **kwargs}
        is_whole = len(arguments) == len(self._names) and all(name in arguments for name in self._names)
        is_double = bool(args) and not kwargs.keys().isdisjoint(self._names[: len(args)])
        return arguments if is_whole and not is_double else None

    def partly(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, is_bound: bool = False) -> Call:
        """The call as far as it is told: what would be passed over may be missing. Raises TypeError for more, and for
        a positional argument that may be meant for a later parameter than the one in whose place it stands.

        is_bound: the first argument is the object whose method this is, and surely meant for its place.
        """
        bound = self.signature.bind_partial(*args, **kwargs)
        hints = annotations_of(self._function)
        telling = [
            name
            for name, parameter in self.signature.parameters.items()
            if parameter.kind not in _VARIABLE
            and name not in self._ignored
            and not _may_be_missing(hints.get(name))
        ]
        left = [name for name in telling if name not in bound.arguments]
        for name, value in list(zip(self._names, args, strict=False))[int(is_bound) :]:
            if self._is_misplaced(name, hints.get(name), value, is_whole=not left):
                shown = ", ".join(f"{other}=…" for other in telling)
                raise TypeError(
                    f"this {type(value).__name__} would be for {name}, which tells no entry; say by name what is meant: "
                    f"{self._function.__qualname__}.invalidate({shown})"
                )
        needed = [name for name in left if self.signature.parameters[name].default is inspect.Parameter.empty]
        if needed:
            raise TypeError(f"{self._function.__qualname__} also needs {', '.join(needed)} to tell the entry")
        bound.apply_defaults()
        return self._call(args, kwargs, bound.arguments)

    def _is_misplaced(self, name: str, hint: Any, value: Any, *, is_whole: bool) -> bool:
        """Whether a positional argument may be meant for a later parameter, as this one is passed over.

        is_whole: nothing that tells an entry is left to its default, so no argument can have moved.
        """
        if name in self._ignored:  # takes anything
            return not is_whole
        if _hinted_kind(hint) == "value" or _kind_of(type(value)) != "value":
            return False
        return value is not None or not is_whole

    def has_value_of(self, name: str, call: Call) -> bool:
        """Whether the call's digest has the value of an argument of this name."""
        if name in self._ignored or name not in call.arguments:
            return False
        kind = type(call.arguments[name])
        return kind in _JSON_TYPES or kind in _PLAIN_TYPES or _kind_of(kind) == "value"

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any], arguments: dict[str, Any]) -> Call:
        parts: list[Any] = []
        identity = request = None
        has_passing = False
        for name in self._sorted:
            if name in self._ignored:
                has_passing = True
                continue
            if name not in arguments:  # left out where an entry is to be forgotten
                continue
            value = arguments[name]
            if type(value) in _JSON_TYPES:
                parts.append((name, value))
                continue
            if type(value) in _PLAIN_TYPES:
                parts.append((name, _plain(value, name)))
                continue
            kind = _kind_of(type(value))
            if kind == "value":
                parts.append((name, _plain(value, name)))
                continue
            if kind == "caller":
                caller = _identity(value)
                identity = caller if identity is None else f"{identity} {caller}"
                continue
            has_passing = True
            if kind == "request":
                request = value
        digest = digest_of(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS))
        url = ""
        if request is not None:
            scope = request.scope
            url = digest_of(scope["path"].encode() + b"?" + scope.get("query_string", b""))
            identity = identity or caller_of(request)
        return Call(args, kwargs, arguments, digest, identity, request, url, has_passing)


def made_with(function: Any) -> str:
    """A digest of the plain values, classes and functions that a function was made with; "" where there are none.

    Functions that another one makes are all of one name: this tells them apart. It is asked for when they are made, so
    that what they count later changes nothing. Any other object (an application, a manager) is passed over.
    """
    parts = _parts_made_with(function, frozenset())
    return digest_of(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)) if parts else ""


def _parts_made_with(function: Any, above: frozenset[Any]) -> list[Any]:
    parts: list[Any] = []
    names = function.__code__.co_freevars if hasattr(function, "__code__") else ()
    for name, cell in zip(names, getattr(function, "__closure__", None) or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # set later
            continue
        if isinstance(value, type):
            parts.append((name, f"{value.__module__}.{value.__qualname__}"))
        elif inspect.isfunction(value):
            if value not in above:  # one that calls itself
                inner = _parts_made_with(value, above | {function})
                parts.append((name, f"{value.__module__}.{value.__qualname__}", inner))
        elif isinstance(value, _FIXED_TYPES):
            with contextlib.suppress(TypeError):  # a tuple of other things
                parts.append((name, _plain(value, name)))
    return parts


def annotations_of(function: Any) -> dict[str, Any]:
    """The annotations of a function; as text where one names what only type checkers import."""
    try:
        return get_type_hints(function, include_extras=True)
    except NameError:
        return dict(function.__annotations__)


def digest_of(raw: bytes) -> str:
    """A short name for these bytes: keys show no argument, which may be somebody's address or token."""
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def credentials_of(request: Any) -> bytes:
    """Everything in the request that may say who asks; empty where nothing does."""
    found = [name + b"=" + value for name, value in request.scope["headers"] if name in CREDENTIALS]
    return b"\n".join(sorted(found))


def caller_of(request: Any) -> str | None:
    """Who this request comes from: its principal where that was found, else its credentials; None for nobody."""
    principal = (request.scope.get("state") or {}).get("principal")
    identity = None if principal is None else _identity(principal)
    if identity is None:
        credentials = credentials_of(request)
        return f"credentials:{digest_of(credentials)}" if credentials else None
    return identity


def _kind_of(kind: type) -> str:
    """`value`, `caller`, `request`, or `passing` for what is passed over."""
    found = _kinds.get(kind)
    if found is None:
        if len(_kinds) >= _MAX_KINDS:  # somebody makes types as they go
            _kinds.clear()
        found = _kinds[kind] = _kind_by_name(kind)
    return found


_kinds: dict[type, str] = {}


def _kind_by_name(kind: type) -> str:
    names = {f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__}
    if _REQUEST in names:
        return "request"
    if names & _CALLERS:
        return "caller"
    return "passing" if names & _PASSED_OVER else "value"


def _hinted_kind(hint: Any) -> str:
    if isinstance(hint, str):
        return "request" if hint.rpartition(".")[2] == "Request" else "value"
    plain = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    return _kind_of(plain) if isinstance(plain, type) else "value"


def _may_be_missing(hint: Any) -> bool:
    """Whether a parameter with this annotation is passed over, or is filled in by FastAPI, as the caller is."""
    is_dependency = any(_kind_of(type(extra)) != "value" for extra in getattr(hint, "__metadata__", ()))
    return is_dependency or _hinted_kind(hint) != "value"


def _identity(value: Any) -> str | None:
    key = getattr(value, "key", None)
    if isinstance(key, str) and hasattr(value, "kind"):  # a principal
        scopes = getattr(value, "scopes", None)
        shown = "*" if scopes is None else ",".join(sorted(scopes))
        return f"{key}|{getattr(value, 'role', '')}|{shown}"
    if hasattr(value, "hashed_password") and hasattr(value, "id"):  # a stored user
        return f"user:{value.id}|{getattr(value, 'role', '')}|*"
    return None


def _plain(value: Any, name: str) -> Any:
    """The value as JSON that no value of another type has."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return {"\0": _name(value), "=": _plain(value.value, name)}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value) if -(2**53) < value < 2**53 else {"\0": "int", "=": str(int(value))}
    if isinstance(value, float):
        return (
            {"\0": "float", "=": repr(float(value))}
            if value.is_integer() or not math.isfinite(value)
            else value
        )
    if isinstance(value, _KNOWN_BY_TEXT):
        return {"\0": _name(value), "=": str(value)}
    if isinstance(value, bytes | bytearray):
        return {"\0": "bytes", "=": value.hex()}
    if isinstance(value, BaseModel):
        return {"\0": _name(value), "=": _plain_model(value, name)}
    if is_dataclass(value) and not isinstance(value, type):
        return {
            "\0": _name(value),
            "=": {field.name: _plain(getattr(value, field.name), name) for field in fields(value)},
        }
    if isinstance(value, Mapping):
        pairs = [[_plain(key, name), _plain(item, name)] for key, item in value.items()]
        return {"\0": "dict", "=": sorted(pairs, key=repr)}
    if isinstance(value, list | tuple):
        return [_plain(item, name) for item in value]
    if isinstance(value, set | frozenset):
        return {"\0": "set", "=": sorted((_plain(item, name) for item in value), key=repr)}
    raise TypeError(
        f"the argument {name!r} of type {type(value).__name__} cannot be part of a cache key: "
        f"hand over a plain value, or name it in ignore=({name!r},)"
    )


def _plain_model(value: BaseModel, name: str) -> dict[str, Any]:
    """What the model holds, field by field, as that is.

    Not as the model would be shown: that masks secrets, leaves out what is excluded, and of a field it shows what its
    annotation has, not what a subclass adds.
    """
    held = vars(value)
    plain = {
        # From `vars` where it is there: reading a deprecated field is a warning.
        field: _plain(held[field] if field in held else getattr(value, field), name)
        for field in type(value).model_fields
    }
    extra = {field: _plain(item, name) for field, item in (value.model_extra or {}).items()}
    return {**plain, "\0extra": extra} if extra else plain


def _name(value: Any) -> str:
    return type(value).__qualname__
