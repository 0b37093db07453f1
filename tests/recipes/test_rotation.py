"""Files that somebody else rewrites while the gateway runs: the kubelet's token, and what a Vault agent renders."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from tests.recipes.kit import FOLDER, environment, loaded, secret_file
from tests.recipes.stand_in import StandIn
from tests.recipes.vendors import AnyServer, Cluster
from tests.support.gateway import running
from tests.support.raw_client import ask

ORDERS = b"GET /orders HTTP/1.1\r\nHost: localhost\r\n\r\n"
INVOICES = b"GET /invoices HTTP/1.1\r\nHost: localhost\r\n\r\n"
NUMBERS = count(1)

Write = Callable[[Path, str], None]


def by_rename(file: Path, text: str) -> None:
    """As a Vault agent does: a new file takes the place of the former."""
    secret_file(file.with_suffix(".new"), text).replace(file)


def by_symlink(file: Path, text: str) -> None:
    """As the kubelet does: the file is a link through `..data`, which is moved to another folder in one step."""
    folder = file.parent / f"..2026_11_25_{next(NUMBERS)}"
    folder.mkdir()
    secret_file(folder / file.name, text)
    link = file.parent / "..data_tmp"
    link.symlink_to(folder.name)
    link.replace(file.parent / "..data")
    if not file.is_symlink():
        file.unlink(missing_ok=True)
        file.symlink_to(Path("..data") / file.name)


async def test_a_service_account_token_that_the_kubelet_renews(tmp_path: Path):
    """Each token request brings the file's present text; the pod is not restarted."""
    cluster = Cluster()
    first, second = cluster.token(), cluster.token()
    async with StandIn(cluster.any_server) as server:
        environ = environment(server.url, tmp_path, cluster)
        by_symlink(tmp_path / "as-token", first)
        async with running(loaded(FOLDER / "kubernetes.yaml", environ)) as gateway:
            assert 200 == (await ask(gateway.port, ORDERS)).status
            by_symlink(tmp_path / "as-token", second)
            server.good.clear()  # the API refuses the first access token, and so another is asked for
            assert 200 == (await ask(gateway.port, ORDERS)).status
    assert [first, second] == [request.form["client_assertion"] for request in server.requests]
    assert ["at-1 /api/orders", "at-2 /api/orders"] == server.served


@pytest.mark.parametrize("write", [by_rename, by_symlink])
async def test_a_client_secret_that_a_vault_agent_renders_anew(tmp_path: Path, write: Write):
    """The next token request is made with it: the server sees the former one no more."""
    known = AnyServer("former-secret")
    async with StandIn(known.answer) as server:
        environ = environment(server.url, tmp_path, Cluster())
        write(tmp_path / "client-secret", "former-secret\n")
        async with running(loaded(FOLDER / "vault-agent.yaml", environ)) as gateway:
            assert 200 == (await ask(gateway.port, ORDERS)).status
            known.secret = "another-secret"
            write(tmp_path / "client-secret", "another-secret\n")
            server.good.clear()
            assert 200 == (await ask(gateway.port, ORDERS)).status
    assert [] == server.refusals
    assert ["at-1 /api/orders", "at-2 /api/orders"] == server.served


@pytest.mark.parametrize("write", [by_rename, by_symlink])
async def test_an_access_token_that_a_vault_agent_renders_anew(tmp_path: Path, write: Write):
    """The next request has it, although nobody told the gateway; none is refused."""
    async with StandIn(AnyServer().answer) as server:
        environ = environment(server.url, tmp_path, Cluster())
        write(tmp_path / "access-token", "former-token\n")
        server.good.add("former-token")
        async with running(loaded(FOLDER / "vault-agent.yaml", environ)) as gateway:
            assert 200 == (await ask(gateway.port, INVOICES)).status
            server.good = {"another-token"}
            write(tmp_path / "access-token", "another-token\n")
            assert 200 == (await ask(gateway.port, INVOICES)).status
    assert ["former-token /api/invoices", "another-token /api/invoices"] == server.served
