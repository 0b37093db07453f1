"""TLS contexts of the client side: certificates are always verified, files are read again when they change.

A changed file that cannot be used keeps the context in force, with a warning: a half-written rotation costs nothing. At
first use it is an error, never a silent step down. Contexts are dear to build, so one cache serves all that share it.

Source: RFC 6749 §3.2 and §10.9 (the token endpoint is reached over verified TLS only), RFC 8705 §2 (client certificate).
"""

from __future__ import annotations

import logging
import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from proxy.errors import ConfigurationError

_log = logging.getLogger("proxy.tls")
_MIN_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

_Stamp = tuple[tuple[int, int, int, int] | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """TLS towards one server. Verification of the certificate and of the name cannot be switched off."""

    ca_file: Path | None = None  # trusted instead of the system's authorities
    cert_file: Path | None = None  # our client certificate, with its chain
    key_file: Path | None = None  # its key, where that is not in cert_file
    server_name: str | None = None  # expected in the certificate instead of the host's name, and sent as SNI
    min_version: str = "1.2"  # or 1.3


_DEFAULT = TlsSettings()


@dataclass(slots=True)
class _Cached:
    stamp: _Stamp  # of the files when they were last looked into, good or bad
    context: ssl.SSLContext


class TlsContexts:
    """The contexts in use, one per distinct setting."""

    __slots__ = ("_cached",)

    def __init__(self) -> None:
        self._cached: dict[TlsSettings, _Cached] = {}

    def get(self, settings: TlsSettings | None) -> ssl.SSLContext:
        """Returns the context for these settings; one `stat` per named file when nothing changed.

        Raises ConfigurationError when the files cannot be used and never could.
        """
        settings = settings or _DEFAULT
        stamp = tuple(_stamp(path) for path in (settings.ca_file, settings.cert_file, settings.key_file))
        cached = self._cached.get(settings)
        if cached is not None and cached.stamp == stamp:
            return cached.context
        try:
            context = _build(settings)
        except ConfigurationError as error:
            if cached is None:
                raise
            cached.stamp = stamp
            _log.warning("TLS files changed but cannot be used; the former stay in force: %s", error)
            return cached.context
        self._cached[settings] = _Cached(stamp, context)
        return context


def _build(settings: TlsSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"tls.ca_file {settings.ca_file}: {_reason(error)}") from None
    context.minimum_version = _MIN_VERSIONS[settings.min_version]
    context.set_alpn_protocols(["http/1.1"])
    if settings.cert_file is not None:
        try:
            # an empty password instead of OpenSSL's prompt, which would stop the event loop at a terminal
            context.load_cert_chain(settings.cert_file, settings.key_file, password="")
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"tls.cert_file {settings.cert_file}: {_reason(error)}") from None
    return context


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"cannot be used ({error.reason or 'not in PEM format, or not a pair'})"
    return error.strerror or "cannot be read"


def _stamp(path: Path | None) -> tuple[int, int, int, int] | None:
    if path is None:
        return None
    try:
        info = os.stat(path)  # noqa: PTH116  # follows symbolic links, as a rotation by symlink swap needs
    except OSError:
        return None
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)
