"""The container image, really built and really run: read-only, without a right, and stopped by its signal."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.real.image.containers import Container, built, configuration, running

TOP = Path(__file__).resolve().parent.parent
PEERS = TOP / "tests/real/image/peers.py"
LISTS = {"BEARER_PROXY_ALLOWED_CLIENTS": "127.0.0.0/8", "BEARER_PROXY_ALLOWED_HOSTS": "localhost,127.0.0.1"}
FETCH = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())"
CONTENTS = """
import importlib.util, json, pathlib, sys, sysconfig
print(json.dumps({
    "unwanted": [name for name in ("setuptools", "pip", "pytest", "tests", "config") if importlib.util.find_spec(name)],
    "compiled": [importlib.util.find_spec(name).cached for name in ("proxy", "asyncio", "aiohttp")],
    "uvloop": importlib.util.find_spec("uvloop") is not None,
    "pip.conf": [path for path in ("/etc/pip.conf",) if pathlib.Path(path).is_file() and pathlib.Path(path).stat().st_size],
}))
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with built(TOP, tmp_path_factory.mktemp("build")) as name:
        yield name


@pytest.fixture(scope="module")
def peers(image: str) -> Iterator[Container]:
    """An authorization server and a protected API, in a container whose network the gateway joins."""
    with running(image, "/peers.py", options=[f"--volume={PEERS}:/peers.py:ro", "--entrypoint=python"]) as container:
        until(container, lambda: container.output().endswith("}\n"))
        yield container


def until(container: Container, condition: Callable[[], bool]) -> None:
    """Waits for what a container does by itself; fails with its log if it ended, or after half a minute."""
    deadline = time.monotonic() + 30  # noqa: TID251
    while not condition():
        assert container.running(), container.logs()
        assert time.monotonic() < deadline, container.logs()  # noqa: TID251
        time.sleep(0.1)


def test_what_the_image_says_of_itself(image):
    """A numeric user that is not root, both ports, a health check, the signal that drains, and no secret."""
    config = configuration(image)

    assert config["User"] == "10001:10001"
    assert set(config["ExposedPorts"]) == {"8080/tcp", "9464/tcp"}
    assert (config["Entrypoint"], config["Cmd"]) == (["bearer-proxy"], ["run"])
    assert config["Healthcheck"]["Test"] == ["CMD", "bearer-proxy", "health"]
    assert config["StopSignal"] in {"SIGTERM", "15"}
    assert not [line for line in config["Env"] if "SECRET" in line or "PIP_" in line]
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_what_is_inside(peers):
    """The package compiled, uvloop, and nothing that only built it or that belongs to the machine that did."""
    contents = json.loads(peers.execute("python", "-c", CONTENTS).stdout)

    assert contents["unwanted"] == []
    assert contents["pip.conf"] == []
    assert contents["uvloop"] is True
    found = peers.execute("ls", *contents["compiled"])
    assert found.returncode == 0, found.stderr


def test_without_the_access_lists(image):
    """An image listens on every address, so it refuses to start until it was told for whom; both lists are named."""
    settings = {"TOKEN_URL": "https://as.example/token", "CLIENT_ID": "a", "UPSTREAM_URL": "https://api.example"}
    with running(image, environment={**settings, "CLIENT_SECRET": "kanarienvogel"}) as container:
        assert container.exit_code() == 2
        logs = container.logs()

    assert "BEARER_PROXY_ALLOWED_CLIENTS" in logs
    assert "BEARER_PROXY_ALLOWED_HOSTS" in logs
    assert "kanarienvogel" not in logs


def test_a_request_through_it(image, peers):
    """It becomes healthy and ready, adds the one token, and ends by SIGTERM with exit code 0 and nothing written."""
    settings = json.loads(peers.output())
    network = f"container:{peers.name}"
    with running(image, environment={**settings, **LISTS}, network=network) as gateway:
        until(gateway, gateway.healthy)
        until(gateway, lambda: gateway.execute("bearer-proxy", "health", "--ready").returncode == 0)
        fetched = peers.execute("python", "-c", FETCH, "http://127.0.0.1:8080/whoami?a=%2F")
        assert fetched.returncode == 0, fetched.stderr + gateway.logs()
        answer = json.loads(fetched.stdout)
        assert gateway.stopped() == 0
        logs = gateway.logs()

    assert (answer["path"], answer["authorization_fields"]) == ("/whoami?a=%2F", 1)
    assert answer["client_id"] == settings["CLIENT_ID"]
    assert settings["CLIENT_SECRET"] not in logs
    assert "Traceback" not in logs


@pytest.mark.parametrize(("arguments", "text"), [(["--version"], "bearer-proxy "), (["schema"], '"$defs"')])
def test_a_command_of_it(image, arguments, text):
    """The image is the command."""
    with running(image, *arguments) as container:
        assert container.exit_code() == 0, container.logs()
        assert text in container.output()


def test_the_demonstration_in_it(image):
    """`docker run --rm bearer-proxy demo --once` needs nothing else and ends well."""
    with running(image, "demo", "--once") as container:
        assert container.exit_code() == 0, container.logs()
