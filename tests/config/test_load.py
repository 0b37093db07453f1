"""Where the configuration is found, and what the command line may change of it."""

from pathlib import Path

import pytest

from proxy.config.faults import ConfigurationFaults
from proxy.config.load import DEFAULT_PATHS, load
from proxy.errors import ConfigurationError
from proxy.gateway.settings import LogLevel, TcpAddress, UnixAddress
from tests.config.test_environment import NEEDED
from tests.config.written import CREDENTIAL, MINIMAL

SECRET = {"SECRET": "the-secret"}


def written(path: str, client_id: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(MINIMAL.replace("legacy-app", client_id))


def found(path: str | None = None, search=DEFAULT_PATHS[:1], **environ: str) -> tuple[str, str]:
    result = load(None if path is None else Path(path), environ=NEEDED | SECRET | environ, search=search)
    return result.settings.credentials[0].registration.client_id, result.source


def test_where_it_is_looked_for():
    """-c, then the variable, then the known places in their order, then the environment alone."""
    assert found() == ("legacy-app", "environment variables (no configuration file)")
    written("etc/proxy.yaml", "from-etc")
    places = (DEFAULT_PATHS[0], Path("etc/proxy.yaml"))
    assert found(search=places) == ("from-etc", "etc/proxy.yaml")
    written("config/proxy.yaml", "from-config")
    assert found(search=places) == ("from-config", "config/proxy.yaml")
    written("named.yaml", "from-variable")
    assert found(BEARER_PROXY_CONFIG="named.yaml") == ("from-variable", "named.yaml (from BEARER_PROXY_CONFIG)")
    written("given.yaml", "from-option")
    assert found("given.yaml", BEARER_PROXY_CONFIG="named.yaml") == ("from-option", "given.yaml")
    assert found(search=(), BEARER_PROXY_CONFIG="") == ("legacy-app", "environment variables (no configuration file)")


def test_the_known_places():
    """Of the working directory first."""
    assert [str(path) for path in DEFAULT_PATHS] == ["config/proxy.yaml", "/etc/bearer-proxy/proxy.yaml"]


def test_the_variable_may_stand_in_the_env_file():
    """As any other; unless that file is switched off."""
    written("named.yaml", "from-variable")
    Path(".env").write_text("BEARER_PROXY_CONFIG=named.yaml\n")
    assert found()[0] == "from-variable"
    result = load(environ=NEEDED, use_env_file=False, search=())
    assert result.settings.credentials[0].registration.client_id == "legacy-app"


@pytest.mark.parametrize("path", ["nowhere.yaml", "a-folder", "a-loop.yaml"])
def test_a_file_that_cannot_be_read(path):
    """Is a fault: nothing else is looked for in its place."""
    Path("a-folder").mkdir()
    Path("a-loop.yaml").symlink_to("a-loop.yaml")
    with pytest.raises(ConfigurationFaults, match=f"{path}: cannot be read: "):
        found(path)
    with pytest.raises(ConfigurationFaults, match=f"{path}: cannot be read: "):
        found(BEARER_PROXY_CONFIG=path)


def test_a_dangling_link_at_a_known_place():
    """Is a broken installation, not an absent file."""
    Path("config").mkdir()
    Path("config/proxy.yaml").symlink_to("gone.yaml")
    with pytest.raises(ConfigurationFaults, match=r"config/proxy\.yaml: cannot be read: No such file"):
        found()


def test_the_command_line_wins():
    """Over what is written, with a file and without."""
    written("proxy.yaml", "x")
    for path, environ in ((Path("proxy.yaml"), SECRET), (None, NEEDED)):
        result = load(
            path, environ=environ, listen="127.0.0.1:1,[::1]:2", admin="unix:/run/admin", workers="1", search=()
        )
        assert result.settings.listen == (TcpAddress("127.0.0.1", 1), TcpAddress("::1", 2))
        assert result.settings.admin == UnixAddress(Path("/run/admin"))


def test_a_faulty_command_line():
    """Is told with the option's name; a reference means nothing there."""
    written("proxy.yaml", "x")
    with pytest.raises(ConfigurationFaults) as caught:
        load(Path("proxy.yaml"), environ=SECRET, listen="${SECRET}:1", admin="", workers="4")
    assert [str(fault) for fault in caught.value.faults] == [
        "command line: --admin: is empty; leave the key out or give it a value",
        "command line: --listen: expected host:port or unix:/path; the host is not one",
        "command line: --workers: not supported yet; one process serves",
    ]


def test_a_listener_of_the_command_line_that_others_can_reach():
    """Needs the lists as one in the file does; they may stand in either place."""
    lists = "access: {allowed_hosts: [gateway], allowed_clients: [10.0.0.0/8]}\n"
    Path("open.yaml").write_text(MINIMAL + lists)
    written("closed.yaml", "x")
    assert load(Path("open.yaml"), environ=SECRET, listen="0.0.0.0:1").settings.listen == (TcpAddress("0.0.0.0", 1),)
    with pytest.raises(
        ConfigurationFaults, match=r"command line: --listen: other machines .* access.allowed_hosts and "
    ):
        load(Path("closed.yaml"), environ=SECRET, listen="0.0.0.0:1")
    with pytest.raises(ConfigurationFaults, match="BEARER_PROXY_ALLOWED_HOSTS and BEARER_PROXY_ALLOWED_CLIENTS"):
        load(environ=NEEDED, listen="0.0.0.0:1", search=())


def test_the_log_level_of_the_command_line():
    """Takes the place of the file's."""
    written("proxy.yaml", "x")
    result = load(Path("proxy.yaml"), environ=SECRET)
    assert result.with_log_level("debug").settings.log.level is LogLevel.DEBUG
    assert result.settings.log.level is LogLevel.INFO
    with pytest.raises(ConfigurationError, match="expected one of: debug, info, warning, error"):
        result.with_log_level("loud")


def test_files_need_not_be_there_to_look_at_a_configuration():
    """A configuration for another machine can be read without its secrets."""
    text = CREDENTIAL.replace("client_secret: ${SECRET}", "client_secret_file: /nowhere/secret")
    Path("proxy.yaml").write_text(text + MINIMAL.removeprefix(CREDENTIAL))
    with pytest.raises(ConfigurationFaults, match="No such file"):
        load(Path("proxy.yaml"), environ={})
    assert load(Path("proxy.yaml"), environ={}, check_files=False).settings.credentials


def test_no_error_keeps_the_input(tmp_path):
    """Neither as its cause nor as its context, where a debugger or a crash report would find it."""
    Path("proxy.yaml").write_text(MINIMAL.replace("${SECRET}", "[c4n4ry]").replace("https://api.example", "c4n4ry"))
    with pytest.raises(ConfigurationFaults) as caught:
        load(Path("proxy.yaml"), environ={})
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert "c4n4ry" not in str(caught.value) + repr(caught.value)
