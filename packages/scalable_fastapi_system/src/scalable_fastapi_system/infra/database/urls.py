"""From the one URL of the settings to the drivers' URLs.

A PostgreSQL URL is libpq's, as providers give it out: psycopg reads all of its parameters. asyncpg reads those of TLS and
hands the server what it does not know (`application_name`, `options`), but only from a DSN: SQLAlchemy would hand them to
its `connect`, which refuses them.
"""

from __future__ import annotations

from urllib.parse import urlencode

from sqlalchemy.engine import URL, make_url

_ASYNC_DRIVERS = {"postgresql": "asyncpg", "mysql": "asyncmy", "sqlite": "aiosqlite"}
_SYNC_DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "sqlite": "pysqlite"}
# What SQLAlchemy's dialect takes from the URL by itself.
_SQLALCHEMYS = frozenset(
    {"host", "port", "ssl", "prepared_statement_cache_size", "prepared_statement_name_func"}
)
# How libpq connects; asyncpg has no such thing, and the server would refuse them as settings that it does not know.
# `require` of channel_binding is refused by the settings.
_LIBPQS_OWN = frozenset(
    {"channel_binding", "client_encoding", "connect_timeout", "fallback_application_name", "gssencmode", "keepalives",
     "keepalives_count", "keepalives_idle", "keepalives_interval", "load_balance_hosts", "tcp_user_timeout"}
)  # fmt: skip
_ALIASES = {"postgres": "postgresql", "mariadb": "mysql"}


def backend_of(url: str) -> str:
    """`postgresql`, `mysql` or `sqlite`."""
    name = url.partition(":")[0].partition("+")[0]
    return _ALIASES.get(name, name)


def sync_url(url: str) -> URL:
    """The URL for SQLAlchemy's synchronous engine."""
    return _with_driver(url, _SYNC_DRIVERS)


def async_url(url: str) -> URL:
    """The URL for SQLAlchemy's asynchronous engine. libpq's parameters become asyncpg's, by a DSN with nothing else."""
    parsed = _with_driver(url, _ASYNC_DRIVERS)
    if parsed.get_backend_name() != "postgresql":
        return parsed
    parsed = parsed.difference_update_query(_LIBPQS_OWN)
    libpqs = {name: value for name, value in parsed.query.items() if name not in _SQLALCHEMYS}
    if not libpqs:
        return parsed
    dsn = f"postgresql:///?{urlencode(libpqs, doseq=True)}"
    return parsed.difference_update_query(list(libpqs)).update_query_dict({"dsn": dsn})


def asyncpg_dsn(url: str) -> str:
    """The URL as asyncpg itself reads it."""
    parsed = make_url(url).set(drivername="postgresql").difference_update_query(_LIBPQS_OWN)
    return parsed.render_as_string(hide_password=False)


def _with_driver(url: str, drivers: dict[str, str]) -> URL:
    parsed = make_url(url)
    backend = backend_of(url)
    return parsed.set(drivername=f"{backend}+{drivers[backend]}")
