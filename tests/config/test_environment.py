"""The configuration without a file, and the shipped file that does the same."""

from ipaddress import ip_network
from itertools import product
from pathlib import Path

import pytest

from proxy.config.faults import ConfigurationFaults
from proxy.config.load import load
from proxy.gateway.settings import TcpAddress
from proxy.oauth.registration import ClientAuthMethod
from proxy.routing import Match
from proxy.secret import FixedSecret, Secret, SecretFile
from proxy.upstream.origin import Origin

SHIPPED = Path(__file__).resolve().parents[2] / "config" / "proxy.yaml"
NEEDED = {
    "TOKEN_URL": "https://as.example/token",
    "CLIENT_ID": "legacy-app",
    "CLIENT_SECRET": "the-secret",
    "UPSTREAM_URL": "https://api.example/v1",
}
OPTIONAL = {
    "SCOPE": "a b",
    "AUDIENCE": "aud",
    "BEARER_PROXY_LISTEN": "0.0.0.0:80",
    "BEARER_PROXY_ADMIN": "off",
    "BEARER_PROXY_ALLOWED_HOSTS": "gateway, other",
    "BEARER_PROXY_ALLOWED_CLIENTS": "10.0.0.0/8,::1",
}


def faults(environ, path=None) -> tuple[list[str], str]:
    with pytest.raises(ConfigurationFaults) as caught:
        load(path, environ=environ)
    return [str(fault) for fault in caught.value.faults], caught.value.hint


def test_the_four_variables():
    """One credential, and one route for every path."""
    loaded = load(environ=NEEDED)
    (credential,), (route,) = loaded.settings.credentials, loaded.settings.routes
    registration = credential.registration

    assert loaded.source == "environment variables (no configuration file)"
    assert registration.token_endpoint == "https://as.example/token"
    assert registration.client_id == "legacy-app"
    assert registration.client_secret == FixedSecret(Secret("the-secret"))
    assert registration.method is ClientAuthMethod.CLIENT_SECRET_BASIC
    assert (registration.scope, registration.audience) == (None, None)
    assert (route.upstream, route.base_path) == (Origin("https", "api.example", 443), b"/v1")
    assert route.match == Match(path_prefix=b"/")
    assert route.credential == credential.name == "default"
    assert loaded.settings.listen == (TcpAddress("127.0.0.1", 8080),)
    assert loaded.warnings() == []


def test_the_optional_variables():
    """Lists are written with commas."""
    settings = load(environ=NEEDED | OPTIONAL).settings
    registration = settings.credentials[0].registration

    assert (registration.scope, registration.audience) == ("a b", "aud")
    assert settings.listen == (TcpAddress("0.0.0.0", 80),)
    assert settings.admin is None
    assert settings.access.allowed_hosts == (b"gateway", b"other")
    assert settings.access.allowed_clients == (ip_network("10.0.0.0/8"), ip_network("::1/128"))


def test_a_secret_file(tmp_path):
    """Takes CLIENT_SECRET's place."""
    (tmp_path / "secret").write_text("from a file\n")
    environ = NEEDED | {"CLIENT_SECRET": "", "CLIENT_SECRET_FILE": "secret"}
    (credential,) = load(environ=environ).settings.credentials
    assert credential.registration.client_secret == SecretFile(Path("secret"))
    assert credential.registration.client_secret.read().reveal() == "from a file"


@pytest.mark.parametrize("path", [None, SHIPPED], ids=["no file", "shipped file"])
def test_nothing_is_set(path):
    """Everything that is missing is told at once, by the variables' names, with what to do."""
    told, hint = faults({}, path)
    text = "\n".join(told)

    assert len(told) == 4
    for name in (*NEEDED, "CLIENT_SECRET_FILE"):
        assert name in text
        assert name in hint
    assert "./.env" in hint
    assert "-c FILE" in hint


def test_what_is_told_without_a_file():
    """No file, no line: the variable is the place."""
    told, _ = faults({"CLIENT_ID": "x", "TOKEN_URL": "c4n4ry", "UPSTREAM_URL": "", "BEARER_PROXY_LISTEN": "0.0.0.0:1"})
    assert told[1:] == [
        "environment: CLIENT_SECRET or CLIENT_SECRET_FILE: CLIENT_SECRET and CLIENT_SECRET_FILE are not set, or empty",
        "environment: TOKEN_URL: expected a URL: http:// or https://, a host, and perhaps a path",
        "environment: UPSTREAM_URL: is not set, or is empty",
    ]
    assert told[0].startswith("environment: BEARER_PROXY_LISTEN: other machines can connect there")
    assert "BEARER_PROXY_ALLOWED_HOSTS" in told[0]
    assert "BEARER_PROXY_ALLOWED_CLIENTS" in told[0]


def test_both_secrets():
    """One of the two is meant, and nobody knows which."""
    told, _ = faults(NEEDED | {"CLIENT_SECRET_FILE": "/dev/null"})
    assert told == ["environment: CLIENT_SECRET_FILE: excludes client_secret: give one of the two"]


def test_the_shipped_file_does_the_same():
    """From every choice of variables: the same settings, or faults on both sides."""
    names = ("CLIENT_SECRET", *OPTIONAL)
    built = 0
    for chosen in product((True, False), repeat=len(names)):
        environ = NEEDED | {"CLIENT_SECRET": "", "CLIENT_SECRET_FILE": "a-file"}
        for name, given in zip(names, chosen, strict=True):
            if name == "CLIENT_SECRET" and given:
                environ = NEEDED | {"CLIENT_SECRET_FILE": ""}
            elif name != "CLIENT_SECRET":
                environ[name] = OPTIONAL[name] if given else ""
        results = []
        for path in (None, SHIPPED):
            try:
                results.append(load(path, environ=environ, check_files=False).settings)
            except ConfigurationFaults as error:
                results.append(len(error.faults))
        assert results[0] == results[1], environ
        built += not isinstance(results[0], int)
    assert built > 64


@pytest.mark.parametrize("name", sorted({*NEEDED, *OPTIONAL} - {"CLIENT_ID", "CLIENT_SECRET", "AUDIENCE"}))
def test_a_bad_value_is_a_fault_of_both(name):
    """Neither way lets through what the other refuses. (Of the three left out, any text is good.)"""
    environ = NEEDED | {name: "\N{SNOWMAN} c4n4ry"}
    for path in (None, SHIPPED):
        told, _ = faults(environ, path)
        assert len(told) == 1
        assert name in told[0]
        assert "c4n4ry" not in told[0]
