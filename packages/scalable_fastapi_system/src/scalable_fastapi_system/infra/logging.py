"""Structured logs on standard output, one JSON object (or one readable line) per event.

Promises: every line carries the request or job it belongs to; secrets by name or by value never appear; lines
of other libraries come out in the same shape. `configure_logging` is called once by a composition root.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from datetime import UTC, date, datetime, time
from enum import Enum
from typing import Any
from uuid import UUID

import orjson
import structlog
from structlog.typing import Processor

from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.infra.settings.secrets import MASK, SecretText, mask_url, passwords_in

# Parts of names whose values are never written.
_SECRET_NAME = re.compile(
    r"password|passwd|secret|token|authorization|cookie|api[_-]?key|credential|private[_-]?key|dsn",
    re.IGNORECASE,
)
# The same for the options of an object store: `secret_access_key`, `account_key`, `sas_token`, `service_account_key` …
_SECRET_OPTION = re.compile(f"{_SECRET_NAME.pattern}|key|sas", re.IGNORECASE)
# Names that only look like secrets.
_HARMLESS = frozenset({"token_type", "tokens", "token_count"})
# Values that are secrets whatever their name: bearer credentials, JSON web tokens, and API keys of ours, also ones that are
# cut off (identity/api_key_format.py; the first characters, which are shown to tell keys apart, are fewer).
_SECRET_VALUE = re.compile(
    r"(?i:\b(?:bearer|basic)\s+)[A-Za-z0-9+/=._~-]{8,}|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"
    r"|sfk_[A-Za-z0-9]{16,}"
)
_MAX_DEPTH = 6


# What JSON has, or has an unmistakable text for: no place for a secret.
_HARMLESS_KINDS = (int, float, type(None), datetime, date, time, UUID)


def redact(value: Any, *, known: re.Pattern[str] | None = None, depth: int = 0) -> Any:
    """The value with secrets masked: by key in mappings, by pattern and what is `known` in text. Deeper than 6 levels is cut.

    What is not of JSON, such as an exception, becomes the text that a line would show, for that may hold one.
    """
    if isinstance(value, SecretText):
        return MASK
    if isinstance(value, str):
        text = mask_url(value) if "://" in value else value
        if len(text) > 8:
            text = _SECRET_VALUE.sub(MASK, text)
        return text if known is None else known.sub(MASK, text)
    if isinstance(value, _HARMLESS_KINDS):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (field.name for field in dataclasses.fields(value))
        value = {name: getattr(value, name) for name in fields if not name.startswith("_")}
    if isinstance(value, Mapping):
        if depth >= _MAX_DEPTH:
            return "…"
        return {
            key: MASK if _is_secret_name(str(key)) and item else redact(item, known=known, depth=depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return "…" if depth >= _MAX_DEPTH else [redact(item, known=known, depth=depth + 1) for item in value]
    return redact(value.value if isinstance(value, Enum) else str(value), known=known, depth=depth)


class RequestLog:
    """Writes the one line of each request.

    With JSON output the line is built here and not by the chain of processors, which costs a request several
    times as much; the only member that a client chooses freely, the path, is masked as everywhere else.
    """

    def __init__(self, name: str) -> None:
        self._log = structlog.get_logger(name)

    def write(self, event: str, *, is_warning: bool, path: str, **members: Any) -> None:
        """One line: `event`, the path and whatever else (never a secret)."""
        redactor = _request_line_redactor
        if redactor is None:
            (self._log.warning if is_warning else self._log.info)(event, path=path, **members)
            return
        line = {
            "event": event,
            "level": "warning" if is_warning else "info",
            "timestamp": datetime.now(UTC),
            "path": redactor.mask(path),
            **members,
        }
        _LINES.msg(orjson.dumps(line, default=str, option=_TIMESTAMPS).decode())


# Set while JSON lines go to standard output; None leaves request lines to structlog as it is configured.
_request_line_redactor: Redactor | None = None
_TIMESTAMPS = orjson.OPT_UTC_Z


def _is_secret_name(name: str) -> bool:
    return name.lower() not in _HARMLESS and _SECRET_NAME.search(name) is not None


class Redactor:
    """A processor that masks secrets in an event, the configured ones also by their value."""

    def __init__(self, secret_values: Iterable[str] = ()) -> None:
        values = sorted({value for value in secret_values if len(value) >= 8}, key=len, reverse=True)
        self._known = re.compile("|".join(re.escape(value) for value in values)) if values else None

    def __call__(
        self, _logger: Any, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        for key, value in event.items():
            kind = type(value)
            if kind is int or kind is float or kind is bool or value is None:
                continue
            event[key] = MASK if _is_secret_name(key) and value else self.mask(value)
        return event

    def mask(self, value: Any) -> Any:
        """The value with secrets masked, by pattern and by the configured values."""
        return redact(value, known=self._known)


def secrets_of(settings: Settings) -> list[str]:
    """The secret values that must not appear in a log, whatever they are called there."""
    found = [
        settings.security.secret_key,
        *settings.security.previous_secret_keys,
        settings.error_tracking.dsn or "",
        *(provider.client_secret or "" for provider in settings.oidc.providers.values()),
        # Not those that say where the store is: its errors are of no use without.
        *(value for name, value in settings.storage.options.items() if _SECRET_OPTION.search(name)),
    ]
    urls = (
        settings.database.database_url,
        settings.database.replica_url,
        settings.redis.redis_url,
        settings.mail.smtp_url,
        *settings.storage.options.values(),
    )
    for url in urls:
        found.extend(passwords_in(url or ""))
    return found


def configure_logging(settings: Settings) -> None:
    """Sends structlog's and the standard library's records to standard output in one shape."""
    use_json = settings.logging.format == "json" or (
        settings.logging.format == "auto" and not sys.stdout.isatty()
    )
    level = logging.getLevelNamesMapping()[settings.logging.level]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    redactor = Redactor(secrets_of(settings))
    # In this order: secrets are looked for in the text of a traceback, and the tuple that it is made from is no value to mask.
    finish: list[Processor] = [structlog.processors.format_exc_info, redactor]
    global _request_line_redactor  # noqa: PLW0603 - logging is configured once per process
    _request_line_redactor = redactor if use_json and level <= logging.INFO else None
    if use_json:
        renderer: Processor = structlog.processors.JSONRenderer(serializer=_dumps)
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stdout.isatty(),
            # not the default, which prints local variables: passwords and tokens among them
            exception_formatter=structlog.dev.plain_traceback,
        )
    structlog.configure(
        processors=[*shared, *finish, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_StandardOutput(),
        cache_logger_on_first_use=False,  # tests and forked workers configure again
    )
    handler = _StandardHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *finish, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "gunicorn.error", "gunicorn.access", "arq"):
        other = logging.getLogger(name)
        other.handlers[:] = []
        other.propagate = True
    # Our own line per request says more; arq's lines show job arguments.
    logging.getLogger("uvicorn.access").disabled = True
    for name in ("arq", "httpx", "httpcore", "alembic"):
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


class _StandardOutput:
    """Makes loggers that look up `sys.stdout` at each line, so that captured output stays captured."""

    def __call__(self, *_names: Any) -> _Lines:
        return _Lines()


class _Lines:
    __slots__ = ()

    def msg(self, line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    debug = info = warning = warn = error = critical = fatal = exception = log = msg


class _StandardHandler(logging.Handler):
    """The same for the standard library's records."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _LINES.msg(self.format(record))
        except Exception:  # noqa: BLE001 - a line that cannot be written must not end what it tells of
            self.handleError(record)


_LINES = _Lines()


def _dumps(event: Any, **_options: Any) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
