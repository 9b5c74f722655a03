"""Headers that every answer has."""

from typing import Final

__all__ = ["NO_STORE", "SECURITY_HEADERS", "STRICT_TRANSPORT", "security_headers"]

SECURITY_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

STRICT_TRANSPORT: Final = {"Strict-Transport-Security": "max-age=31536000"}
"""Where the gateway itself is reached by https."""

NO_STORE: Final = ("Cache-Control", "no-store")
"""For answers of the API: they hold what one caller may see, and addresses that are secrets."""


def security_headers() -> list[tuple[bytes, bytes]]:
    """The same, as they go over the wire."""
    return [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
