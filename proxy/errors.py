"""What can go wrong, and the facts every failure carries.

A failure is a ``GatewayError`` with four facts: its type (an RFC 9209 §2.3 word), the side that failed, whether the
request may be sent again, and its cause (``raise ... from``). ``Problem`` is the closed set of replies that the gateway
makes itself; ``gateway/rescue.py`` holds the one table from failure to problem. This module raises nothing itself.

Source: RFC 9209 §2.3 (error types), RFC 9457 (problem details).
"""

from __future__ import annotations

from enum import Enum, StrEnum


class ErrorType(StrEnum):
    """An error type of the ``Proxy-Status`` field (RFC 9209 §2.3); the value is the word on the wire."""

    DNS_TIMEOUT = "dns_timeout"
    DNS_ERROR = "dns_error"
    DESTINATION_NOT_FOUND = "destination_not_found"
    DESTINATION_UNAVAILABLE = "destination_unavailable"
    CONNECTION_REFUSED = "connection_refused"
    CONNECTION_TERMINATED = "connection_terminated"
    CONNECTION_TIMEOUT = "connection_timeout"
    CONNECTION_READ_TIMEOUT = "connection_read_timeout"
    CONNECTION_WRITE_TIMEOUT = "connection_write_timeout"
    CONNECTION_LIMIT_REACHED = "connection_limit_reached"
    TLS_PROTOCOL_ERROR = "tls_protocol_error"
    TLS_CERTIFICATE_ERROR = "tls_certificate_error"
    TLS_ALERT_RECEIVED = "tls_alert_received"
    HTTP_REQUEST_ERROR = "http_request_error"
    HTTP_REQUEST_DENIED = "http_request_denied"
    HTTP_RESPONSE_INCOMPLETE = "http_response_incomplete"
    HTTP_RESPONSE_HEADER_SECTION_SIZE = "http_response_header_section_size"
    HTTP_RESPONSE_TIMEOUT = "http_response_timeout"
    HTTP_UPGRADE_FAILED = "http_upgrade_failed"
    HTTP_PROTOCOL_ERROR = "http_protocol_error"
    PROXY_INTERNAL_ERROR = "proxy_internal_error"
    PROXY_CONFIGURATION_ERROR = "proxy_configuration_error"
    PROXY_LOOP_DETECTED = "proxy_loop_detected"


class Side(StrEnum):
    """Who failed."""

    CLIENT = "client"
    GATEWAY = "gateway"
    AUTHORIZATION_SERVER = "authorization_server"
    UPSTREAM = "upstream"


class Retry(Enum):
    """Whether the request may be sent to the upstream again. A retry needs one of these reasons in the type."""

    NEVER = "never"
    NOTHING_SENT = "nothing of the request was sent"
    REUSED_CONNECTION = "a reused connection closed before any response byte"


class Problem(Enum):
    """A reply that the gateway makes itself: suffix of the problem type, status, fixed title, RFC 9209 type."""

    BAD_REQUEST = ("bad-request", 400, "Bad request", ErrorType.HTTP_REQUEST_ERROR)
    AMBIGUOUS_PATH = ("ambiguous-path", 400, "Ambiguous path", ErrorType.HTTP_REQUEST_ERROR)
    AUTHORIZATION_REFUSED = ("authorization-refused", 400, "Authorization refused", ErrorType.HTTP_REQUEST_ERROR)
    CLIENT_NOT_ALLOWED = ("client-not-allowed", 403, "Client not allowed", ErrorType.HTTP_REQUEST_DENIED)
    BROWSER_REFUSED = ("browser-refused", 403, "Browser request refused", ErrorType.HTTP_REQUEST_DENIED)
    KEY_REQUIRED = ("key-required", 403, "Key required", ErrorType.HTTP_REQUEST_DENIED)
    NO_ROUTE = ("no-route", 404, "No route", ErrorType.DESTINATION_NOT_FOUND)
    METHOD_NOT_ALLOWED = ("method-not-allowed", 405, "Method not allowed", ErrorType.HTTP_REQUEST_DENIED)
    REQUEST_TIMEOUT = ("request-timeout", 408, "Request timeout", ErrorType.HTTP_REQUEST_ERROR)
    BODY_TOO_LARGE = ("body-too-large", 413, "Body too large", ErrorType.HTTP_REQUEST_ERROR)
    TARGET_TOO_LONG = ("target-too-long", 414, "Request target too long", ErrorType.HTTP_REQUEST_ERROR)
    EXPECTATION_FAILED = ("expectation-failed", 417, "Expectation failed", ErrorType.HTTP_REQUEST_ERROR)
    HOST_NOT_ALLOWED = ("host-not-allowed", 421, "Host not allowed", ErrorType.HTTP_REQUEST_DENIED)
    RATE_LIMITED = ("rate-limited", 429, "Rate limited", ErrorType.HTTP_REQUEST_DENIED)
    HEAD_TOO_LARGE = ("head-too-large", 431, "Header section too large", ErrorType.HTTP_REQUEST_ERROR)
    INTERNAL = ("internal", 500, "Internal error", ErrorType.PROXY_INTERNAL_ERROR)
    NOT_IMPLEMENTED = ("not-implemented", 501, "Not implemented", ErrorType.HTTP_REQUEST_ERROR)
    UPSTREAM_UNREACHABLE = ("upstream-unreachable", 502, "Upstream unreachable", ErrorType.DESTINATION_UNAVAILABLE)
    UPSTREAM_PROTOCOL = ("upstream-protocol", 502, "Upstream protocol error", ErrorType.HTTP_PROTOCOL_ERROR)
    UPSTREAM_TLS = ("upstream-tls", 502, "Upstream TLS error", ErrorType.TLS_PROTOCOL_ERROR)
    TOKEN_UNAVAILABLE = ("token-unavailable", 503, "Access token unavailable", ErrorType.PROXY_INTERNAL_ERROR)
    OVERLOADED = ("overloaded", 503, "Overloaded", ErrorType.CONNECTION_LIMIT_REACHED)
    DRAINING = ("draining", 503, "Shutting down", ErrorType.PROXY_INTERNAL_ERROR)
    UPSTREAM_TIMEOUT = ("upstream-timeout", 504, "Upstream timeout", ErrorType.HTTP_RESPONSE_TIMEOUT)
    VERSION_NOT_SUPPORTED = ("version-not-supported", 505, "HTTP version not supported", ErrorType.HTTP_REQUEST_ERROR)
    LOOP_DETECTED = ("loop-detected", 508, "Loop detected", ErrorType.PROXY_LOOP_DETECTED)

    def __init__(self, suffix: str, status: int, title: str, error_type: ErrorType) -> None:
        self.suffix = suffix
        self.status = status
        self.title = title
        self.error_type = error_type


class GatewayError(Exception):
    """A failure on a request's way. ``detail`` goes to the log, never to the client, and never holds a secret."""

    def __init__(
        self,
        error_type: ErrorType,
        side: Side,
        detail: str = "",
        *,
        retry: Retry = Retry.NEVER,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail or error_type.value)
        self.error_type = error_type
        self.side = side
        self.detail = detail
        self.retry = retry
        self.retry_after_s = (
            retry_after_s  # seconds the client is told to wait; None where the reply has no Retry-After
        )


class Refusal(GatewayError):
    """A request that the gateway refuses by a rule of its own: the problem says which."""

    def __init__(self, problem: Problem, detail: str = "", *, retry_after_s: float | None = None) -> None:
        super().__init__(problem.error_type, Side.CLIENT, detail or problem.suffix, retry_after_s=retry_after_s)
        self.problem = problem


class ConfigurationError(Exception):
    """The configuration cannot be used; the text names the place and never a secret's value. Exit code 2."""


class UsageError(ConfigurationError):
    """The command line cannot be used. Exit code 2."""
