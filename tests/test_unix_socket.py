"""A listening unix socket: its owner's alone, and never taken from somebody who listens."""

from __future__ import annotations

import os
import socket
import stat

import pytest

from proxy.unix_socket import private_unix_socket


def test_a_new_socket(tmp_path):
    """Its mode is 0600, and the process's umask is as before."""
    mask = os.umask(0o022)
    try:
        with private_unix_socket(tmp_path / "s"):
            assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(mask)


def test_the_file_of_a_dead_process(tmp_path):
    """It is replaced."""
    private_unix_socket(tmp_path / "s").close()
    private_unix_socket(tmp_path / "s").close()


def test_somebody_listens(tmp_path):
    """Binding fails, and the other goes on."""
    with private_unix_socket(tmp_path / "s") as other:
        other.listen()
        with pytest.raises(OSError, match="in use"):
            private_unix_socket(tmp_path / "s")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))


def test_somebody_listens_and_is_busy(tmp_path):
    """A full backlog is no sign of death."""
    with private_unix_socket(tmp_path / "s") as other:
        other.listen(0)
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            for client in (first, second):
                client.setblocking(False)
                client.connect_ex(str(tmp_path / "s"))
            with pytest.raises(OSError, match="in use"):
                private_unix_socket(tmp_path / "s")


def test_something_that_is_no_socket(tmp_path):
    """It is not removed."""
    (tmp_path / "s").write_text("precious")
    with pytest.raises(OSError, match="in use"):
        private_unix_socket(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "precious"


def test_a_link_to_a_dead_socket(tmp_path):
    """It is not followed: neither the link nor what it leads to is touched."""
    private_unix_socket(tmp_path / "dead").close()
    (tmp_path / "s").symlink_to(tmp_path / "dead")
    with pytest.raises(OSError, match="in use"):
        private_unix_socket(tmp_path / "s")
    assert (tmp_path / "s").is_symlink()
    assert (tmp_path / "dead").is_socket()


def test_no_folder(tmp_path):
    """It is told."""
    with pytest.raises(FileNotFoundError):
        private_unix_socket(tmp_path / "none" / "s")
