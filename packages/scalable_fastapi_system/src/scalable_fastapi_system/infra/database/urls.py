"""From the one URL of the settings to the drivers' URLs."""

from __future__ import annotations

from sqlalchemy.engine import URL, make_url

_ASYNC_DRIVERS = {"postgresql": "asyncpg", "mysql": "asyncmy", "sqlite": "aiosqlite"}
_SYNC_DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "sqlite": "pysqlite"}
_ALIASES = {"postgres": "postgresql", "mariadb": "mysql"}


def backend_of(url: str) -> str:
    """`postgresql`, `mysql` or `sqlite`."""
    name = url.partition(":")[0].partition("+")[0]
    return _ALIASES.get(name, name)


def sync_url(url: str) -> URL:
    """The URL for SQLAlchemy's synchronous engine."""
    return _with_driver(url, _SYNC_DRIVERS)


def async_url(url: str) -> URL:
    """The URL for SQLAlchemy's asynchronous engine. libpq's `sslmode` becomes asyncpg's `ssl`."""
    parsed = _with_driver(url, _ASYNC_DRIVERS)
    if parsed.get_backend_name() == "postgresql" and "sslmode" in parsed.query:
        mode = parsed.query["sslmode"]
        parsed = parsed.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
    return parsed


def asyncpg_dsn(url: str) -> str:
    """The URL as asyncpg itself reads it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def _with_driver(url: str, drivers: dict[str, str]) -> URL:
    parsed = make_url(url)
    backend = backend_of(url)
    return parsed.set(drivername=f"{backend}+{drivers[backend]}")
