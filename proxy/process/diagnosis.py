"""Why a token request failed, told to people by stage: for `bearer-proxy token` and `check --live`.

The request has failed already, with a stage and a reason. Where that leaves open what stands in the way, the way is gone
once more, step by step and without sending anything: the host's name, a connection, a TLS handshake. The handshake looks
at the certificate without believing it, to say whose it is and how long it is valid; it is ended at once, and no token
request is ever made over such a connection.

A server's certificate is its own text: it is cleaned and cut before it reaches a terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from cryptography import x509

from proxy.oauth.registration import Registration
from proxy.oauth.response import Outcome, Stage, TokenRequestError
from proxy.tls import TlsSettings
from proxy.transports import abort
from proxy.units import SECONDS

_STEP_S = 3 * SECONDS  # the longest that one step may take; less if the credential's timeout is
_NO_TLS = (
    "check scheme and port of the URL; the server may speak no TLS there, or no version that tls.min_version admits"
)
_NO_CERTIFICATE = "the server wants a client certificate, or refuses ours: check tls.cert_file and tls.key_file"
_ALERT_S = 0.2 * SECONDS  # for an alert that follows a handshake
_MAX_TEXT = 120  # characters of a name in a certificate
_MAX_NAMES = 5
_UNCLEAR = frozenset({Outcome.CONNECT, Outcome.TLS, Outcome.TIMEOUT})  # outcomes of which there is more to find out


@dataclass(frozen=True, slots=True, kw_only=True)
class _Peer:
    """Whom the first connection is made to: the authorization server, or the proxy before it."""

    host: str
    port: int
    server_name: str | None  # None where no TLS is spoken on that connection
    min_version: ssl.TLSVersion
    may_want_certificate: bool  # we have none to show

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


async def told(registration: Registration | None, error: TokenRequestError) -> list[str]:
    """Returns a failure's facts for an operator, a line each; nothing secret. Takes a few seconds at most.

    `registration` is None for a token that no authorization server was asked for.
    """
    found = None
    if registration is not None and error.outcome in _UNCLEAR and error.stage is not Stage.CONFIGURATION:
        found = await _steps(registration)
    stage = (None if found is None else found.stage) or error.stage
    lines = [error.detail, f"stage: {stage}"]
    if found is not None:
        lines.extend(found.lines)
    if error.description:
        lines.append(f"the authorization server says: {error.description}")
    hint = None if found is None else found.hint
    if stage is error.stage and error.hint:
        hint = error.hint
    if hint:
        lines.append(f"hint: {hint}")
    return lines


@dataclass(frozen=True, slots=True)
class _Found:
    lines: list[str]
    stage: Stage | None = None  # where it failed now; None where every step worked
    hint: str | None = None


async def _steps(registration: Registration) -> _Found:
    """Goes the way to the first peer, as far as it can be gone."""
    peer = _peer(registration)
    lines: list[str] = []
    at_proxy = registration.proxy is not None
    step_s = min(_STEP_S, registration.timeout_s)
    try:
        async with asyncio.timeout(step_s):
            addresses = await _addresses(peer)
    except TimeoutError:
        return _Found([f"{peer.host}: the name servers do not answer"], Stage.DNS, "check this machine's name servers")
    except OSError as error:
        return _Found([f"{peer.host}: {_words(error)}"], Stage.DNS)
    if addresses != [peer.host]:
        lines.append(f"{peer.host}: {', '.join(addresses)}")
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(step_s):
            _, writer = await asyncio.open_connection(peer.host, peer.port)
    except TimeoutError:
        hint = "a firewall or a wrong address; perhaps the way leads through a proxy: proxy_url"
        return _Found(
            [*lines, f"{peer}: no answer to a connection within {step_s:g} s"],
            Stage.PROXY if at_proxy else Stage.TCP,
            "check proxy_url, and that the proxy runs" if at_proxy else hint,
        )
    except OSError as error:
        return _Found([*lines, f"{peer}: {_words(error)}"], Stage.PROXY if at_proxy else Stage.TCP)
    finally:
        await _closed(writer)
    lines.append(f"{peer}: {'the proxy accepts' if at_proxy else 'accepts'} connections")
    if peer.server_name is None:
        return _Found(
            lines, hint="the peer accepts connections but does not answer in time: see its log, or raise timeout"
        )
    return await _handshake(peer, peer.server_name, lines, step_s)


async def _handshake(peer: _Peer, server_name: str, lines: list[str], step_s: float) -> _Found:
    """Asks for the certificate, whatever it is worth."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = peer.min_version
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # looked at and left: nothing is sent over this connection
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(step_s):
            reader, writer = await asyncio.open_connection(
                peer.host, peer.port, ssl=context, server_hostname=server_name
            )
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        if peer.may_want_certificate:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(step_s, _ALERT_S)):
                    await reader.read(1)  # since TLS 1.3 a server says so only after our side of the handshake
    except TimeoutError:
        return _Found([*lines, f"{peer}: no answer to a TLS handshake within {step_s:g} s"], Stage.TLS, _NO_TLS)
    except (OSError, ValueError) as error:
        hint = _NO_TLS if "certificate" not in _words(error) else _NO_CERTIFICATE
        return _Found([*lines, f"{peer}: no TLS handshake: {_words(error)}"], Stage.TLS, hint)
    finally:
        await _closed(writer)
    return _Found(
        [*lines, *_certificate(certificate)],
        hint="the peer speaks TLS but does not answer in time: see its log, or raise timeout",
    )


def _peer(registration: Registration) -> _Peer:
    url = urlsplit(registration.server if registration.proxy is None else registration.proxy.url)
    secure = url.scheme == "https"
    host = url.hostname or ""
    tls = registration.tls or TlsSettings()
    version = ssl.TLSVersion.TLSv1_3 if tls.min_version == "1.3" else ssl.TLSVersion.TLSv1_2
    return _Peer(
        host=host,
        port=url.port or (443 if secure else 80),
        server_name=(tls.server_name or host) if secure else None,
        min_version=version,
        may_want_certificate=tls.cert_file is None,
    )


async def _addresses(peer: _Peer) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def _closed(writer: asyncio.StreamWriter | None) -> None:
    if writer is not None:
        abort(writer.transport)
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _words(error: Exception) -> str:
    """Returns the system's or OpenSSL's words, without addresses."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return str(error.reason).replace("_", " ").lower()
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return "the name has no address"
    return getattr(error, "strerror", None) or type(error).__name__


def _certificate(encoded: bytes | None) -> list[str]:
    """Returns what a certificate says of itself."""
    if not encoded:
        return ["it shows no certificate"]
    try:
        certificate = x509.load_der_x509_certificate(encoded)
        subject, issuer = certificate.subject.rfc4514_string(), certificate.issuer.rfc4514_string()
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        names = _alternative_names(certificate)
    except (ValueError, x509.DuplicateExtension):
        return ["its certificate cannot be read"]
    own = " (itself: self-signed)" if subject == issuer else ""
    return [
        f"its certificate is for {', '.join(map(_cleaned, names[:_MAX_NAMES])) or _cleaned(subject)}"
        + (f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""),
        f"issued by {_cleaned(issuer)}{own}, valid from {_day(begin)} to {_day(end)}",
    ]


def _alternative_names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [
        *names.get_values_for_type(x509.DNSName),
        *(str(address) for address in names.get_values_for_type(x509.IPAddress)),
    ]


def _cleaned(text: str) -> str:
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown if len(shown) <= _MAX_TEXT else shown[: _MAX_TEXT - 1] + "…"


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")
