"""Errors sent to Sentry, or to anything that speaks its protocol. Off without a DSN; then nothing is imported.

Only what is handed to `report_error` is sent, with the request or job id and without headers, bodies, local
variables or anything that looks like a secret. A tracker that is away costs nothing but the reports, and at the end of
the process the two seconds that it is given for what is left.
"""

from __future__ import annotations

import atexit
from typing import Any

from scalable_fastapi_system.infra.logging import Redactor, secrets_of
from scalable_fastapi_system.infra.settings import Settings

_is_on = False


def configure_error_tracking(settings: Settings, *, component: str) -> None:
    """Starts the tracker if there is a DSN. Called once by a composition root."""
    global _is_on  # noqa: PLW0603 - a process has one tracker, as Sentry's SDK has
    if not settings.error_tracking.dsn:
        return
    import sentry_sdk

    redactor = Redactor(secrets_of(settings))

    def before_send(event: Any, _hint: Any) -> Any:
        for value in (event.get("exception") or {}).get("values", ()):
            value["value"] = redactor.mask(value.get("value") or "")
        for part in ("extra", "tags", "contexts"):
            if part in event:
                event[part] = redactor.mask(event[part])
        return event

    sentry_sdk.init(
        dsn=settings.error_tracking.dsn,
        environment=str(settings.environment),
        release=settings.api.version,
        sample_rate=settings.error_tracking.sample_rate,
        traces_sample_rate=0.0,  # traces are OpenTelemetry's
        default_integrations=False,
        auto_enabling_integrations=False,
        include_local_variables=False,
        max_request_body_size="never",
        max_breadcrumbs=0,
        before_send=before_send,
    )
    sentry_sdk.set_tag("component", component)
    _is_on = True
    # What ends a process is reported last. Sentry's own hook is one of its integrations, none of which is loaded.
    atexit.register(stop_error_tracking)


def report_error(error: BaseException, **tags: Any) -> None:
    """Sends an error with these tags (`request_id`, `route`, `job_id` …). Does nothing where tracking is off."""
    if not _is_on:
        return
    import sentry_sdk

    with sentry_sdk.new_scope() as scope:
        for name, value in tags.items():
            if value is not None:
                scope.set_tag(name, str(value))
        scope.capture_exception(error)


def stop_error_tracking(*, timeout_seconds: float = 2.0) -> None:
    """Sends what is left, at most for this long. Called at the interpreter's end, and by who ends it in another way."""
    global _is_on  # noqa: PLW0603 - see above
    if _is_on:
        import sentry_sdk

        sentry_sdk.get_client().close(timeout=timeout_seconds)
        _is_on = False
