"""Every recipe gets a token from its vendor's stand-in and forwards a request; a recipe that breaks the rule is refused."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.clock import SystemClock
from tests.recipes import vendors
from tests.recipes.kit import FILES, FOLDER, environment, loaded
from tests.recipes.stand_in import StandIn, Vendor
from tests.recipes.vendors import AnyServer, Cluster
from tests.support import program
from tests.support.gateway import running
from tests.support.raw_client import ask

CLUSTER = Cluster()


@dataclass(frozen=True)
class Recipe:
    """One credential of a recipe, the vendor behind it, and a text of the file whose change the vendor refuses."""

    name: str
    credential: str
    vendor: Vendor
    path: str
    reaches: str  # what the API is asked for
    lifetime_s: float
    rule: str
    broken: str
    error: str
    secret: str = vendors.SECRET


# fmt: off
RECIPES = [
    Recipe("entra-id", "entra", vendors.entra_id, "/orders", "/api/orders", 3599,
           "${API_ID_URI}/.default", "${API_ID_URI}", "invalid_scope"),
    Recipe("entra-id-certificate", "entra", vendors.entra_id_certificate, "/orders", "/api/orders", 3599,
           "${PRIVATE_KEY_FILE:-/run/secrets/key-and-certificate.pem}", "${KEY_ALONE}", "invalid_client"),
    Recipe("auth0", "auth0", vendors.auth0, "/orders", "/api/orders", 86400,
           "    audience: ${API_IDENTIFIER}", "    #", "access_denied"),
    Recipe("okta", "api", vendors.okta, "/orders", "/api/orders", 3600,
           "    scopes: [orders.read]", "    #", "invalid_scope", vendors.PLAIN_SECRET),
    Recipe("okta", "okta", vendors.okta, "/okta/users", "/api/v1/users", 3600,
           "    key_id:", "    assertion_audience: ${OKTA_URL}\n    key_id:", "invalid_client", vendors.PLAIN_SECRET),
    Recipe("keycloak", "keycloak", vendors.keycloak, "/orders", "/api/orders", 300,
           "    # basic_form_encoding: false", "    basic_form_encoding: false", "unauthorized_client"),
    Recipe("aws-cognito", "cognito", vendors.aws_cognito, "/orders", "/api/orders", 3600,
           "${RESOURCE_SERVER}/orders.read", "orders.read", "invalid_scope", vendors.PLAIN_SECRET),
    Recipe("salesforce", "salesforce", vendors.salesforce, "/services/data/v66.0", "/services/data/v66.0", 900,
           "${SALESFORCE_URL}/services/oauth2", "${SALESFORCE_LOGIN}/services/oauth2", "invalid_grant"),
    Recipe("kubernetes", "workload", CLUSTER.any_server, "/orders", "/api/orders", 3600,
           "${TOKEN_FILE:-", "${AZURE_FEDERATED_TOKEN_FILE:-", "invalid_client"),
    Recipe("kubernetes-entra-id", "entra", CLUSTER.entra_id, "/orders", "/api/orders", 3599,
           "${AZURE_FEDERATED_TOKEN_FILE:-", "${TOKEN_FILE:-", "invalid_client"),
    Recipe("vault-agent", "by-secret", AnyServer().answer, "/orders", "/api/orders", 3600,
           "/client-secret", "/access-token", "invalid_client"),
]
# fmt: on


def request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: f"{recipe.name}-{recipe.credential}")
async def test_a_request_with_the_recipe(recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The file as it stands: no warning, a token of the life the vendor gives it, and the API lets the request in."""
    async with StandIn(recipe.vendor) as vendor:
        environ = environment(vendor.url, tmp_path, CLUSTER, secret=recipe.secret)
        configuration = loaded(FOLDER / f"{recipe.name}.yaml", environ)
        assert [] == [str(warning) for warning in configuration.warnings()]
        async with running(configuration) as gateway:
            answer = await ask(gateway.port, request(recipe.path))
            expiry = await gateway.sample("bearer_proxy_token_expiry_timestamp_seconds", credential=recipe.credential)
    assert (200, b"fine") == (answer.status, answer.body)
    assert [recipe.reaches] == [line.split()[1] for line in vendor.served]
    assert recipe.lifetime_s == pytest.approx(expiry - SystemClock().wall(), abs=60)
    assert [] == vendor.refusals
    assert [] == [record.getMessage() for record in caplog.records if record.levelname not in {"DEBUG", "INFO"}]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: f"{recipe.name}-{recipe.credential}")
async def test_a_recipe_without_the_vendors_rule(recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The stand-in refuses it, nothing is forwarded, and the log has a warning."""
    text = (FOLDER / f"{recipe.name}.yaml").read_text(encoding="utf-8")
    assert 1 == text.count(recipe.rule)
    file = tmp_path / "broken.yaml"
    file.write_text(text.replace(recipe.rule, recipe.broken), encoding="utf-8")
    async with StandIn(recipe.vendor) as vendor:
        environ = environment(vendor.url, tmp_path, CLUSTER, secret=recipe.secret)
        async with running(loaded(file, environ)) as gateway:
            answer = await ask(gateway.port, request(recipe.path))
    assert "urn:bearer-proxy:problem:token-unavailable" == json.loads(answer.body)["type"]
    assert {recipe.error} == set(vendor.refusals)
    assert [] == vendor.served
    assert "WARNING" in {record.levelname for record in caplog.records}


@pytest.mark.parametrize("slash", ["/", ""], ids=["with the slash", "without"])
async def test_auth0_with_a_key(tmp_path: Path, slash: str):
    """What the recipe's comment says, done: the audience ends with a slash, or there is no token."""
    text = (FOLDER / "auth0.yaml").read_text(encoding="utf-8")
    assert "assertion_audience: ${AUTH0_URL}/ " in text
    by_key = f"private_key_file: ${{PRIVATE_KEY_FILE}}\n    assertion_audience: ${{AUTH0_URL}}{slash}\n"
    text = text.replace("client_secret_post", "private_key_jwt")
    text = re.sub(r"client_secret_file: .*\n", by_key, text)
    file = tmp_path / "auth0.yaml"
    file.write_text(text, encoding="utf-8")
    async with StandIn(vendors.auth0_key) as vendor:
        configuration = loaded(file, environment(vendor.url, tmp_path, CLUSTER))
        async with running(configuration) as gateway:
            answer = await ask(gateway.port, request("/orders"))
    assert ((200, []) if slash else (503, ["invalid_client"])) == (answer.status, vendor.refusals[:1])


def test_each_recipe_is_run():
    """None stands there untried."""
    assert {path.stem for path in FILES} == {recipe.name for recipe in RECIPES}


def test_the_readme_leads_to_each_recipe():
    """And to no other file there."""
    readme = (program.PROJECT / "README.md").read_text(encoding="utf-8")
    assert {path.stem for path in FILES} == set(re.findall(r"\(config/examples/recipes/([a-z0-9-]+)\.yaml\)", readme))


@pytest.mark.parametrize("name", ["entra-id", "vault-agent"])
async def test_check_live(name: str, tmp_path: Path):
    """The program itself has nothing to say against a recipe, and gets a token of each of its credentials."""
    (recipe,) = (recipe for recipe in RECIPES if recipe.name == name)
    async with StandIn(recipe.vendor) as vendor:
        vendor.good.add("at-of-the-agent")
        environ = environment(vendor.url, tmp_path, CLUSTER)
        file = str(FOLDER / f"{name}.yaml")
        ended = await program.run("check", "-c", file, "--live", cwd=tmp_path, env=environ)
    assert 0 == ended.code, ended.err
    assert "warning" not in (ended.out + ended.err).lower()
    assert f"credential {recipe.credential}: token granted" in ended.out
