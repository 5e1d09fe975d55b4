"""Bare FastAPI with `DOMAINS` domains, each an included router, and the token checked as in tutorials."""

from __future__ import annotations

import os

from fastapi import Depends, FastAPI

from tests.bench.growth.many import router
from tests.bench.limits.shapes import user_id


def fastapi() -> FastAPI:
    """The application."""
    app, caller = FastAPI(), Depends(user_id)
    for number in range(int(os.environ["DOMAINS"])):
        app.include_router(router(number, caller))
    return app
