"""The HTTP face of identity."""

from __future__ import annotations

from fastapi import APIRouter

from scalable_fastapi_system.identity.routes import (
    admin,
    api_keys,
    auth,
    oidc,
    recovery,
    recovery_pages,
    users,
    well_known,
)


def routers() -> list[APIRouter]:
    """Every router of identity, in the order of the documentation."""
    return [
        auth.router,
        recovery.router,
        recovery_pages.router,
        users.router,
        oidc.router,
        api_keys.router,
        admin.router,
        well_known.router,
    ]
