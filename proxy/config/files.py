"""The files that a configuration names: whether they can be used now, so that no first request finds out.

Only regular files are looked into: reading a pipe would take away what is in it.
"""

from __future__ import annotations

import stat
from pathlib import Path

from proxy.config.faults import Findings, KeyPath
from proxy.config.headers import value_fault
from proxy.config.tree import Node, ScalarNode, find, paths
from proxy.tls import ServerTlsSettings, TlsFileError
from proxy.units import MIB

_PROOFS: tuple[KeyPath, ...] = (
    ("credentials", "*", "client_secret_file", "*"),
    *(
        ("credentials", "*", key)
        for key in ("client_secret_file", "private_key_file", "client_assertion_file", "access_token_file")
    ),
)
_HEADER_VALUES: tuple[KeyPath, ...] = (
    ("credentials", "*", "token_request_headers", "*", "value_file"),
    ("access", "require_header", "value_file"),
    ("routes", "*", "access", "require_header", "value_file"),
    ("routes", "*", "set_request_headers", "*", "value_file"),
    ("routes", "*", "set_response_headers", "*", "value_file"),
)
SECRET_FILES = (
    *_PROOFS,
    *_HEADER_VALUES,
    ("tls", "key_file"),
    ("credentials", "*", "tls", "key_file"),
    ("routes", "*", "tls", "key_file"),
)
_CERTIFICATES: tuple[KeyPath, ...] = tuple(
    (section, "*", "tls", key) for section in ("credentials", "routes") for key in ("ca_file", "cert_file", "key_file")
)
_LISTEN_CERTIFICATES: tuple[KeyPath, ...] = tuple(("tls", key) for key in ("cert_file", "key_file", "client_ca_file"))
_MAX_BYTES = 1 * MIB


def check(root: Node, findings: Findings) -> None:
    """Records a fault for each file that cannot be read, or that does not hold what it should."""
    for pattern in (*_PROOFS, *_HEADER_VALUES, *_CERTIFICATES, *_LISTEN_CERTIFICATES):
        for path in paths(root, pattern):
            node = find(root, path).node
            if not isinstance(node, ScalarNode) or findings.covers(path):
                continue
            fault = _fault(node.text, header_value=pattern in _HEADER_VALUES)
            if fault is not None:
                findings.add(node.place, path, fault)


def check_tls(settings: ServerTlsSettings, root: Node, findings: Findings) -> None:
    """Records a fault if the gateway could not serve with these files: no PEM, a locked key, a key of another pair."""
    try:
        settings.build()
    except TlsFileError as error:
        path: KeyPath = ("tls", error.key)
        findings.add(find(root, path).value_place, path, f"the file {error.reason}")


def _fault(name: str, *, header_value: bool) -> str | None:
    """Returns what is wrong with a file. Its name stays out: it may come from a variable."""
    path = Path(name)
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            return "the file is a directory"
        if not path.is_file():
            return None
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        return f"the file cannot be read: {getattr(error, 'strerror', None) or 'its name is not a path'}"
    if len(data) > _MAX_BYTES:
        return "the file is larger than 1 MiB"
    try:
        text = data.decode("utf-8").strip()
    except UnicodeDecodeError:
        return "the file is not UTF-8 text"
    if not text:
        return "the file is empty"
    wrong = value_fault(text) if header_value else None
    return None if wrong is None else f"the file's text {wrong}"
