"""The settings tree. Every field's description is its line in docs/settings.md, which is generated from here."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from scalable_fastapi_system.infra.settings.secrets import Secret, Url

DEFAULT_SECRET_KEY = "development-only-secret-key-not-for-production"  # noqa: S105 - refused outside development
MIN_SECRET_KEY_LENGTH = 32  # 256 bits for HS256, RFC 7518 section 3.2
_PLACEHOLDER_SECRETS = frozenset({DEFAULT_SECRET_KEY, "your-secret-key", "secret", "changeme", "change-me"})
EPHEMERAL_DATABASE_URL = "sqlite://"


class Environment(StrEnum):
    """Where the process runs. Only `development` and `test` accept defaults that are not safe."""

    DEVELOPMENT = "development"
    TEST = "test"
    PRODUCTION = "production"


def _split_commas(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith(
        "["
    ):  # as other tools write lists, which would otherwise be one strange name
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("neither a comma-separated list nor a JSON list") from None
    return [part.strip() for part in value.split(",") if part.strip()]


class _Section(BaseModel):
    # forbid: DATABASE__POOLSIZE is a typo that must not be ignored
    model_config = ConfigDict(extra="forbid", frozen=False, validate_default=True)


class DatabaseSettings(_Section):
    """SQL stores. PostgreSQL, MySQL/MariaDB and SQLite."""

    database_url: Url = Field(
        EPHEMERAL_DATABASE_URL,
        description="Where the data is: `postgresql://`, `mysql://` or `sqlite:///file`. `sqlite://` without a "
        "file is a temporary database that goes with the process.",
    )
    replica_url: Url | None = Field(None, description="A read replica for reads that may lag behind.")
    replica_retry_seconds: float = Field(
        5.0, gt=0, description="How long reads go to the primary before a replica that failed is tried again."
    )
    migration_lock_timeout_seconds: float = Field(
        3.0,
        gt=0,
        description="A migration waits so long for a table's lock, then steps aside and tries again (PostgreSQL).",
    )
    pool_size: int = Field(10, ge=1, le=500, description="Connections kept open per process.")
    max_overflow: int = Field(
        10, ge=0, le=500, description="Further connections under load, closed half a minute after."
    )
    read_pool_size: int = Field(
        10,
        ge=1,
        le=500,
        description="Further connections per process for hot reads and the job engine (PostgreSQL).",
    )
    pool_pre_ping: bool = Field(True, description="Test a pooled connection before it is used.")
    pool_recycle: int = Field(
        1800, ge=-1, description="Seconds after which a connection is replaced; -1 never."
    )
    pool_timeout_seconds: float = Field(5.0, gt=0, description="Wait for a free connection before a 503.")
    connect_timeout_seconds: float = Field(5.0, gt=0, description="Wait for a new connection.")
    statement_timeout_seconds: float = Field(
        30.0, gt=0, description="The server ends statements longer than this."
    )
    prepared_statements: bool = Field(
        True, description="Off behind PgBouncer in transaction mode, whose servers change under a client."
    )
    slow_query_seconds: float = Field(0.5, gt=0, description="Statements slower than this are logged.")
    echo: bool = Field(False, description="Log every statement. Development only: it shows values.")

    @field_validator("database_url", "replica_url")
    @classmethod
    def _known_scheme(cls, url: str | None) -> str | None:
        if url is None:
            return None
        scheme = urlsplit(url).scheme.partition("+")[0]
        if scheme not in {"postgresql", "postgres", "mysql", "mariadb", "sqlite"}:
            raise ValueError(
                f"unknown database {scheme or 'scheme'!r}: use postgresql://, mysql:// or sqlite:///path"
            )
        if "require" in parse_qs(urlsplit(url).query).get("channel_binding", ()):
            raise ValueError(
                "channel_binding=require is more than asyncpg can do: take it out, and have sslmode=verify-full instead"
            )
        return url


class RedisSettings(_Section):
    """Redis (or Valkey): cache, rate limits, job hints. Without it all three work inside one process."""

    redis_url: Url | None = Field(
        None, description="`redis://host:6379` or `rediss://`. Empty: memory of this process instead."
    )
    redis_db: int = Field(0, ge=0, le=15, description="Database number, where the URL names none.")
    redis_ssl: bool = Field(False, description="TLS, as `rediss://` would ask for.")
    max_connections: int = Field(64, ge=1, description="Connections per process at the most.")
    connect_timeout_seconds: float = Field(1.0, gt=0, description="Wait for a new connection.")
    command_timeout_seconds: float = Field(
        1.0, gt=0, description="Wait for an answer; a cache must not be slower than what it caches."
    )
    retry_after_failure_seconds: float = Field(
        1.0, gt=0, description="How long memory stands in before Redis is tried again."
    )
    key_prefix: str = Field(
        "sfs", pattern=r"^[\w-]{1,32}$", description="Before every key, so that a Redis can be shared."
    )

    @field_validator("redis_url", mode="before")
    @classmethod
    def _empty_is_none(cls, url: Any) -> Any:
        return url or None

    @field_validator("redis_url")
    @classmethod
    def _known_scheme(cls, url: str | None) -> str | None:
        if url is not None and urlsplit(url).scheme not in {"redis", "rediss", "unix"}:
            raise ValueError("use redis://host:port, rediss:// or unix://path")
        return url


class SecuritySettings(_Section):
    """Tokens, passwords and who may call."""

    secret_key: Secret = Field(
        DEFAULT_SECRET_KEY,
        description=f"Signs tokens and hashes API keys. At least {MIN_SECRET_KEY_LENGTH} random characters in production.",
    )
    previous_secret_keys: Annotated[list[Secret], NoDecode] = Field(
        default_factory=list,
        description="Comma-separated former keys, still accepted while tokens signed by them live.",
    )
    algorithm: Literal["HS256", "HS384", "HS512", "RS256", "ES256", "EdDSA"] = Field(
        "HS256", description="Signature of access tokens; the asymmetric ones need `signing_keys_file`."
    )
    signing_keys_file: Path | None = Field(
        None, description="A JWK set with private keys; the first one signs."
    )
    issuer: str = Field("scalable-fastapi-system", description="`iss` of tokens.")
    audience: str = Field("scalable-fastapi-system", description="`aud` of tokens.")
    access_token_expire_minutes: int = Field(30, ge=1, le=1440, description="Life of an access token.")
    refresh_token_expire_days: int = Field(30, ge=1, le=365, description="Absolute end of a sign-in.")
    refresh_reuse_grace_seconds: int = Field(
        10, ge=0, le=120, description="A refresh token used twice within this is a retry, after it a theft."
    )
    revocation_delay_seconds: float = Field(
        15.0,
        gt=0,
        le=60,
        description="A disabled user is refused everywhere within this, even with Redis away.",
    )
    password_hash: Literal["bcrypt", "argon2id"] = Field(
        "bcrypt", description="For new hashes; old ones are upgraded at sign-in."
    )
    bcrypt_rounds: int = Field(12, ge=4, le=16, description="Cost of bcrypt: 2^n.")
    password_hash_threads: int = Field(2, ge=1, le=32, description="Hashes computed at once per process.")
    login_attempts_per_minute: int = Field(
        10, ge=1, description="Failed sign-ins per address and user before a pause."
    )
    registration_enabled: bool = Field(True, description="Whether anyone may make an account.")
    password_reset_minutes: int = Field(
        30, ge=5, le=1440, description="Life of a password reset link; it works once."
    )
    cors_origins: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="Comma-separated origins that browsers may call from; `*` excludes credentials.",
    )
    cors_allow_credentials: bool = Field(
        False, description="Cookies and authorization headers across origins."
    )
    allowed_hosts: Annotated[list[str], NoDecode] = Field(
        default_factory=lambda: ["*"],
        description="Comma-separated Host headers accepted, `*.example.com` too.",
    )
    trusted_proxies: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="Comma-separated addresses or networks whose X-Forwarded-For and -Proto are believed.",
    )
    hsts_seconds: int = Field(31_536_000, ge=0, description="Strict-Transport-Security; 0 leaves it out.")

    _lists = field_validator(
        "previous_secret_keys", "cors_origins", "allowed_hosts", "trusted_proxies", mode="before"
    )(_split_commas)

    @model_validator(mode="after")
    def _no_wildcard_with_credentials(self) -> SecuritySettings:
        if self.cors_allow_credentials and "*" in self.cors_origins:
            raise ValueError(
                "cors_origins '*' with cors_allow_credentials lets any site act as its visitor: name the origins"
            )
        if self.algorithm.startswith(("RS", "ES", "Ed")) and self.signing_keys_file is None:
            raise ValueError(f"algorithm {self.algorithm} needs signing_keys_file")
        return self


class APISettings(_Section):
    """The HTTP service."""

    title: str = Field("Scalable FastAPI System", description="Name in OpenAPI.")
    version: str = Field("0.1.0", description="Version in OpenAPI and /health.")
    description: str = Field("A platform to build a product on.", description="Text in OpenAPI.")
    debug: bool = Field(False, description="Tracebacks in answers. Refused in production.")
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 in a container.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on.")
    workers: int = Field(1, ge=1, le=64, description="Processes. One a pod is best: scale pods.")
    docs_enabled: bool = Field(True, description="Serve /docs, /redoc and /openapi.json.")
    max_body_bytes: int = Field(
        1_048_576, ge=1024, description="Largest request body, where a route sets no other."
    )
    max_concurrent_requests: int = Field(
        512,
        ge=1,
        description="Requests at work in one process; more are answered 503 at once, and fewer while it is busy without "
        "a pause (docs/outages.md). One that waits for a slow client does not count.",
    )
    max_event_streams: int = Field(
        5000,
        ge=1,
        description="Followed tasks (server-sent events) at once in a process; they take no place of other requests.",
    )
    request_timeout_seconds: float = Field(
        60.0,
        gt=0,
        description="A request whose answer has not begun by then is ended with 503; one at work in a thread when that work ends.",
    )
    keep_alive_seconds: int = Field(75, ge=1, description="Idle connections are kept this long.")
    slow_client_seconds: float = Field(
        10.0,
        gt=0,
        description="A client that stalls in sending its request or in reading its answer is cut off within this.",
    )
    slow_client_bytes_per_second: int = Field(
        240, ge=1, description="A client slower than this, in sending or in reading, stalls."
    )
    max_head_bytes: int = Field(
        65_536, ge=8192, description="Largest head of a request: its first line and its headers."
    )
    slow_request_seconds: float = Field(
        1.0, gt=0, description="Requests slower than this are logged as warnings."
    )
    shutdown_grace_seconds: float = Field(
        20.0, ge=0, description="Requests at work are given this long at the end."
    )


class CacheSettings(_Section):
    """Two levels: memory of the process, then Redis."""

    default_ttl_seconds: int = Field(300, ge=1, description="Life of an entry that names none.")
    memory_max_bytes: int = Field(
        64 * 1024 * 1024, ge=0, description="Memory level's bound, oldest out first."
    )
    memory_ttl_seconds: float = Field(
        5.0, ge=0, description="Life in memory of what Redis holds too, should a message be missed."
    )
    lock_seconds: float = Field(
        10.0, gt=0, description="One caller loads a missing entry; after this another may."
    )


class JobSettings(_Section):
    """Durable background jobs."""

    mode: Literal["auto", "worker", "embedded"] = Field(
        "auto",
        description="Who runs jobs: a worker service, a thread in the API process, or by what database it is (SQLite: embedded).",
    )
    health_host: str = Field(
        "127.0.0.1", description="Where the worker's health server listens; 0.0.0.0 in a container."
    )
    health_port: int = Field(8001, ge=0, le=65535, description="Port of the worker's health server.")
    concurrency: int = Field(50, ge=1, le=5000, description="Jobs at work in one worker.")
    queues: Annotated[list[str], NoDecode] = Field(
        default_factory=lambda: ["default"], description="Comma-separated queues that this worker takes from."
    )
    lease_seconds: float = Field(
        30.0, ge=1, description="A worker that is silent this long has lost its jobs to others."
    )
    heartbeat_seconds: float = Field(
        1.0, gt=0, description="Pause between renewals; also how soon a cancel is seen."
    )
    max_loop_block_seconds: float = Field(
        30.0,
        ge=1,
        description="A worker whose event loop has not turned for so long is not alive: restart it.",
    )
    reconcile_seconds: float = Field(
        1.0, gt=0, description="Pause between sweeps for overdue and orphaned jobs."
    )
    poll_seconds: float = Field(0.5, gt=0, description="Pause between looks when nothing wakes the worker.")
    default_timeout_seconds: float = Field(300.0, gt=0, description="For handlers that name none.")
    default_max_attempts: int = Field(5, ge=1, le=100, description="For handlers that name none.")
    max_crashes: int = Field(3, ge=1, description="Workers a job may take down before it is quarantined.")
    drain_seconds: float = Field(
        25.0, ge=0, description="Running jobs are given this long at the end, then requeued."
    )
    retention_days: int = Field(30, ge=1, description="Ended jobs are kept this long.")
    max_args_bytes: int = Field(256 * 1024, ge=1024, description="Largest arguments of a job, as JSON.")
    max_result_bytes: int = Field(64 * 1024, ge=1024, description="Largest result of a job, as JSON.")

    _lists = field_validator("queues", mode="before")(_split_commas)


class StorageSettings(_Section):
    """Files."""

    url: Url = Field(
        "database://",
        description="`file:///folder`, `s3://bucket/prefix`, `gs://`, `az://`, or `database://` (chunks in the SQL store: "
        "works with nothing else, right for small installations).",
    )
    options: dict[str, Secret] = Field(
        default_factory=dict,
        description="JSON of options for the object store's client, its credentials among them.",
    )
    max_file_bytes: int = Field(1024 * 1024 * 1024, ge=1, description="Largest file accepted.")


class LoggingSettings(_Section):
    """Structured logs on standard output."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", description="Least level shown."
    )
    format: Literal["auto", "json", "console"] = Field(
        "auto", description="`auto`: console on a terminal, JSON elsewhere."
    )
    access_log: bool = Field(True, description="One line per request.")
    skip_paths: Annotated[list[str], NoDecode] = Field(
        default_factory=lambda: ["/health", "/health/live", "/health/ready", "/metrics"],
        description="Comma-separated paths without a line when they succeed.",
    )

    _lists = field_validator("skip_paths", mode="before")(_split_commas)


class MetricsSettings(_Section):
    """Prometheus."""

    enabled: bool = Field(True, description="Measure, and serve /metrics.")


class TracingSettings(_Section):
    """OpenTelemetry; off by default. The SDK's own OTEL_* variables are honoured too."""

    enabled: bool = Field(False, description="Record and export spans.")
    otlp_endpoint: str | None = Field(None, description="Base URL of an OTLP/HTTP collector.")
    sample_ratio: float = Field(0.1, ge=0, le=1, description="Share of traces kept.")
    service_name: str = Field("scalable-fastapi-system", description="`service.name`.")


class ErrorTrackingSettings(_Section):
    """Sentry or anything that speaks its protocol; off without a DSN."""

    dsn: Secret | None = Field(None, description="Where errors are sent.")
    sample_rate: float = Field(1.0, ge=0, le=1, description="Share of errors sent.")


class RateLimitSettings(_Section):
    """Quotas per identity and route."""

    enabled: bool = Field(True, description="Limit at all.")
    anonymous: str = Field("100/minute", description="Per client address.")
    user: str = Field("1000/minute", description="Per signed-in user.")
    api_key: str = Field("3000/minute", description="Per API key.")
    admin: str = Field("6000/minute", description="Per administrator.")
    auth: str = Field("20/minute", description="Sign-in, registration and reset, per address.")
    policies: dict[str, str] = Field(
        default_factory=dict,
        description='JSON of further policies for routes that name one: `{"reports": "10/minute"}`.',
    )
    routes: dict[str, str] = Field(
        default_factory=dict,
        description='JSON of routes with a policy or rate of their own: `{"POST /datasets": "30/minute"}`.',
    )
    store_timeout_seconds: float = Field(
        0.04, gt=0, description="Wait for Redis; after it the process decides by its own count."
    )


class FeatureFlagSettings(_Section):
    """OpenFeature flags from a file that is read again when it changes."""

    file: Path | None = Field(
        None, description="YAML or JSON file of flags; in a cluster a mounted ConfigMap."
    )
    reload_seconds: float = Field(2.0, gt=0, description="Pause between looks at the file.")


class HttpClientSettings(_Section):
    """Calls to services outside."""

    timeout_seconds: float = Field(10.0, gt=0, description="Deadline of a call with all its retries.")
    max_retries: int = Field(2, ge=0, le=10, description="Further tries of a call that may be repeated.")
    retry_budget_ratio: float = Field(
        0.1, ge=0, le=1, description="Retries at the most, as a share of calls."
    )
    allow_private_addresses: bool = Field(False, description="Call private addresses too. Development only.")


class OIDCProviderSettings(_Section):
    """One OpenID Connect provider that people may sign in with."""

    issuer: str = Field(
        description="The provider's issuer URL; `/.well-known/openid-configuration` is read below it."
    )
    client_id: str = Field(min_length=1, description="What the provider calls this service.")
    client_secret: Secret | None = Field(
        None, description="Empty for a public client, which PKCE alone protects."
    )
    scopes: Annotated[list[str], NoDecode] = Field(
        default_factory=lambda: ["openid", "email", "profile"],
        description="Comma-separated; `openid` is needed.",
    )

    _lists = field_validator("scopes", mode="before")(_split_commas)

    @field_validator("issuer")
    @classmethod
    def _https_or_loopback(cls, issuer: str) -> str:
        parts = urlsplit(issuer)
        is_loopback = parts.hostname in {"127.0.0.1", "::1", "localhost"}
        if not parts.hostname or (parts.scheme != "https" and not (parts.scheme == "http" and is_loopback)):
            raise ValueError("an issuer is an https:// URL (http:// only on this machine)")
        return issuer

    @field_validator("scopes")
    @classmethod
    def _asks_for_identity(cls, scopes: list[str]) -> list[str]:
        if "openid" not in scopes:
            raise ValueError("scopes must hold `openid`, or the provider tells nobody's identity")
        return scopes


class OIDCSettings(_Section):
    """Sign-in through other providers."""

    providers: dict[str, OIDCProviderSettings] = Field(
        default_factory=dict,
        description="By name: `OIDC__PROVIDERS__CORP__ISSUER`, `…__CLIENT_ID`, `…__CLIENT_SECRET`.",
    )


class MailSettings(_Section):
    """Messages to users: password resets and notices."""

    smtp_url: Url | None = Field(
        None,
        description="`smtp://user:password@host:587` (STARTTLS where offered) or `smtps://…:465`. Empty: development writes "
        "messages to standard error, production answers 503 where one is needed.",
    )
    sender: str = Field("no-reply@localhost", description="From address.")
    public_url: str = Field(
        "http://localhost:8000",
        description="Where people reach this service, or a front end that has pages of its own at the paths of the links "
        "(docs/security.md, Messages); links in messages and sign-in redirects begin with it.",
    )
    timeout_seconds: float = Field(15.0, gt=0, description="Deadline of one delivery.")

    @field_validator("smtp_url")
    @classmethod
    def _known_scheme(cls, url: str | None) -> str | None:
        if url is not None and urlsplit(url).scheme not in {"smtp", "smtps"}:
            raise ValueError("use smtp://user:password@host:587 or smtps://host:465")
        return url

    @field_validator("public_url")
    @classmethod
    def _absolute(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("use https://host or https://host/path")
        return url.rstrip("/")

    @property
    def public_host(self) -> str:
        """The host of `public_url`, in lower case and without the port."""
        return urlsplit(self.public_url).hostname or ""

    @property
    def public_path(self) -> str:
        """The path of `public_url`, which a proxy in front takes off: `/app`, empty where there is none."""
        return urlsplit(self.public_url).path


class Settings(BaseSettings):
    """Everything, from arguments, the environment (`DATABASE__DATABASE_URL`) and `.env`."""

    model_config = SettingsConfigDict(
        env_nested_delimiter="__",
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",  # an environment holds other programs' variables; within a section unknown names are refused
        nested_model_default_partial_update=True,
        validate_default=True,
    )

    environment: Environment = Field(
        Environment.DEVELOPMENT,
        description="`development`, `test` or `production`; the last refuses unsafe defaults.",
    )
    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    redis: RedisSettings = Field(default_factory=RedisSettings)
    security: SecuritySettings = Field(default_factory=SecuritySettings)
    oidc: OIDCSettings = Field(default_factory=OIDCSettings)
    mail: MailSettings = Field(default_factory=MailSettings)
    api: APISettings = Field(default_factory=APISettings)
    cache: CacheSettings = Field(default_factory=CacheSettings)
    jobs: JobSettings = Field(default_factory=JobSettings)
    storage: StorageSettings = Field(default_factory=StorageSettings)
    logging: LoggingSettings = Field(default_factory=LoggingSettings)
    metrics: MetricsSettings = Field(default_factory=MetricsSettings)
    tracing: TracingSettings = Field(default_factory=TracingSettings)
    error_tracking: ErrorTrackingSettings = Field(default_factory=ErrorTrackingSettings)
    rate_limit: RateLimitSettings = Field(default_factory=RateLimitSettings)
    flags: FeatureFlagSettings = Field(default_factory=FeatureFlagSettings)
    http_client: HttpClientSettings = Field(default_factory=HttpClientSettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """As pydantic-settings has it, but for `without_bare_sections`."""
        return (
            init_settings,
            without_bare_sections(env_settings),
            without_bare_sections(dotenv_settings),
            file_secret_settings,
        )

    @property
    def is_production(self) -> bool:
        return self.environment is Environment.PRODUCTION

    @property
    def is_ephemeral(self) -> bool:
        """Whether the database goes with the process."""
        return self.database.database_url in {EPHEMERAL_DATABASE_URL, "sqlite:///:memory:"}

    @property
    def are_jobs_embedded(self) -> bool:
        """Whether the API process runs the jobs itself."""
        if self.jobs.mode == "auto":
            return self.database.database_url.startswith("sqlite")
        return self.jobs.mode == "embedded"

    @model_validator(mode="after")
    def _safe_in_production(self) -> Settings:
        if not self.is_production:
            return self
        problems: list[str] = []
        for name, key in (
            ("SECURITY__SECRET_KEY", self.security.secret_key),
            *(("SECURITY__PREVIOUS_SECRET_KEYS", key) for key in self.security.previous_secret_keys),
        ):
            if key in _PLACEHOLDER_SECRETS or len(key) < MIN_SECRET_KEY_LENGTH:
                problems.append(
                    f"{name} is a default or shorter than {MIN_SECRET_KEY_LENGTH} characters: set a random one, "
                    "for instance from `openssl rand -hex 32`"
                )
        if self.is_ephemeral:
            problems.append("DATABASE__DATABASE_URL is not set: the data would go with the process")
        if self.api.debug:
            problems.append("API__DEBUG shows internals to clients: turn it off")
        needs_links = self.mail.smtp_url is not None or bool(self.oidc.providers)
        if needs_links and urlsplit(self.mail.public_url).scheme != "https":
            problems.append(
                "MAIL__PUBLIC_URL must be the https:// URL that people use: links and sign-ins lead there"
            )
        if self.database.echo:
            problems.append("DATABASE__ECHO writes values to the log: turn it off")
        if problems:
            raise ValueError("not safe in production: " + "; ".join(problems))
        return self


def without_bare_sections(source: PydanticBaseSettingsSource) -> PydanticBaseSettingsSource:
    """The source, which takes no variable named as a section for the whole section as JSON: `MAIL` is where a login shell
    has its letters, and `CACHE` or `DATABASE` another program's."""
    if isinstance(source, EnvSettingsSource):
        fields = source.settings_cls.model_fields
        sections = {name for name, field in fields.items() if hasattr(field.annotation, "model_fields")}
        source.env_vars = {name: value for name, value in source.env_vars.items() if name not in sections}
    return source
