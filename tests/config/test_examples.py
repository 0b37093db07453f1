"""What an operator copies works: the shipped file, the examples, `.env.example`."""

import re
from pathlib import Path

import pytest
import yaml

from proxy.config.load import load
from proxy.config.references import variables
from proxy.config.schema import json_schema
from proxy.gateway.settings import TcpAddress
from proxy.oauth.registration import ClientAuthMethod
from proxy.secret import SecretFile
from proxy.tokens.source import CredentialSettings
from tests.config.json_schema import complaints

TOP = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((TOP / "config" / "examples").glob("*.yaml"))
FILES = [TOP / "config" / "proxy.yaml", *EXAMPLES]
RECIPES = sorted((TOP / "config" / "examples" / "recipes").glob("*.yaml"))  # which tests/recipes runs
NEEDED = re.compile(r"\$\{([A-Z0-9_]+)\}")


def environment(path: Path) -> dict[str, str]:
    values = {"TOKEN_URL": "https://as.example/token", "UPSTREAM_URL": "https://api.example", "CLIENT_SECRET": "x"}
    names = NEEDED.findall(path.read_text(encoding="utf-8"))
    urls = {name: "https://as.example" for name in names if name.endswith(("_URL", "_ENDPOINT"))}
    return dict.fromkeys(names, "x") | urls | values


def test_the_examples_are_there():
    """One for each way of use."""
    assert [path.stem for path in EXAMPLES] == [
        "client-authentication", "container", "minimal", "private-api", "several-routes", "tls",
    ]  # fmt: skip


@pytest.mark.parametrize("path", [*FILES, *RECIPES], ids=lambda path: path.stem)
def test_it_loads(path):
    """Without a fault and without a warning."""
    loaded = load(path, environ=environment(path), check_files=False)
    assert loaded.settings.routes
    assert [str(warning) for warning in loaded.warnings()] == []


@pytest.mark.parametrize("path", [*FILES, *RECIPES], ids=lambda path: path.stem)
def test_an_editor_knows_it(path):
    """The first line leads to the schema, and the schema is content."""
    text = path.read_text(encoding="utf-8")
    match = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert match is not None
    assert (path.parent / match[1]).resolve() == TOP / "config" / "proxy.schema.json"
    schema = json_schema()
    assert complaints(yaml.safe_load(text), schema, schema) == []


def test_a_merge_in_an_example():
    """What two credentials share is written once; what differs makes them two."""
    path = TOP / "config" / "examples" / "several-routes.yaml"
    read, write, invoices = load(path, environ=environment(path), check_files=False).settings.credentials
    assert (read.registration.client_id, write.registration.client_id) == ("legacy-app", "legacy-app")
    assert (read.registration.scope, write.registration.scope) == ("orders.read", "orders.read orders.write")
    assert isinstance(read.registration.client_secret, SecretFile)
    assert not invoices.required


def test_every_way_to_authenticate_has_its_example():
    """Each method, the assertion of somebody else, and the token in a file."""
    path = TOP / "config" / "examples" / "client-authentication.yaml"
    credentials = load(path, environ=environment(path), check_files=False).settings.credentials
    asking = [credential.registration for credential in credentials if isinstance(credential, CredentialSettings)]
    assert {registration.method for registration in asking} == set(ClientAuthMethod)
    assert [registration.client_id for registration in asking if registration.client_assertion] == ["legacy-app"]
    assert len(credentials) == len(asking) + 1


def test_the_container_example_is_reachable_by_others():
    """And says who they are."""
    path = TOP / "config" / "examples" / "container.yaml"
    settings = load(path, environ={}, check_files=False).settings
    assert settings.listen == (TcpAddress("0.0.0.0", 8080),)
    assert settings.access.required_header is not None
    assert set(settings.route_access) == {"admin"}


def test_env_example():
    """Every line is one, commented lines too; the variables are those that the shipped file and the gateway read."""
    text = (TOP / ".env.example").read_text(encoding="utf-8")
    Path(".env").write_text(re.sub(r"^#(?=[A-Z_]+=)", "", text, flags=re.MULTILINE).replace("SECRET=\n", "SECRET=x\n"))
    values = variables({}, Path(".env"))

    shipped = (TOP / "config" / "proxy.yaml").read_text(encoding="utf-8")
    read = set(re.findall(r"\$\{([A-Z_]+)(?=[:}])", shipped)) - {"NAME"} | {"BEARER_PROXY_CONFIG"}
    assert set(values) == read
    assert not [value for value in values.values() if "#" in value or value != value.strip()]
    del values["CLIENT_SECRET_FILE"], values["BEARER_PROXY_CONFIG"]
    assert load(environ=values, use_env_file=False, search=()).settings.credentials[0].registration.scope


def test_no_place_of_ours():
    """No example names a host that exists."""
    for path in FILES:
        hosts = re.findall(r"https?://(?:[^/\s@]*@)?([^/\s:,]+)", path.read_text(encoding="utf-8"))
        assert all(re.search(r"\.(example|internal)$|^10\.|^127\.", host) for host in hosts), path
