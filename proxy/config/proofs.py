"""What credentials prove themselves with, looked into: keys, certificates and tokens that could not be used are faults.

The files can be read, which ``files`` has seen to; here is what stands in them. Signing libraries are imported where a
credential signs, and so before the gateway serves.

Source: RFC 7518 §3 (keys and their algorithms), RFC 8705 §2, RFC 6750 §2.1.
"""

from __future__ import annotations

from proxy.config.faults import Findings, KeyPath
from proxy.config.tree import MappingNode, find
from proxy.errors import ConfigurationError
from proxy.gateway.settings import Settings
from proxy.oauth.assertion import signing_key
from proxy.oauth.client_auth import SIGNING_METHODS
from proxy.oauth.registration import ClientAuthMethod, Registration
from proxy.oauth.response import TokenRequestError
from proxy.secret import OverlappingSecrets
from proxy.tls import TlsContexts
from proxy.tokens.static_source import StaticCredential, read_token


def check(root: MappingNode, settings: Settings, findings: Findings) -> None:
    """Records a fault for each proof that cannot serve."""
    contexts = TlsContexts()
    for credential in settings.credentials:
        path: KeyPath = ("credentials", str(credential.name))
        if isinstance(credential, StaticCredential):
            try:
                read_token(credential)
            except TokenRequestError as error:
                _add(root, (*path, "access_token_file"), error.detail, findings)
            continue
        registration = credential.registration
        if registration.tls is not None:
            try:
                contexts.get(registration.tls)
            except ConfigurationError as error:
                _add(root, (*path, "tls"), str(error), findings)
        _check_key(root, path, registration, findings)
    for index, route in enumerate(settings.routes):
        if route.tls is not None:
            try:
                contexts.get(route.tls)
            except ConfigurationError as error:
                _add(root, ("routes", index, "tls"), str(error), findings)


def _check_key(root: MappingNode, path: KeyPath, registration: Registration, findings: Findings) -> None:
    if registration.method not in SIGNING_METHODS or registration.client_assertion is not None:
        return
    by_secret = registration.method is ClientAuthMethod.CLIENT_SECRET_JWT
    proof = registration.proof
    try:
        for source in proof.sources if isinstance(proof, OverlappingSecrets) else (proof,):
            signing_key(source.read(), registration.method, registration.assertion)
    except ConfigurationError as error:
        key = "client_secret_file" if by_secret else "private_key_file"
        key = "signing_alg" if str(error).startswith("signing_alg") else key
        _add(root, (*path, key), str(error), findings)


def _add(root: MappingNode, path: KeyPath, message: str, findings: Findings) -> None:
    """Records a fault; a text that begins with its own key does not say it twice."""
    key, colon, rest = message.partition(": ")
    findings.add(find(root, path).value_place, path, rest if colon and key == str(path[-1]) else message)
