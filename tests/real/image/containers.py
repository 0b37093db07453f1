"""Builds and runs the image with buildah and podman: no daemon, no rights beyond those of the caller, nothing pushed.

Containers run as an operator would harden them: read-only root, no writable folder at all, no capabilities, bounded
memory and processes. They have no network but a loopback interface of their own.
"""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.real.needs import missing, needs

_BASE = "docker.io/library/python:3.13-slim"
_BUILD_S = 600
_COMMAND_S = 60
_PIP_SETTINGS = {"index-url", "extra-index-url", "trusted-host", "proxy", "default-timeout", "timeout"}
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_HARDENED = (
    "--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges",
    "--memory=256m", "--pids-limit=64",
)  # fmt: skip


def _run(*command: str, timeout: float = _COMMAND_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def _podman(*arguments: str) -> subprocess.CompletedProcess[str]:
    # runc and cgroupfs work without systemd and with either version of cgroups
    return _run("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs", *arguments)


@contextlib.contextmanager
def built(context: Path, folder: Path) -> Iterator[str]:
    """Builds the Dockerfile of a folder and yields the image's name; the test ends here if this machine cannot build."""
    for program in ("buildah", "podman", "runc"):
        needs(program)
    if _run("buildah", "inspect", "--type", "image", _BASE).returncode and _run("buildah", "pull", _BASE).returncode:
        missing(f"the base image {_BASE} is neither here nor can it be pulled")
    name = f"localhost/bearer-proxy-test:{uuid.uuid4().hex[:12]}"
    build = _run(
        "buildah", "bud", "--isolation=chroot", "--pull-never", "--network=host", "--format=docker",
        *_lent_to_the_build(folder), "-t", name, str(context), timeout=_BUILD_S,
    )  # fmt: skip
    assert build.returncode == 0, build.stdout[-2000:] + build.stderr[-2000:]
    try:
        yield name
    finally:
        _podman("rmi", "--force", name)


def _lent_to_the_build(folder: Path) -> list[str]:
    """Returns mounts that give the build this machine's way to a package index; none of it stays in the image."""
    listed = _run(sys.executable, "-m", "pip", "config", "list").stdout
    settings = [line.partition("=") for line in listed.splitlines()]
    names = {key.rpartition(".")[2].strip(): value.strip("'") for key, _, value in settings}
    lines = [f"{key} = {value}" for key, value in names.items() if key in _PIP_SETTINGS and "file:" not in value]
    mounts = []
    certificates = names.get("cert", _CERTIFICATES)
    if Path(certificates).is_file():
        mounts += ["-v", f"{certificates}:{_CERTIFICATES}:ro"]
        lines.append(f"cert = {_CERTIFICATES}")
    settings_file = folder / "pip.conf"
    settings_file.write_text("\n".join(["[global]", *lines, ""]), encoding="utf-8")
    return [*mounts, "-v", f"{settings_file}:/etc/pip.conf:ro"]


def configuration(image: str) -> dict[str, Any]:
    """Returns the image's configuration by the names that a Dockerfile's instructions have in it."""
    (inspected,) = json.loads(_podman("image", "inspect", image).stdout)
    return {
        "Healthcheck": inspected.get("Healthcheck"),
        **inspected["Config"],
    }  # podman tells it apart, docker does not


@dataclass(frozen=True, slots=True)
class Container:
    """A running, or ended, container."""

    name: str

    def logs(self) -> str:
        """Returns what it wrote to either stream."""
        done = _podman("logs", self.name)
        return done.stdout + done.stderr

    def output(self) -> str:
        """Returns what it wrote to stdout."""
        return _podman("logs", self.name).stdout

    def running(self) -> bool:
        """Tells whether it has not ended."""
        return _podman("inspect", self.name, "--format", "{{.State.Running}}").stdout.strip() == "true"

    def healthy(self) -> bool:
        """Runs the image's own health check once."""
        return _podman("healthcheck", "run", self.name).returncode == 0

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command inside."""
        return _podman("exec", self.name, *command)

    def stopped(self) -> int:
        """Sends the image's stop signal and returns the exit code; 137 if it had to be killed."""
        _podman("stop", "--time", "30", self.name)
        return self.exit_code()

    def exit_code(self) -> int:
        """Waits for its end and returns its exit code."""
        _podman("wait", self.name)
        return int(_podman("inspect", self.name, "--format", "{{.State.ExitCode}}").stdout)


@contextlib.contextmanager
def running(
    image: str,
    *command: str,
    environment: Mapping[str, str] | None = None,
    network: str = "none",
    options: Sequence[str] = (),
) -> Iterator[Container]:
    """Starts a hardened container and removes it in the end."""
    name = f"bearer-proxy-test-{uuid.uuid4().hex[:12]}"
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # podman's own default would need a right to raise it
    variables = [f"--env={key}={value}" for key, value in (environment or {}).items()]
    started = _podman(
        "run", "--detach", "--name", name, "--network", network, f"--ulimit=nofile={files}:{files}",
        "--ulimit=nproc=4096:4096", "--health-interval=disable", *_HARDENED, *variables, *options, image, *command,
    )  # fmt: skip
    try:
        assert started.returncode == 0, started.stderr[-2000:]
        yield Container(name)
    finally:
        _podman("rm", "--force", "--time", "1", name)
