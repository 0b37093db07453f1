"""Warnings: what is allowed in a configuration, and looks like a mistake or a risk. Each has a place, as faults have."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from proxy.config.faults import Fault, KeyPath, Place, shown
from proxy.config.files import SECRET_FILES
from proxy.config.network import is_loopback
from proxy.config.references import variables
from proxy.config.schema import Configuration
from proxy.config.tree import FaultyNode, ListNode, MappingNode, Node, ScalarNode, find, paths
from proxy.gateway.settings import Settings
from proxy.http1.target import ambiguity
from proxy.http1.wire import METHODS
from proxy.routing import Matched, PathPolicy, Route, RouteTable
from proxy.tokens.static_source import StaticCredential

_SECRETS: tuple[KeyPath, ...] = (
    ("credentials", "*", "client_secret"),
    ("credentials", "*", "client_secret", "*"),
    ("access", "require_header", "value"),
    ("routes", "*", "access", "require_header", "value"),
)
_PROXY: KeyPath = ("credentials", "*", "proxy_url")
_HEADERS: tuple[KeyPath, ...] = tuple(
    (*path, *end)
    for path in (("routes", "*", "set_request_headers", "*"), ("credentials", "*", "token_request_headers", "*"))
    for end in ((), ("value",))
)
_SENT: tuple[KeyPath, ...] = (
    ("credentials", "*", "client_id"),
    ("credentials", "*", "client_secret"),
    ("credentials", "*", "client_secret", "*"),
    ("credentials", "*", "audience"),
    ("credentials", "*", "endpoint_params", "*"),
)
_SCOPES: tuple[KeyPath, ...] = (("credentials", "*", "scope"), ("credentials", "*", "scopes", "*"))
_NAMES_A_SECRET = re.compile(r"key|token|secret|passw|credential|auth|cookie|session", re.IGNORECASE)
# `$NAME` as a whole value, or in capitals within one: `/$metadata` and `pa$word` are what they are
_UNBRACED = re.compile(r"\$[A-Za-z_][A-Za-z0-9_]*|.*\$[A-Z_][A-Z0-9_]{2,}.*", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UNLIKELY = b"x7q9-no-such-name"  # a host label and path segment that no configuration names


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A configuration without faults, in each of its forms."""

    written: MappingNode = field(repr=False)  # before references were replaced
    root: MappingNode = field(repr=False)
    configuration: Configuration = field(repr=False)
    settings: Settings = field(repr=False)
    path: Path | None  # None without a file
    env_file: Path | None  # that variables may come from


def warnings(document: Document) -> list[Fault]:
    """Returns the warnings, sorted by place. Asks the file system for the modes of secret files."""
    found = [
        *_secrets_in_file(document),
        *_readable_secret_files(document),
        *_readable_env_file(document),
        *_variables_without_braces(document),
        *_white_space(document),
        *_commas(document),
        *_plain_http(document),
        *_unused_credentials(document),
        *_routes_without_requests(document),
        *_open_doors(document),
        *_refreshes_without_effect(document),
    ]
    return sorted(set(found), key=lambda fault: (fault.file, fault.line, fault.column, fault.path, fault.message))


def _warning(document: Document, path: KeyPath, message: str) -> Fault:
    found = find(document.root, path)
    place: Place = found.value_place
    return Fault(place.file, place.line, place.column, place.label or shown(path), message)


def _scalars(document: Document, *patterns: KeyPath) -> Iterator[tuple[KeyPath, ScalarNode]]:
    for pattern in patterns:
        for path in paths(document.root, pattern):
            node = find(document.root, path).node
            if isinstance(node, ScalarNode):
                yield path, node


def _secrets_in_file(document: Document) -> Iterator[Fault]:
    if document.path is None:
        return
    others = ", which every user of this machine can read" if _readable_by_others(document.path) else ""
    advice = f"a secret stands in the file{others}; refer to a variable (${{NAME}}) or to a file of its own"
    for path, node in _scalars(document, *_SECRETS):
        if not node.variables:
            yield _warning(document, path, advice)
    for path, node in _scalars(document, _PROXY):
        if not node.variables and "@" in node.text:
            yield _warning(document, path, advice.replace("a secret stands", "a password stands"))
    for path, node in _scalars(document, *_HEADERS):
        header = str(path[-2] if path[-1] == "value" else path[-1])
        if not node.variables and _NAMES_A_SECRET.search(header) is not None:
            yield _warning(document, path, f"looks as if {advice}")


def _readable_secret_files(document: Document) -> Iterator[Fault]:
    for path, node in _scalars(document, *SECRET_FILES):
        if _readable_by_others(Path(node.text)):
            yield _warning(document, path, "every user of this machine can read the file (chmod o-r)")


def _readable_env_file(document: Document) -> Iterator[Fault]:
    if document.env_file is None or not _readable_by_others(document.env_file):
        return
    given = variables({}, document.env_file)
    secrets = (*_SECRETS, *_HEADERS)
    if any(name in given for _, node in _scalars(document, *secrets) for name in node.variables):
        message = "every user of this machine can read the file, and a secret in it (chmod o-r)"
        yield Fault(str(document.env_file), 0, 0, "", message)


def _variables_without_braces(document: Document) -> Iterator[Fault]:
    for path, node in _every_scalar(document.written):
        if not str(path[0]).startswith("x-") and _UNBRACED.fullmatch(node.text) is not None:
            message = "holds a $NAME without braces, which is taken as it is; a variable is written ${NAME}"
            yield Fault(node.place.file, node.place.line, node.place.column, node.place.label or shown(path), message)


def _every_scalar(node: Node, before: KeyPath = ()) -> Iterator[tuple[KeyPath, ScalarNode]]:
    match node:
        case ScalarNode():
            yield before, node
        case ListNode():
            for index, item in enumerate(node.items):
                yield from _every_scalar(item, (*before, index))
        case MappingNode():
            for key, entry in node.entries.items():
                yield from _every_scalar(entry.value, (*before, key))
        case FaultyNode():
            pass


def _readable_by_others(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except (OSError, ValueError):
        return False


def _white_space(document: Document) -> Iterator[Fault]:
    for path, node in _scalars(document, *_SENT):
        if node.text != node.text.strip():
            yield _warning(document, path, "begins or ends with white space, which is sent as part of it")
        elif _CONTROL.search(node.text) is not None:
            yield _warning(document, path, "holds a control character, which is sent as part of it")


def _commas(document: Document) -> Iterator[Fault]:
    for path, node in _scalars(document, *_SCOPES):
        if "," in node.text:
            yield _warning(document, path, "holds a comma, which is part of a scope's name; spaces separate scopes")


def _plain_http(document: Document) -> Iterator[Fault]:
    for name, credential in document.configuration.credentials.items():
        for key in ("token_endpoint", "token_url", "issuer"):
            url = getattr(credential, key, None)
            if url is not None and url.plain_http_beyond_loopback:
                yield _warning(
                    document, ("credentials", name, key), "plain http: the client secret can be read on the way"
                )
    for index, route in enumerate(document.settings.routes):
        if not route.upstream.secure and not route.upstream.is_loopback:
            what = "requests" if route.credential is None else "the token and the requests"
            yield _warning(document, ("routes", index, "upstream"), f"plain http: {what} can be read on the way")


def _unused_credentials(document: Document) -> Iterator[Fault]:
    used = {route.credential for route in document.settings.routes}
    for credential in document.settings.credentials:
        if credential.name not in used:
            yield _warning(document, ("credentials", str(credential.name)), "no route uses this credential")


def _routes_without_requests(document: Document) -> Iterator[Fault]:
    routes = document.settings.routes
    table = RouteTable(routes)
    hosts = [document.settings.access.allowed_hosts, (r.match.host.encode("ascii") for r in routes if r.match.host)]
    named = tuple(host for group in hosts for host in group)
    for index, route in enumerate(routes):
        if not _can_match(route, table, named):
            reason = "other routes take every request that it is for"
            path = route.match.path_exact or route.match.path_prefix or b"/"
            if route.path_policy is PathPolicy.STRICT and (ambiguous := ambiguity(path)) is not None:
                reason = f"its path is ambiguous ({ambiguous}), and path_policy refuses those"
            yield _warning(document, ("routes", index, "match"), f"the route can never match: {reason}")


def _can_match(route: Route, table: RouteTable, named: tuple[bytes, ...]) -> bool:
    """Tries requests that only this route, or one more specific, could take; the table itself is the judge."""
    hosts: set[bytes | None] = {None, *(_example(host) for host in named)}
    if route.match.host is not None:
        hosts = {_example(route.match.host.encode("ascii"))}
    if route.match.path_exact is not None:
        tried = [route.match.path_exact]
    else:
        prefix = route.match.path_prefix or b"/"
        below = prefix.removesuffix(b"/") + b"/"
        tried = [prefix, below, below + _UNLIKELY]
    if route.path_policy is PathPolicy.STRICT:
        tried = [path for path in tried if ambiguity(path) is None]
    return any(
        isinstance(found := table.match(host, path, method), Matched) and found.route is route
        for host in hosts
        for path in tried
        for method in route.match.methods or METHODS
    )


def _example(host: bytes) -> bytes:
    """Returns a host that the entry of a list stands for."""
    return host.replace(b"*", _UNLIKELY, 1)


def _open_doors(document: Document) -> Iterator[Fault]:
    access = document.settings.access
    if b"*" in access.allowed_hosts:
        message = "any Host: a web page can reach the gateway under a name of its own (DNS rebinding)"
        yield _warning(document, ("access", "allowed_hosts"), message)
    tls = document.settings.tls
    guarded = access.required_header is not None or (tls is not None and tls.client_ca_file is not None)
    if guarded or all(map(is_loopback, document.settings.listen)):
        return
    if any(network.prefixlen == 0 for network in access.allowed_clients):
        message = "everyone who can reach the gateway may use its tokens; consider access.require_header or tls.client_ca_file"
        yield _warning(document, ("access", "allowed_clients"), message)


def _refreshes_without_effect(document: Document) -> Iterator[Fault]:
    for credential in document.settings.credentials:
        if isinstance(credential, StaticCredential):
            continue
        before_s = credential.refresh.before_expiry_s
        if before_s is not None and 2 * before_s >= credential.refresh.max_lifetime_s:
            path = ("credentials", str(credential.name), "refresh", "before_expiry")
            yield _warning(document, path, "has no effect: no token lives longer than twice this (max_lifetime)")
