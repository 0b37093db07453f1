"""What went wrong before a token endpoint's reply was there, in words of our own.

aiohttp's errors hold the request, and with it the client's secret: of them, only the type, the system's words and
OpenSSL's are used. Each failure says at which stage it happened, and where one is known, what to look at.
"""

from __future__ import annotations

import os
import ssl

import aiohttp

from proxy.errors import ErrorType
from proxy.oauth.registration import Registration
from proxy.oauth.response import Outcome, Stage, TokenRequestError

# OpenSSL's X509_V_ERR_* (x509_vfy.h), as far as an operator can tell them apart by what is to be done
_NOT_YET_VALID, _EXPIRED = 9, 10
_UNKNOWN_ISSUER = frozenset({2, 18, 19, 20, 21})  # 18 and 19: self-signed, at the end or at the top of the chain
_OTHER_NAME = frozenset({62, 64})
_CERTIFICATE_HINTS = {
    _NOT_YET_VALID: "check this machine's clock, and the certificate of the server",
    _EXPIRED: "the authorization server needs a new certificate; or this machine's clock is ahead",
    **dict.fromkeys(
        _UNKNOWN_ISSUER, "name the certificate of the authority that issued it by tls.ca_file of the credential"
    ),
    **dict.fromkeys(
        _OTHER_NAME, "use a name of the certificate in the URL, or tell it by tls.server_name of the credential"
    ),
}
_PLAIN_TEXT = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})


def explained(error: Exception, registration: Registration, *, place: str = "the token endpoint") -> TokenRequestError:
    """Returns the failure for whatever an exchange with `place` raised."""
    match error:
        case aiohttp.ClientConnectorCertificateError(certificate_error=reason):
            return _certificate(reason, registration, place, error.host)
        case ssl.SSLCertVerificationError():
            return _certificate(error, registration, place, "the URL's host")
        case aiohttp.ClientHttpProxyError():
            return _proxy_refusal(error.status, place)
        case aiohttp.ClientProxyConnectionError(os_error=reason):
            return TokenRequestError(
                Outcome.CONNECT,
                f"no connection to the proxy: {_words(reason)}",
                hint="check proxy_url, and that the proxy runs",
                stage=Stage.PROXY,
                error_type=ErrorType.CONNECTION_REFUSED if isinstance(reason, ConnectionRefusedError) else None,
            )
        case aiohttp.ClientConnectorSSLError(os_error=reason) | (ssl.SSLError() as reason):
            return _handshake(reason, place)
        case aiohttp.ClientSSLError():
            return _handshake(error, place)
        case aiohttp.ClientOSError(__cause__=ssl.SSLError() as reason):
            return _handshake(reason, place)  # an alert that came after our side of the handshake was done
        case aiohttp.ClientConnectorDNSError():
            return TokenRequestError(
                Outcome.CONNECT,
                f"the host name of {place if registration.proxy is None else 'the proxy'} has no address",
                hint="check the spelling of the host, and this machine's name servers",
                stage=Stage.DNS,
                error_type=ErrorType.DNS_ERROR,
            )
        case aiohttp.ClientConnectorError(os_error=reason):
            refused = isinstance(reason, ConnectionRefusedError)
            return TokenRequestError(
                Outcome.CONNECT,
                f"no connection to {place}: {_words(reason)}",
                hint="nothing listens there: check host and port, and that the server runs"
                if refused
                else "there is no way to that address: check host and port, the network, and whether a proxy is needed "
                "(proxy_url)",
                stage=Stage.TCP,
                error_type=ErrorType.CONNECTION_REFUSED if refused else None,
            )
        case TimeoutError():  # of `asyncio.timeout`; after the connector's, which may hold the system's own
            return TokenRequestError(
                Outcome.TIMEOUT, f"no whole reply within the timeout of {registration.timeout_s:g} s"
            )
        case aiohttp.ClientPayloadError():
            return TokenRequestError(
                Outcome.CONNECT,
                "the reply was cut off",
                stage=Stage.HTTP,
                error_type=ErrorType.HTTP_RESPONSE_INCOMPLETE,
            )
        case aiohttp.ClientConnectionError() | OSError():
            return TokenRequestError(
                Outcome.CONNECT,
                "the connection was closed before the reply",
                stage=Stage.HTTP,
                error_type=ErrorType.CONNECTION_TERMINATED,
            )
        case aiohttp.ClientResponseError():
            return TokenRequestError(
                Outcome.MALFORMED, "the reply is not HTTP", hint=f"check the scheme and port of {place}"
            )
        case _:
            return TokenRequestError(Outcome.MALFORMED, f"the token request failed: {type(error).__name__}")


def _certificate(reason: Exception, registration: Registration, place: str, host: str) -> TokenRequestError:
    """Returns what is wrong with a certificate, in OpenSSL's words, and which name it was verified for."""
    words = getattr(reason, "verify_message", "") or type(reason).__name__
    code = getattr(reason, "verify_code", 0)
    named = registration.tls.server_name if registration.tls is not None else None
    return TokenRequestError(
        Outcome.TLS,
        f"the certificate of {place} is not accepted: {words.rstrip('.')} (verified for {named or host})",
        hint=_CERTIFICATE_HINTS.get(
            code, "a private authority's certificate is named by tls.ca_file, another host name by tls.server_name"
        ),
        error_type=ErrorType.TLS_CERTIFICATE_ERROR,
    )


def _handshake(reason: BaseException, place: str) -> TokenRequestError:
    """Returns why a handshake failed; OpenSSL's reason is a word like `WRONG_VERSION_NUMBER`."""
    word = getattr(reason, "reason", None)
    word = word if isinstance(word, str) else None
    hint = None
    if word in _PLAIN_TEXT:
        hint = "the port does not speak TLS: check scheme and port of the URL"
    elif word is not None and "CERTIFICATE" in word:
        hint = "the server wants a client certificate, or refuses ours: check tls.cert_file and tls.key_file"
    elif word is not None and ("PROTOCOL" in word or "VERSION" in word):
        hint = "the server speaks no TLS version that is admitted: see tls.min_version"
    said = f": {word.replace('_', ' ').lower()}" if word is not None else ": the server ended the handshake"
    return TokenRequestError(Outcome.TLS, f"no TLS connection with {place}{said}", hint=hint)


def _proxy_refusal(status: int, place: str) -> TokenRequestError:
    """Returns why a proxy opened no tunnel (RFC 9110 §9.3.6)."""
    if status == 407:
        reason, hint = "the proxy demands authentication", "put user and password into proxy_url"
    else:
        reason, hint = f"the proxy refuses to connect to {place}", "allow its host and port at the proxy"
    return TokenRequestError(
        Outcome.CONNECT,
        f"{reason} (HTTP {status} to CONNECT)",
        hint=hint,
        stage=Stage.PROXY,
        error_type=ErrorType.HTTP_REQUEST_DENIED,
    )


def _words(reason: OSError) -> str:
    """Returns the system's words for an error, without the address that asyncio adds."""
    match reason:
        case ConnectionRefusedError():
            return "connection refused"
        case ConnectionResetError():
            return "connection reset"
        case TimeoutError():
            return "timed out"
        case _:
            return type(reason).__name__ if reason.errno is None else os.strerror(reason.errno).lower()
