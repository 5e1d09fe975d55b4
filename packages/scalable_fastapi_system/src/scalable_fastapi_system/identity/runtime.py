"""`Identity`: what one process needs to know who is calling, put together once by `create_app`."""

from __future__ import annotations

import weakref
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from scalable_fastapi_system.identity.api_key_format import KeyHasher
from scalable_fastapi_system.identity.authenticate import Authenticator
from scalable_fastapi_system.identity.changes import ChangeFeed
from scalable_fastapi_system.identity.jobs import Notice, notify
from scalable_fastapi_system.identity.oidc import OIDCClients
from scalable_fastapi_system.identity.security import SecurityManager
from scalable_fastapi_system.identity.throttle import LocalAttempts, SharedAttempts, SignInThrottle
from scalable_fastapi_system.infra.database import on_commit
from scalable_fastapi_system.infra.resources import Resources
from scalable_fastapi_system.kit.clock import SYSTEM_CLOCK, Clock

# In the database's `session_info`: a weak reference to the identity made last with these resources. Who made it keeps it.
_MADE = "identity"


def identity_of(resources: Resources) -> Identity:
    """The one made with these resources, which hears of changes once it is started; else a new one."""
    made: weakref.ref[Identity] | None = resources.database.session_info.get(_MADE)
    found = made() if made is not None else None
    return found if found is not None else Identity(resources)


class Identity:
    """The parts of identity that last as long as the process. Opens nothing before `start()`."""

    def __init__(self, resources: Resources, *, clock: Clock = SYSTEM_CLOCK) -> None:
        """Raises ConfigurationError where the signing keys cannot be used."""
        self.settings = resources.settings
        self.database = resources.database
        self.clock = clock
        self.security = SecurityManager(resources.settings, clock=clock)
        self.key_hasher = KeyHasher(self.settings.security)
        self.authenticator = Authenticator(self.security, self.database, self.key_hasher, clock=clock)
        self.oidc = OIDCClients(self.settings, self.security.tokens)
        redis = resources.cache.redis
        self.changes = ChangeFeed(
            redis, on_user=self.authenticator.forget_user, on_gap=self.authenticator.forget_all
        )
        attempts = SharedAttempts(redis) if redis.is_configured else LocalAttempts()
        self.throttle = SignInThrottle(self.settings.security, attempts, clock=clock)
        resources.database.session_info[_MADE] = weakref.ref(self)

    @property
    def sign_in_lifetime(self) -> timedelta:
        """How long a sign-in goes on at the most."""
        return timedelta(days=self.settings.security.refresh_token_expire_days)

    async def start(self) -> None:
        """Listens, on the running loop, for changes made by other replicas."""
        self.changes.start()

    async def stop(self) -> None:
        """Closes what was opened. The next start opens it again."""
        await self.changes.stop()
        self.security.passwords.close()

    async def notify_of_addition(
        self, session: AsyncSession, kind: Notice, *, user_id: int, to: str, username: str
    ) -> None:
        """Has a notice sent, once the transaction is committed, of what can be added as often as one likes.

        The address may be a stranger's: three at once, then one every ten minutes. To be called when the addition has
        succeeded: else whoever lets some fail adds the next one without a notice.
        """
        if await self.throttle.admit_message(f"\0notice {user_id}"):  # no address holds a zero byte
            await notify(session, self.settings, kind, to=to, username=username)

    def user_changed(self, session: AsyncSession, user_id: int) -> None:
        """Makes everyone read this user again, once the transaction is committed."""

        async def tell() -> None:
            self.authenticator.forget_user(user_id)
            await self.changes.publish(user_id)

        on_commit(session, tell)
