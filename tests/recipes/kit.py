"""Recipes as they are run: their files, and the variables and secret files that an operator would give them."""

from __future__ import annotations

from pathlib import Path

from proxy.config.load import Loaded, load
from tests.recipes import vendors
from tests.recipes.vendors import Cluster
from tests.support.program import PROJECT

FOLDER = PROJECT / "config" / "examples" / "recipes"
FILES = sorted(FOLDER.glob("*.yaml"))


def loaded(file: Path, environ: dict[str, str]) -> Loaded:
    """Returns a recipe's configuration as `run` loads it, but for the ports."""
    return load(file, environ=environ, use_env_file=False, listen="127.0.0.1:0", admin="127.0.0.1:0")


def secret_file(path: Path, content: str | bytes) -> Path:
    """Writes a file that nobody else can read."""
    path.touch(mode=0o600)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def environment(url: str, folder: Path, cluster: Cluster, *, secret: str = vendors.SECRET) -> dict[str, str]:
    """Returns the variables of all recipes, towards a stand-in at this URL."""
    key = vendors.pem(vendors.client_key())
    both = secret_file(folder / "key-and-certificate.pem", key + vendors.client_certificate())
    assertion = secret_file(folder / "as-token", cluster.token() + "\n")
    secret_file(folder / "access-token", "at-of-the-agent\n")
    return {
        "UPSTREAM_URL": f"{url}/api",
        "CLIENT_ID": vendors.CLIENT_ID,
        "CLIENT_SECRET_FILE": str(secret_file(folder / "client-secret", secret + "\n")),
        "ENTRA_URL": url,
        "TENANT_ID": vendors.TENANT,
        "API_ID_URI": "api://orders",
        "AUTH0_URL": url,
        "API_IDENTIFIER": vendors.API,
        "OKTA_URL": url,
        "KEY_ID": vendors.KEY_ID,
        "KEYCLOAK_URL": url,
        "REALM": "orders",
        "COGNITO_URL": url,
        "RESOURCE_SERVER": vendors.API,
        "SALESFORCE_URL": url,
        "SALESFORCE_LOGIN": url.replace("127.0.0.1", "localhost"),
        "TOKEN_ENDPOINT": f"{url}/token",
        "TOKEN_FILE": str(assertion),
        "AZURE_AUTHORITY_HOST": f"{url}/",
        "AZURE_TENANT_ID": vendors.TENANT,
        "AZURE_CLIENT_ID": vendors.CLIENT_ID,
        "AZURE_FEDERATED_TOKEN_FILE": str(
            secret_file(folder / "azure-identity-token", cluster.token("api://AzureADTokenExchange"))
        ),
        "PRIVATE_KEY_FILE": str(both),
        "KEY_ALONE": str(secret_file(folder / "key.pem", key)),
        "VAULT_SECRETS": str(folder),
    }
