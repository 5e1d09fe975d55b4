"""What is measured: the requests, and how near to the hand-written application each has to come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_NEW_ITEM = {
    "title": "An item of the bench",
    "description": "as long as a description is that a person types",
}


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of request.

    base: the hand-written work that it is compared with. at_least: the ratio to it that the platform has to reach.
    """

    name: str
    title: str
    path: str
    method: str = "GET"
    body: dict[str, Any] | None = None
    base: str = ""
    at_least: float | None = None
    writes: bool = False


ME = Work("me", "`/users/me`, identity cached", "/users/me", base="me", at_least=1.3)
CHECKED = Work("checked", "`/users/me`, token checked, no I/O", "/users/me/checked")
READ = Work("read", "read one row", "/items/{item_id}", base="read", at_least=0.75)
LIST = Work("list", "list of 100 rows", "/items?limit=100", base="list", at_least=0.8)
CACHED = Work("cached", "cached read of one row", "/cached/items/{item_id}", base="cached", at_least=0.8)
CACHED_LIST = Work(
    "cached-list", "cached list of 100 rows", "/cached/items", base="cached-list", at_least=0.8
)
CREATE = Work(
    "create", "create one row", "/items", "POST", _NEW_ITEM, base="create", at_least=0.6, writes=True
)
CREATE_IN_SESSION = Work(
    "create-in-session",
    "create one row in a session",
    "/transactions/items",
    "POST",
    _NEW_ITEM,
    base="create",
    writes=True,
)
ENQUEUE = Work(
    "enqueue", "enqueue a job", "/items/{item_id}/measure", "POST", base="create", at_least=0.6, writes=True
)
ENQUEUE_IN_SESSION = Work(
    "enqueue-in-session",
    "enqueue a job in a session",
    "/transactions/items/{item_id}/measure",
    "POST",
    base="create",
    writes=True,
)

WORKS = (ME, CHECKED, READ, LIST, CACHED, CACHED_LIST, CREATE, CREATE_IN_SESSION, ENQUEUE, ENQUEUE_IN_SESSION)
_ALL = (ME, READ, LIST, CACHED, CACHED_LIST, CREATE)

# Who can do what. The order is that of the runs within a round.
TARGETS: dict[str, tuple[Work, ...]] = {
    "starlette": (ME,),
    "fastapi": (ME, CHECKED),
    "handwritten": _ALL,
    "handwritten-tuned": _ALL,
    "naive": _ALL,
    "ours": (*_ALL, CREATE_IN_SESSION, ENQUEUE, ENQUEUE_IN_SESSION),
    "ours-traced": (*_ALL, ENQUEUE),
    "ours-traced-all": (*_ALL, ENQUEUE),
}
# What the names of the targets stand for.
TITLES = {
    "starlette": "bare Starlette",
    "fastapi": "bare FastAPI",
    "handwritten": "hand-written",
    "handwritten-tuned": "hand-written, tuned",
    "naive": "naive guide stack",
    "ours": "ours, everything on",
    "ours-traced": "ours, 1 of 10 traced",
    "ours-traced-all": "ours, all traced",
}
BASE = "handwritten"
