"""Headers that every answer carries, errors too (OWASP ASVS 5, chapter 3.4).

X-XSS-Protection is `0` and not the guide's `1; mode=block`: the filter that it controlled is gone from browsers and
was itself a hole while it lived.
"""

from __future__ import annotations

from scalable_fastapi_system.infra.settings import Settings

# An API's answers are data: nothing in them may load, run or be framed.
API_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


def security_headers(settings: Settings) -> list[tuple[bytes, bytes]]:
    """Raw ASGI headers, computed once."""
    headers = {
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "x-xss-protection": "0",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin"
        if not settings.security.cors_origins
        else "cross-origin",
        "permissions-policy": "camera=(), geolocation=(), microphone=()",
    }
    if settings.is_production and settings.security.hsts_seconds:
        headers["strict-transport-security"] = f"max-age={settings.security.hsts_seconds}; includeSubDomains"
    return [(name.encode(), value.encode()) for name, value in headers.items()]
