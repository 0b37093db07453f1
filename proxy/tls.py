"""TLS contexts of the client side, towards upstreams and authorization servers: always verifying, read again on change.

A changed file that cannot be used keeps the context in force, with one line in the log: a rotation caught half-way, the
certificate new and its key still old, costs nothing. At first load it is an error of the configuration. There is no
setting that turns verification off; a private upstream has its own `ca_file` or `server_name` instead.

Source: RFC 9110 §4.3.4 (verification of the origin), RFC 6749 §3.2 (token endpoint), RFC 8705 §2 (client certificate).
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


@dataclass(slots=True)
class _Loaded:
    context: ssl.SSLContext
    stamp: _Stamp  # of the files when they were last looked into, usable or not


class TlsContexts:
    """The contexts in force, one per distinct setting: building one takes milliseconds."""

    __slots__ = ("_loaded",)

    def __init__(self) -> None:
        self._loaded: dict[TlsSettings, _Loaded] = {}

    def get(self, settings: TlsSettings | None) -> ssl.SSLContext:
        """Returns the context for these settings: the same object for as long as its files stay as they are.

        One `stat` per named file. Raises ConfigurationError if the files cannot be used and never could.
        """
        settings = replace(
            settings or TlsSettings(), server_name=None
        )  # given with each connection, no part of a context
        stamp = tuple(_stamp(path) for path in (settings.ca_file, settings.cert_file, settings.key_file))
        loaded = self._loaded.get(settings)
        if loaded is None:
            loaded = self._loaded[settings] = _Loaded(_build(settings), stamp)
        elif loaded.stamp != stamp:
            loaded.stamp = stamp
            try:
                loaded.context = _build(settings)
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


def _build(settings: TlsSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(f"tls.ca_file {settings.ca_file}: {_reason(error)}") from None
    context.minimum_version = _VERSIONS[settings.min_version]
    context.set_alpn_protocols(["http/1.1"])
    if settings.cert_file is not None:
        try:
            # an empty password keeps OpenSSL from asking for one at the terminal, which would stop the event loop
            context.load_cert_chain(settings.cert_file, settings.key_file, password="")
        except OSError as error:
            files = f"tls.cert_file {settings.cert_file}"
            if settings.key_file is not None:
                files += f", tls.key_file {settings.key_file}"
            raise ConfigurationError(f"{files}: {_reason(error)}") from None
    elif settings.key_file is not None:
        raise ConfigurationError("tls.key_file without tls.cert_file")
    return context


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"cannot be used ({error.reason or 'not PEM, or not a pair'})"
    return error.strerror or "cannot be read"
