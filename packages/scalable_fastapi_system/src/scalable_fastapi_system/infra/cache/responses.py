"""`cache_response`: a decorator for async functions and for endpoints.

A function's answer is kept under the values of its arguments and, where it is told who asks, under the caller; see
`call_keys`. It comes back as plain JSON types, when it was computed, too. Errors are not kept.

An endpoint is the same with HTTP around it (`web.cached_endpoints`): an ETag, 304s, Cache-Control, and an answer made
for one caller is never given to another.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
import weakref
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Generic, ParamSpec, TypeVar, cast

from scalable_fastapi_system.infra.cache.call_keys import Call, CallKeys, digest_of, made_with
from scalable_fastapi_system.infra.cache.codec import decode, encode
from scalable_fastapi_system.infra.cache.loading import Loaded, Recipe
from scalable_fastapi_system.infra.cache.manager import CacheManager, Seconds, plain_seconds
from scalable_fastapi_system.infra.cache.names import names_of
from scalable_fastapi_system.infra.settings import load_settings
from scalable_fastapi_system.kit.domain import load_object

P = ParamSpec("P")
R = TypeVar("R")

# Named by string, as domains name their routes: a worker that calls cached functions must not load the web framework.
_ENDPOINT_FACE = "scalable_fastapi_system.web.cached_endpoints"
# What FastAPI is asked for beside the function's own parameters.
REQUEST_PARAMETER = "cache_request_"
RESPONSE_PARAMETER = "cache_response_"

_default: weakref.ref[CacheManager] | None = None
_own_default: CacheManager | None = None


def set_default_cache(manager: CacheManager) -> None:
    """Makes this the cache of functions that name none and are called without a request. `create_app` calls it."""
    global _default  # noqa: PLW0603 - the guide's decorator names no manager
    _default = weakref.ref(manager)


def default_cache() -> CacheManager:
    """The one that was set last and is still in use, else one made from the settings."""
    global _own_default  # noqa: PLW0603 - see above
    found = _default() if _default is not None else None
    if found is not None:
        return found
    if _own_default is None:
        _own_default = CacheManager(load_settings())
    return _own_default


@functools.cache
def _endpoint_face(name: str) -> Any:
    return load_object(f"{_ENDPOINT_FACE}:{name}")


def cache_response(
    ttl: Seconds | None = None,
    key_prefix: str = "response",
    *,
    manager: CacheManager | None = None,
    stale_seconds: float = 0.0,
    stale_on_error_seconds: float = 0.0,
    negative_ttl: Seconds = 30.0,
    tags: str | Sequence[str] = (),
    ignore: str | Collection[str] = (),
    is_per_user: bool = True,
) -> Callable[[Callable[P, Awaitable[R]]], CachedFunction[P, R]]:
    """Keeps what an async function or endpoint answers for `ttl` seconds (the settings' default where None).

    stale_seconds, stale_on_error_seconds, negative_ttl: as in `CacheManager.get_or_load`.
    tags: one, or several, for `invalidate_tag`; `{name}` stands for the value of an argument.
    ignore: a parameter, or several, that do not change the answer. Requests, sessions and the like are ignored by their type.
    is_per_user: False says that the answer is the same for everyone who may have it, whoever asks.
    Raises TypeError for a function that is not async, ValueError for a name in tags or ignore of a parameter that it
    does not have, and TypeError at a call for an argument that cannot be part of a key.
    """

    def decorate(function: Callable[P, Awaitable[R]]) -> CachedFunction[P, R]:
        return CachedFunction(
            function,
            key_prefix=key_prefix,
            manager=manager,
            ttl=ttl,
            stale_seconds=stale_seconds,
            stale_on_error_seconds=stale_on_error_seconds,
            negative_ttl=negative_ttl,
            tags=tags,
            ignore=ignore,
            is_per_user=is_per_user,
        )

    return decorate


class CachedFunction(Generic[P, R]):
    """A function whose answers are kept, and how to forget them."""

    def __init__(
        self,
        function: Callable[P, Awaitable[R]],
        *,
        key_prefix: str,
        manager: CacheManager | None,
        ttl: Seconds | None,
        stale_seconds: float,
        stale_on_error_seconds: float,
        negative_ttl: Seconds,
        tags: str | Sequence[str],
        ignore: str | Collection[str],
        is_per_user: bool,
    ) -> None:
        if not inspect.iscoroutinefunction(inspect.unwrap(function)):
            raise TypeError(f"{function!r} is not an async function: only those can be cached")
        functools.update_wrapper(self, function)
        self.function = function
        self.is_per_user = is_per_user
        self._keys = CallKeys(function, ignore=names_of(ignore))
        self._name = f"{key_prefix}:{function.__module__}.{function.__qualname__}"
        if made := made_with(function):
            self._name += f":{made}"
        self._manager = manager
        self._ttl = ttl
        self._stale_seconds = stale_seconds
        self._error_seconds = stale_on_error_seconds
        self._negative_seconds = plain_seconds(negative_ttl)
        self._tags = names_of(tags)
        for tag in self._tags:
            self._keys.check_template(tag)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        request: Any = kwargs.pop(REQUEST_PARAMETER, None)
        response: Any = kwargs.pop(RESPONSE_PARAMETER, None)
        call = self._keys.of(args, kwargs)
        request = call.request if request is None else request
        if request is not None and self._is_endpoint_of(request):
            return cast("R", await _endpoint_face("answer")(self, call, request, response))
        identity = call.identity if self.is_per_user else None
        cache = self.cache_for(request)
        key = self.key(call, identity)
        fresh = cache.fresh(key)
        if fresh is not None:
            return cast("R", decode(fresh.payload))

        async def load() -> Loaded:
            value = await self.run(call)
            return Loaded(encode(value), is_negative=value is None)

        entry = await cache.flights.entry(key, load, self.recipe(cache, call, identity))
        return cast("R", decode(entry.payload))

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else BoundCachedFunction(self, instance)

    @property
    def __signature__(self) -> inspect.Signature:
        """The function's, and in a process with the web framework what that has to give for the HTTP side.

        Made when it is asked for: the annotations may name what is defined later.
        """
        if "starlette.requests" not in sys.modules:
            return self._keys.signature
        return cast("inspect.Signature", _endpoint_face("signature_of")(self))

    # -- forgetting -----------------------------------------------------------------------------------------

    async def invalidate(self, *args: Any, **kwargs: Any) -> None:
        """Forgets the answers for these arguments; without a principal among them, those for every caller.

        Requests, sessions and what FastAPI fills in may be left out; what follows them is then given by name. Raises
        TypeError where more is missing, or where a value stands in the place of what was left out.
        """
        await self._invalidate(args, kwargs)

    async def _invalidate(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, is_bound: bool = False
    ) -> None:
        call = self._keys.partly(args, kwargs, is_bound=is_bound)
        cache = self.cache_for(call.request)
        identity = call.identity if self.is_per_user else None
        # The entries of other callers, of other URLs, and an endpoint's for each path, are found by a tag that they share.
        await cache.forget([self.key(call, identity)], (self._call_tag(call, identity),))

    async def invalidate_all(self) -> None:
        """Forgets every answer of this function."""
        await self.cache_for(None).invalidate_tag(self._name)

    # -- for the endpoints' side ----------------------------------------------------------------------------

    async def run(self, call: Call) -> R:
        """What the function itself answers."""
        return await self.function(*call.args, **call.kwargs)

    def has_value_of(self, name: str, call: Call) -> bool:
        """Whether the key has the value of an argument of this name."""
        return self._keys.has_value_of(name, call)

    def key(self, call: Call, identity: str | None, *, path: str = "") -> str:
        """Where the answer to this call by this caller is. path: of the endpoint that was asked for, in any form.

        Two endpoints may be of one name, as those are that a function makes for each of several tables.
        """
        parts = [self._name, call.digest]
        if path:
            parts.append("http")
        if call.url:  # has the path in it
            parts.append(call.url)
        elif path:
            parts.append(digest_of(path.encode()))
        if identity is not None:
            parts.append(digest_of(identity.encode()))
        return ":".join(parts)

    def recipe(self, cache: CacheManager, call: Call, identity: str | None, *, path: str = "") -> Recipe:
        """How the answer is kept."""
        fresh_seconds = cache.seconds(self._ttl)
        tags = [self._name, *(tag.format_map(call.arguments) for tag in self._tags)]
        has_urls = bool(call.url or path)
        if identity is not None or has_urls:
            tags.append(self._call_tag(call, None))  # one call has many entries: this is how they are found
        if identity is not None and has_urls:
            tags.append(self._call_tag(call, identity))
        return Recipe(
            fresh_seconds,
            self._stale_seconds,
            self._error_seconds,
            min(fresh_seconds, self._negative_seconds),
            tuple(tags),
            is_refreshed_in_background=not call.has_passing_arguments,
        )

    def cache_for(self, request: Any) -> CacheManager:
        """The cache named with the decorator, else that of the request's application, else the default."""
        if self._manager is not None:
            return self._manager
        if request is not None:
            resources = getattr(request.app.state, "resources", None)
            if resources is not None:
                return cast("CacheManager", resources.cache)
        return default_cache()

    def _call_tag(self, call: Call, identity: str | None) -> str:
        tag = f"{self._name}:{call.digest}"
        return tag if identity is None else f"{tag}:{digest_of(identity.encode())}"

    def _is_endpoint_of(self, request: Any) -> bool:
        """Whether this call is the request's endpoint, and not a function that was handed the request."""
        endpoint = request.scope.get("endpoint")
        if endpoint is self:
            return True
        return endpoint is not None and inspect.unwrap(endpoint) is inspect.unwrap(self)


class BoundCachedFunction(Generic[R]):
    """A cached method of one object: the object comes before what it is called with, and before what it is to forget.

    Python's own bound method would put it before the first alone, as it does not know of the second.
    """

    def __init__(self, cached: CachedFunction[Any, R], instance: object) -> None:
        self.__func__ = cached
        self.__self__ = instance
        self.__doc__ = cached.__doc__
        self.__module__ = cached.__module__

    async def __call__(self, *args: Any, **kwargs: Any) -> R:
        return await self.__func__(self.__self__, *args, **kwargs)

    async def invalidate(self, *args: Any, **kwargs: Any) -> None:
        """As `CachedFunction.invalidate`, with the arguments that the method is called with."""
        await self.__func__._invalidate((self.__self__, *args), kwargs, is_bound=True)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(types.MethodType(self.__func__, self.__self__))

    def __getattr__(self, name: str) -> Any:
        # Past this method: a copy that is being made has no `__func__` yet.
        return getattr(object.__getattribute__(self, "__func__"), name)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BoundCachedFunction):
            return NotImplemented
        return self.__func__ is other.__func__ and self.__self__ is other.__self__

    def __hash__(self) -> int:
        return hash((id(self.__func__), id(self.__self__)))

    def __repr__(self) -> str:
        return f"<bound cached {self.__func__.function.__qualname__} of {self.__self__!r}>"
