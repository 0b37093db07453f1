"""What to look at when a request failed: one table for `bearer-proxy call`, `explain` and `check --live`.

By the problem where the gateway refused by a rule of its own or had no token, by the RFC 9209 word where the upstream
failed. For operators, never for clients: a hint names keys of the configuration, and nothing of the request.
"""

from __future__ import annotations

from proxy.errors import ErrorType, GatewayError, Problem, Side
from proxy.gateway import rescue

_PROBLEMS = {
    Problem.BAD_REQUEST: "the message breaks HTTP/1.1 or can be read in two ways; the client has to send it otherwise",
    Problem.AMBIGUOUS_PATH: "two programs could read this path differently; the route's path_policy: raw forwards it as it is",
    Problem.AUTHORIZATION_REFUSED: "the route's client_authorization: replace takes the client's Authorization away instead",
    Problem.CLIENT_NOT_ALLOWED: "access.allowed_clients (BEARER_PROXY_ALLOWED_CLIENTS) lists the networks of clients; a "
    "route's access may list fewer",
    Problem.BROWSER_REFUSED: "a web page of another origin asked; access.allowed_origins lists those that may",
    Problem.KEY_REQUIRED: "access.require_header asks for a key that the request does not show",
    Problem.NO_ROUTE: "no route's match takes this host and path; path_prefix: /orders takes /orders and /orders/7, but "
    "not /ordersx",
    Problem.METHOD_NOT_ALLOWED: "a route takes this path with other methods only; see its match.methods",
    Problem.REQUEST_TIMEOUT: "the client was too slow; limits.head_timeout and limits.body_idle_timeout bound its pauses",
    Problem.BODY_TOO_LARGE: "limits.body_bytes, of the route or of the gateway, bounds request bodies",
    Problem.TARGET_TOO_LONG: "limits.head_bytes bounds the request line and the header",
    Problem.EXPECTATION_FAILED: "the only value of Expect that is understood is 100-continue",
    Problem.HOST_NOT_ALLOWED: "access.allowed_hosts (BEARER_PROXY_ALLOWED_HOSTS) lists the names clients may use; a route's "
    "match.host counts too",
    Problem.RATE_LIMITED: "the route's rate_limit bounds its requests",
    Problem.HEAD_TOO_LARGE: "limits.head_bytes and limits.field_count bound the header",
    Problem.INTERNAL: "a fault of the gateway; its log has a line with the request's id",
    Problem.NOT_IMPLEMENTED: "methods are those of HTTP and WebDAV, without TRACE and CONNECT; the only transfer coding is "
    "chunked",
    Problem.TOKEN_UNAVAILABLE: "`bearer-proxy token` asks for the same token and explains what comes of it",
    Problem.OVERLOADED: "every connection is in use: pool.max_connections and pool.pending_timeout bound those to the "
    "upstream, limits.connections those of clients, `ulimit -n` both; or the upstream is slower than it should be",
    Problem.DRAINING: "the gateway was told to stop",
    Problem.VERSION_NOT_SUPPORTED: "clients speak HTTP/1.0 or HTTP/1.1",
    Problem.LOOP_DETECTED: "the route's upstream leads back to this gateway",
}
_UPSTREAM = {
    ErrorType.DNS_ERROR: "the host name of the route's upstream has no address here: check its spelling, and whether this "
    "machine or container can resolve it (getent hosts NAME)",
    ErrorType.DNS_TIMEOUT: "the name server did not answer in time: check the one that this machine or container uses "
    "(/etc/resolv.conf); timeouts.connect bounds the wait",
    ErrorType.CONNECTION_REFUSED: "nothing listens there: check host and port of the route's upstream, and whether it runs; "
    "inside a container, localhost is the container itself",
    ErrorType.CONNECTION_TIMEOUT: "nobody answered: mostly a firewall, a wrong address or a proxy that would be needed; "
    "timeouts.connect bounds the wait",
    ErrorType.DESTINATION_UNAVAILABLE: "there is no way to that address: check the network of this machine or container",
    ErrorType.CONNECTION_TERMINATED: "it closed the connection without an answer: check whether the port wants https "
    "(upstream: https://...), and the upstream's own log",
    ErrorType.CONNECTION_READ_TIMEOUT: "the response paused for longer than timeouts.idle, which has to be above the pauses "
    "of a stream",
    ErrorType.CONNECTION_WRITE_TIMEOUT: "it stopped reading the request's body for longer than timeouts.idle; see its own log",
    ErrorType.TLS_CERTIFICATE_ERROR: "a private authority's certificate is named by the route's tls.ca_file, the name in the "
    "certificate, if it is not the URL's host, by tls.server_name; an expired one has to be renewed there",
    ErrorType.TLS_PROTOCOL_ERROR: "no common TLS: check whether that port speaks TLS at all, and which version "
    "(tls.min_version)",
    ErrorType.TLS_ALERT_RECEIVED: "it ended the handshake: mostly it wants a client certificate (tls.cert_file, "
    "tls.key_file) or knows no such name (tls.server_name)",
    ErrorType.HTTP_PROTOCOL_ERROR: "what came is not an HTTP/1.1 response that can be passed on: check scheme and port of the "
    "route's upstream; HTTP/2 alone, or gRPC, is not spoken",
    ErrorType.HTTP_RESPONSE_INCOMPLETE: "it closed the connection within its response; see its own log",
    ErrorType.HTTP_RESPONSE_HEADER_SECTION_SIZE: "limits.head_bytes and limits.field_count bound the response's header too",
    ErrorType.HTTP_RESPONSE_TIMEOUT: "it took longer than timeouts.first_byte, or timeouts.total, allows; see its own log",
}


def hint(error: GatewayError) -> str | None:
    """Returns what to look at, None where nobody can do anything."""
    if error.side is Side.UPSTREAM:
        return _UPSTREAM.get(error.error_type)
    return _PROBLEMS.get(rescue.problem_of(error))
