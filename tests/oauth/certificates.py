"""Certificates made for one test run: by the `openssl` command, or here for a key that there is."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding


@dataclass(frozen=True)
class SelfSigned:
    """A certificate that is its own authority, with its key."""

    cert_file: Path
    key_file: Path

    def server_context(self, *, client_ca: Path | None = None) -> ssl.SSLContext:
        """Returns a server's context; with `client_ca`, clients must show a certificate of it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert_file, self.key_file)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def self_signed(folder: Path, name: str, *, host: str = "IP:127.0.0.1") -> SelfSigned:
    """Makes a certificate for a host, as openssl writes subject alternative names. Skips where openssl is missing."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    made = SelfSigned(folder / f"{name}.pem", folder / f"{name}.key")
    extensions = [f"subjectAltName={host}", "keyUsage=critical,digitalSignature,keyCertSign"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", f"/CN={name}", "-keyout", str(made.key_file), "-out", str(made.cert_file)]
    for extension in extensions:
        command += ["-addext", extension]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return made


def certificate_of(key: Any) -> bytes:
    """Returns a certificate that an RSA or EC key signs for itself, as PEM."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "legacy-app")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(x509.random_serial_number())
    made = made.public_key(key.public_key()).not_valid_before(now).not_valid_after(now + timedelta(days=2))
    return made.sign(key, SHA256()).public_bytes(Encoding.PEM)
