"""From what sockets, resolvers and TLS raise to the failure that it is for a request: type, side, retry.

Texts name no address and quote no peer: they go to the log, where the route is named anyway.

Source: RFC 9209 §2.3 (error types).
"""

from __future__ import annotations

import errno
import socket
import ssl

from proxy.errors import ErrorType, GatewayError, Retry, Side

_WORDS = {
    errno.ECONNREFUSED: ErrorType.CONNECTION_REFUSED,
    errno.ETIMEDOUT: ErrorType.CONNECTION_TIMEOUT,
    errno.ECONNRESET: ErrorType.CONNECTION_TERMINATED,
    errno.ECONNABORTED: ErrorType.CONNECTION_TERMINATED,
    errno.EPIPE: ErrorType.CONNECTION_TERMINATED,
}
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def not_opened(error: Exception) -> GatewayError:
    """Returns the failure of opening a connection. Nothing of the request was sent."""
    if isinstance(error, OSError) and error.errno in _NO_DESCRIPTORS:
        return GatewayError(ErrorType.CONNECTION_LIMIT_REACHED, Side.GATEWAY, "no descriptor left for a connection")
    word = _word(error)
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message
    failure = GatewayError(word, Side.UPSTREAM, reason or word.value, retry=Retry.NOTHING_SENT)
    failure.__cause__ = error
    return failure


def not_in_time(*, resolving: bool) -> GatewayError:
    """Returns the failure of opening a connection within its time."""
    word = ErrorType.DNS_TIMEOUT if resolving else ErrorType.CONNECTION_TIMEOUT
    return GatewayError(word, Side.UPSTREAM, "no connection in time", retry=Retry.NOTHING_SENT)


def not_sent(cause: Exception | None = None) -> GatewayError:
    """Returns the failure of a connection that closed before it was given anything."""
    word = _word(cause) if isinstance(cause, ssl.SSLError) else ErrorType.CONNECTION_TERMINATED
    failure = GatewayError(word, Side.UPSTREAM, "closed before the request was sent", retry=Retry.NOTHING_SENT)
    failure.__cause__ = cause
    return failure


def unanswered(cause: Exception | None, *, reused: bool) -> GatewayError:
    """Returns the failure of a connection that closed before any octet of the response.

    Since TLS 1.3 a refused client certificate shows only here: the handshake is over by then.
    """
    word = _word(cause) if isinstance(cause, ssl.SSLError) else ErrorType.CONNECTION_TERMINATED
    retry = Retry.REUSED_CONNECTION if reused else Retry.NEVER
    failure = GatewayError(word, Side.UPSTREAM, "closed before any response octet", retry=retry)
    failure.__cause__ = cause
    return failure


def cut(cause: Exception | None) -> GatewayError:
    """Returns the failure of a connection that closed within the response."""
    failure = GatewayError(ErrorType.HTTP_RESPONSE_INCOMPLETE, Side.UPSTREAM, "closed within the response")
    failure.__cause__ = cause
    return failure


def head_too_large() -> GatewayError:
    """Returns the failure of an upstream whose head is more than a head may be."""
    return malformed("a response head is too large", ErrorType.HTTP_RESPONSE_HEADER_SECTION_SIZE)


def malformed(detail: str, error_type: ErrorType = ErrorType.HTTP_PROTOCOL_ERROR) -> GatewayError:
    """Returns the failure of an upstream that does not speak HTTP/1.1 as it must."""
    return GatewayError(error_type, Side.UPSTREAM, detail)


def _word(error: Exception | None) -> ErrorType:
    match error:
        case ssl.SSLCertVerificationError():
            return ErrorType.TLS_CERTIFICATE_ERROR
        case ssl.SSLError():
            return ErrorType.TLS_ALERT_RECEIVED if "ALERT" in (error.reason or "") else ErrorType.TLS_PROTOCOL_ERROR
        case socket.gaierror() | UnicodeError():  # the latter for a name that IDNA cannot write
            return ErrorType.DNS_ERROR
        case ConnectionError():
            return _WORDS.get(error.errno or errno.ECONNRESET, ErrorType.CONNECTION_TERMINATED)
        case OSError(errno=None):
            # of addresses that failed in different ways aiohappyeyeballs tells the texts alone; a refusal says most
            refused = f"[Errno {errno.ECONNREFUSED}]" in str(error)
            return ErrorType.CONNECTION_REFUSED if refused else ErrorType.DESTINATION_UNAVAILABLE
        case OSError(errno=int(number)):
            return _WORDS.get(number, ErrorType.DESTINATION_UNAVAILABLE)
        case _:  # uvloop's RuntimeError for a socket that closed meanwhile
            return ErrorType.CONNECTION_TERMINATED
