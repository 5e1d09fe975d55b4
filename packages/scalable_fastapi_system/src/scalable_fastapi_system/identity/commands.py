"""The operators' commands about users and signing keys: the first administrator is made here, not over HTTP.

Imports nothing of the web, so that they run in the worker's image too. What they do is in the audit log as `system`.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.identity.audit import NO_CLIENT, SYSTEM
from scalable_fastapi_system.identity.changes import ChangeFeed
from scalable_fastapi_system.identity.models import ROLE_USER, User
from scalable_fastapi_system.identity.passwords import PasswordHasher
from scalable_fastapi_system.identity.principal import ROLES
from scalable_fastapi_system.identity.repository import users
from scalable_fastapi_system.identity.schemas import UserCreate
from scalable_fastapi_system.identity.service import accounts, sessions
from scalable_fastapi_system.infra.database import DatabaseManager
from scalable_fastapi_system.infra.redis import RedisConnections
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.kit.clock import utc_now
from scalable_fastapi_system.kit.domain import Product
from scalable_fastapi_system.kit.errors import APIException, NotFoundException, ServiceUnavailableException

EXIT_REFUSED = 1
_PAGE = 200

Change = Callable[[AsyncSession, User], Awaitable[str]]


def add_commands(commands: Any) -> None:
    """Adds `user` and `signing-key` to the command line's parsers."""
    user = commands.add_parser("user", help="make, list and change users")
    verbs = user.add_subparsers(dest="verb", required=True, metavar="VERB")
    create = verbs.add_parser("create", help="make a user; the password is asked for, or read from a pipe")
    create.add_argument("username")
    create.add_argument("email")
    create.add_argument("--role", choices=ROLES, default=ROLE_USER)
    create.set_defaults(run=_create)
    listing = verbs.add_parser("list", help="list users, one a line")
    listing.add_argument("--role", choices=ROLES)
    listing.set_defaults(run=_list)
    for name, description in (
        ("enable", "let a user in again"),
        ("disable", "refuse a user everywhere, and end their sign-ins"),
        ("sign-out", "end every sign-in of a user"),
    ):
        verb = verbs.add_parser(name, help=description)
        verb.add_argument("user", help="name or address")
        verb.set_defaults(run=_change)
    role = verbs.add_parser("set-role", help="appoint a user")
    role.add_argument("user", help="name or address")
    role.add_argument("role", choices=ROLES)
    role.set_defaults(run=_change)

    key = commands.add_parser(
        "signing-key", help="print a new private key for SECURITY__SIGNING_KEYS_FILE, as a JWK"
    )
    key.add_argument("--algorithm", choices=("ES256", "EdDSA", "RS256"), default="ES256")
    key.set_defaults(run=_signing_key)


def _create(arguments: argparse.Namespace, settings: Settings, product: Product) -> int:
    try:
        wanted = UserCreate(username=arguments.username, email=arguments.email, password=_ask_password())
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False, include_context=False):
            where = ".".join(str(part) for part in problem["loc"])
            _say_error(f"{where}: {problem['msg'].removeprefix('Value error, ')}".removeprefix(": "))
        return EXIT_REFUSED
    hashed = PasswordHasher(settings.security).hash(wanted.password)

    async def work(session: AsyncSession) -> str:
        user = await accounts.register(
            session,
            username=wanted.username,
            email=wanted.email,
            hashed_password=hashed,
            client=NO_CLIENT,
            role=arguments.role,
            source=SYSTEM,
        )
        return f"Made {user.username} ({user.role}), number {user.id}."

    return _in_transaction(settings, product, work)


def _list(arguments: argparse.Namespace, settings: Settings, product: Product) -> int:
    async def work(session: AsyncSession) -> str:
        lines: list[str] = []
        after = 0
        while page := await users.page(session, after_id=after, limit=_PAGE, role=arguments.role):
            lines += [
                f"{user.id}\t{user.username}\t{user.email}\t{user.role}\t"
                f"{'active' if user.is_active else 'disabled'}"
                for user in page
            ]
            after = page[-1].id or after
        return "\n".join(lines) or "There are no users."

    return _in_transaction(settings, product, work)


def _change(arguments: argparse.Namespace, settings: Settings, product: Product) -> int:
    changed: list[int] = []

    async def work(session: AsyncSession) -> str:
        user = await users.find(session, arguments.user)
        if user is None or user.id is None:
            raise NotFoundException(f"There is no user {arguments.user!r}.")
        changed.append(user.id)
        if arguments.verb == "sign-out":
            ended = await sessions.end_all(
                session, user_id=user.id, source=SYSTEM, client=NO_CLIENT, now=utc_now()
            )
            return f"Ended {ended} sign-ins of {user.username}."
        after = await accounts.set_access(
            session,
            user_id=user.id,
            source=SYSTEM,
            client=NO_CLIENT,
            now=utc_now(),
            is_active={"enable": True, "disable": False}.get(arguments.verb),
            role=getattr(arguments, "role", None),
        )
        return f"{after.username} is {after.role} and {'active' if after.is_active else 'disabled'}."

    return _in_transaction(settings, product, work, tell=changed)


def _signing_key(arguments: argparse.Namespace, _settings: Settings, _product: Product) -> int:
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    key: ECKey | OKPKey | RSAKey
    if arguments.algorithm == "RS256":
        key = RSAKey.generate_key(3072)
    elif arguments.algorithm == "EdDSA":
        key = OKPKey.generate_key("Ed25519")
    else:
        key = ECKey.generate_key("P-256")
    _say(json.dumps({**key.as_dict(private=True), "kid": key.thumbprint()}))
    return 0


def _in_transaction(
    settings: Settings,
    product: Product,
    work: Callable[[AsyncSession], Awaitable[str]],
    *,
    tell: list[int] | None = None,
) -> int:
    """Runs the work, prints what it says, and tells the running replicas of the users in `tell`."""
    if settings.is_ephemeral:
        _say_error("DATABASE__DATABASE_URL is not set: the database would go with this command.")
        return EXIT_REFUSED
    product.load_models()

    async def run() -> str:
        database = DatabaseManager(settings)
        try:
            async with database.transaction() as session:
                said = await work(session)
        finally:
            await database.stop()
        redis = RedisConnections(settings.redis)
        feed = ChangeFeed(redis, on_user=lambda _user_id: None, on_gap=lambda: None)
        for user_id in tell or ():
            await feed.publish(user_id)
        await redis.stop()
        return said

    try:
        _say(asyncio.run(run()))
    except ServiceUnavailableException:
        raise  # no refusal: a store that does not answer, which has an exit code of its own
    except APIException as error:
        _say_error(error.message)
        return EXIT_REFUSED
    return 0


def _ask_password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    password = getpass.getpass("Password: ")
    return password if getpass.getpass("Again: ") == password else ""


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _say_error(text: str) -> None:
    sys.stderr.write(text + "\n")
