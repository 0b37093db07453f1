"""TLS contexts of both sides, read again on change: towards upstreams and authorization servers, and towards clients.

A changed file that cannot be used keeps the context in force, with one line in the log: a rotation caught half-way, the
certificate new and its key still old, costs nothing. At first load it is an error of the configuration. Servers are
always verified: no setting turns that off; a private upstream has its own `ca_file` or `server_name` instead. Clients
are where `client_ca_file` says by whom.

Source: RFC 9110 §4.3.4 (verification of the origin), RFC 6749 §3.2 (token endpoint), RFC 8705 §2 (client certificate),
RFC 9325 (versions, renegotiation).
"""

from __future__ import annotations

import logging
import os
import ssl
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from proxy.errors import ConfigurationError

_log = logging.getLogger("proxy.tls")
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

_Stamp = tuple[tuple[int, int, int, int] | None, ...]  # of each named file: device, inode, size, time of change


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """How a server is verified and what it is shown. Compared by equality: part of a pool's and of a token's key."""

    ca_file: Path | None = None  # PEM; instead of the system's certification authorities
    cert_file: Path | None = None  # PEM; our certificate and the chain above it
    key_file: Path | None = None  # PEM; None if cert_file holds the key too
    server_name: str | None = None  # asked for (SNI) and verified in place of the origin's host
    min_version: Literal["1.2", "1.3"] = "1.2"

    @property
    def files(self) -> tuple[Path | None, ...]:
        """Returns what is read again on change."""
        return (self.ca_file, self.cert_file, self.key_file)

    def build(self) -> ssl.SSLContext:
        """Returns a new context. Raises TlsFileError."""
        return _towards_servers(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTlsSettings:
    """What clients are shown, and how they are verified."""

    cert_file: Path  # PEM; our certificate and the chain above it
    key_file: Path | None = None  # PEM; None if cert_file holds the key too
    client_ca_file: Path | None = None  # PEM; each client must show a certificate of one of these authorities

    @property
    def files(self) -> tuple[Path | None, ...]:
        """Returns what is read again on change."""
        return (self.cert_file, self.key_file, self.client_ca_file)

    def build(self) -> ssl.SSLContext:
        """Returns a new context. Raises TlsFileError."""
        return _towards_clients(self)


class TlsFileError(ConfigurationError):
    """A file that cannot be used: the key that names it, and why, without the file's name."""

    def __init__(self, key: str, files: str, reason: str) -> None:
        super().__init__(f"{files}: {reason}")
        self.key = key
        self.reason = reason


@dataclass(slots=True)
class _Loaded:
    context: ssl.SSLContext
    stamp: _Stamp  # of the files when they were last looked into, usable or not


class TlsContexts:
    """The contexts in force, one per distinct setting: building one takes milliseconds."""

    __slots__ = ("_loaded",)

    def __init__(self) -> None:
        self._loaded: dict[TlsSettings | ServerTlsSettings, _Loaded] = {}

    def get(self, settings: TlsSettings | ServerTlsSettings | None) -> ssl.SSLContext:
        """Returns the context for these settings: the same object for as long as its files stay as they are.

        One `stat` per named file. Raises ConfigurationError if the files cannot be used and never could.
        """
        if not isinstance(settings, ServerTlsSettings):
            # the name is given with each connection, no part of a context
            settings = replace(settings or TlsSettings(), server_name=None)
        stamp = tuple(_stamp(path) for path in settings.files)
        loaded = self._loaded.get(settings)
        if loaded is None:
            loaded = self._loaded[settings] = _Loaded(settings.build(), stamp)
        elif loaded.stamp != stamp:
            loaded.stamp = stamp
            try:
                loaded.context = settings.build()
            except ConfigurationError as error:
                _log.warning("TLS files have changed but cannot be used, the former stay in force: %s", error)
        return loaded.context


def _stamp(path: Path | None) -> tuple[int, int, int, int] | None:
    if path is None:
        return None
    try:
        info = os.stat(path)  # noqa: PTH116  # follows symbolic links: a rotation may swap one
    except OSError:
        return None
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)


def _towards_servers(settings: TlsSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise TlsFileError("ca_file", f"tls.ca_file {settings.ca_file}", _reason(error)) from None
    # a variable left in the environment (SSLKEYLOGFILE) must not write down what reads the token off the wire
    context.keylog_filename = None  # type: ignore[assignment]  # which ends it
    context.minimum_version = _VERSIONS[settings.min_version]
    context.set_alpn_protocols(["http/1.1"])
    if settings.cert_file is not None:
        _show(context, settings.cert_file, settings.key_file)
    elif settings.key_file is not None:
        raise ConfigurationError("tls.key_file without tls.cert_file")
    return context


def _towards_clients(settings: ServerTlsSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # which costs the server more than the client
    context.set_alpn_protocols(["http/1.1"])
    _show(context, settings.cert_file, settings.key_file)
    if settings.client_ca_file is not None:
        try:
            context.load_verify_locations(settings.client_ca_file)
        except OSError as error:
            raise TlsFileError(
                "client_ca_file", f"tls.client_ca_file {settings.client_ca_file}", _reason(error)
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _show(context: ssl.SSLContext, cert_file: Path, key_file: Path | None) -> None:
    """Gives the context our certificate."""
    try:
        # an empty password keeps OpenSSL from asking for one at the terminal, which would stop the event loop
        context.load_cert_chain(cert_file, key_file, password="")
    except OSError as error:
        files = f"tls.cert_file {cert_file}"
        if key_file is not None:
            files += f", tls.key_file {key_file}"
        raise TlsFileError("cert_file", files, _reason(error)) from None


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        if error.reason == "KEY_VALUES_MISMATCH":
            return "cannot be used (the key is not the certificate's: KEY_VALUES_MISMATCH)"
        return f"cannot be used ({error.reason or 'not PEM, or its key is locked'})"
    return error.strerror or "cannot be read"
