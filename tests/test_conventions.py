"""The conventions of the code base, held by tests: each rule is shown to be able to fail, then applied to every module."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pydantic
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import proxy
from proxy.secret import Secret, SecretSource
from tests.support import conventions
from tests.support.conventions import Module

TOP = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))

PURE = (
    "http1/fields.py",
    "http1/framing.py",
    "http1/switching.py",
    "http1/target.py",
    "http1/wire.py",
    "routing.py",
    "oauth/grant.py",
    "oauth/client_auth.py",
    "oauth/response.py",
    "tokens/access_token.py",
    "tokens/lifetime.py",
    "upstream/origin.py",
    "upstream/persistence.py",
    "gateway/access.py",
    "gateway/decide.py",
    "gateway/incoming.py",
    "gateway/problem.py",
    "gateway/query_token.py",
    "gateway/rate_limit.py",
    "gateway/rescue.py",
    "gateway/rewrite.py",
)
TOP_LEVEL = {
    "pyproject.toml", "requirements.txt", "Dockerfile", "Makefile", "README.md", "CHANGELOG.md", "LICENSE",
    "config", "proxy", "tests",
}  # fmt: skip
IMPORT_NAMES = {"pyyaml": "yaml"}  # where a distribution's package is not called as itself
HALVES = {"pydantic_core"}  # pydantic's other half: always of the one version that pydantic names

SOURCES: dict[Module, str] = {
    path.relative_to(TOP / "proxy").with_suffix("").parts: path.read_text(encoding="utf-8")
    for path in sorted((TOP / "proxy").rglob("*.py"))
    if path != TOP / "proxy" / "__init__.py"
}


def faults_in_all(check: Any, *, leave_out: tuple[str, ...] = ()) -> list[str]:
    """Returns a check's findings in every module but those at, or below, the names left out."""
    return [
        f"proxy/{'/'.join(module)}.py: {fault}"
        for module, source in SOURCES.items()
        if module[0] not in leave_out
        for fault in check(source)
    ]


# ---- the rules, each tried on source that breaks it


@pytest.mark.parametrize(
    ("module", "source", "faults"),
    [
        (("http1", "wire"), "from proxy.gateway.decide import decide", 1),
        (("gateway", "decide"), "from proxy.http1.wire import RequestHead", 0),
        (("gateway", "decide"), "from proxy.gateway.access import allowed", 0),
        (("gateway", "decide"), "import proxy.config.schema", 1),
        (("gateway", "decide"), "from proxy.admin import server", 1),
        (("tokens", "keeper"), "from proxy.upstream.pool import Pool", 1),
        (("tokens", "keeper"), "def f():\n    from proxy import cli", 1),
        (("tokens", "keeper"), "from proxy.oauth.client import TokenEndpointClient", 0),
        (("clock",), "from proxy.errors import GatewayError", 0),
        (("clock",), "import aiohttp", 1),
        (("errors",), "from proxy.routing import Route", 1),
        (("cli",), "from proxy import __version__", 0),
        (("helpers", "misc"), "", 1),
        (("cli",), "from proxy.helpers import misc", 1),
    ],
)
def test_an_import_is_judged_by_its_direction(module, source, faults):
    """Downwards and within a package is right; upwards, sideways, and to or from the unknown is not."""
    assert len(conventions.upward_imports(module, source, {"clock", "errors"})) == faults


@pytest.mark.parametrize("source", ["import time", "from asyncio import sleep", "def f():\n    import socket as s"])
def test_a_pure_module_that_reads_the_world(source):
    """An import in a function counts as well."""
    assert conventions.impure_imports(source)
    assert not conventions.impure_imports("import re, timeit\nfrom proxy.secret import Secret")


def test_a_call_that_is_banned():
    """By its bare name or as an attribute; in a text or a name it is no call."""
    source = "print(1)\nasyncio.create_task(x)\n'print(1)'\nprint_it()\n"
    assert conventions.calls(source, "print", "create_task") == ["line 1: print()", "line 2: asyncio.create_task()"]


def test_a_comment_that_puts_work_off():
    """Comments count, texts do not."""
    assert conventions.unfinished("x = 1  # TODO: more\n") == ["line 1: # TODO: more"]
    assert not conventions.unfinished("x = 'TODO'  # done\n")


def test_a_module_that_is_too_long():
    """One line more than the limit is too much."""
    assert not conventions.too_long("x\n" * conventions.MAX_LINES)
    assert conventions.too_long("x\n" * (conventions.MAX_LINES + 1))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Leaky:
    access_token: str
    field_value: bytes
    shared_key: str | None = dataclasses.field(default=None, repr=False)
    secret: Secret
    source: SecretSource
    token_endpoint: str


class _LeakyModel(pydantic.BaseModel):
    password: str
    client_secret: str = pydantic.Field(repr=False)


def test_a_secret_in_a_repr():
    """Text and octets with a telling name are found; what is hidden, or a Secret, is not; an address is no secret."""
    here = __name__
    assert conventions.shown_secrets(_Leaky) == [f"{here}._Leaky.access_token", f"{here}._Leaky.field_value"]
    assert conventions.shown_secrets(_LeakyModel) == [f"{here}._LeakyModel.password"]


# ---- the rules, applied


def test_imports_point_one_way():
    """cli, demo, process, config, {admin, gateway}, routing, {upstream, tokens}, {oauth, http1}, leaves."""
    placed = set().union(*conventions.LEVELS)
    leaves = {module[0] for module in SOURCES if len(module) == 1} - placed
    faults = [
        fault for module, source in SOURCES.items() for fault in conventions.upward_imports(module, source, leaves)
    ]
    assert faults == []


@pytest.mark.parametrize("path", PURE)
def test_pure_files_stay_pure(path):
    """What decides reads no clock, no socket and no chance: they are arguments."""
    assert conventions.impure_imports((TOP / "proxy" / path).read_text(encoding="utf-8")) == []


def test_all_of_http1_is_held_pure():
    """A new file there is pure too, and listed above."""
    files = {f"http1/{path.name}" for path in (TOP / "proxy/http1").glob("*.py")}
    assert files - {"http1/__init__.py"} <= set(PURE)


def test_no_module_outgrows_one_noun():
    """400 lines at most."""
    assert ["/".join(module) for module, source in SOURCES.items() if conventions.too_long(source)] == []


def test_only_commands_print():
    """Everything else logs, or returns."""
    assert faults_in_all(lambda source: conventions.calls(source, "print"), leave_out=("cli", "demo")) == []


def test_only_one_module_starts_tasks():
    """A task started elsewhere can be lost, and its failure with it."""
    started = faults_in_all(lambda source: conventions.calls(source, "create_task", "ensure_future"))
    assert [fault for fault in started if not fault.startswith("proxy/tasks.py:")] == []


def test_nothing_is_put_off():
    """No comment promises later work."""
    assert faults_in_all(conventions.unfinished) == []


def test_no_secret_stands_in_a_repr():
    """Of no dataclass and no model of the package."""
    names = [".".join(("proxy", *module)).removesuffix(".__init__") for module in SOURCES if module != ("__main__",)]
    classes = [
        cls
        for name in names
        for _, cls in inspect.getmembers(importlib.import_module(name), inspect.isclass)
        if cls.__module__ == name and (dataclasses.is_dataclass(cls) or issubclass(cls, pydantic.BaseModel))
    ]

    assert len(classes) > 20
    assert [fault for cls in classes for fault in conventions.shown_secrets(cls)] == []


# ---- what is shipped


def test_the_top_level_holds_what_belongs_there():
    """A new file finds its place in a folder."""
    tracked = subprocess.run(["git", "ls-files"], cwd=TOP, capture_output=True, text=True, check=False)
    if tracked.returncode != 0 or not tracked.stdout:
        pytest.skip("not a git checkout")
    names = {line.split("/")[0] for line in tracked.stdout.splitlines()}
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL


def test_the_wheel_holds_one_package(tmp_path):
    """`proxy`, its type marker and the licence, and nothing else at the top level."""
    source = tmp_path / "source"
    shutil.copytree(TOP / "proxy", source / "proxy", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("config", "tests"):  # what a careless search for packages would pick up too
        (source / folder).mkdir()
        (source / folder / "__init__.py").touch()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TOP / name, source)
    command = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(tmp_path)]
    subprocess.run([sys.executable, *command, str(source)], check=True, timeout=50)

    (wheel,) = tmp_path.glob("bearer_proxy-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    information = f"bearer_proxy-{proxy.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"proxy", information}
    assert {"proxy/py.typed", "proxy/cli.py", f"{information}/licenses/LICENSE"} <= set(names)


def test_the_version_is_the_same_everywhere():
    """In the package, its metadata and the image's label."""
    label = re.search(r'image\.version="([^"]+)"', (TOP / "Dockerfile").read_text(encoding="utf-8"))
    assert label is not None
    assert PYPROJECT["project"]["version"] == proxy.__version__ == label[1]


def test_what_is_imported_is_declared():
    """No dependency is there by luck, because another one brings it, and none is declared in vain."""
    declared = {canonicalize_name(Requirement(line).name) for line in PYPROJECT["project"]["dependencies"]}
    names = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in declared}
    assert set().union(*(conventions.foreign_imports(source) for source in SOURCES.values())) - HALVES == names


def test_what_tests_import_is_declared():
    """A fresh checkout has all that its tests import."""
    project = PYPROJECT["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    declared = {canonicalize_name(Requirement(line).name) for line in lines} | {"packaging"}  # pytest's own dependency
    names = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in declared}
    sources = [
        path.read_text(encoding="utf-8") for path in (TOP / "tests").rglob("*.py") if "node_modules" not in path.parts
    ]
    assert set().union(*(conventions.foreign_imports(source) for source in sources)) <= names | HALVES


def test_the_image_s_requirements_fit():
    """Each dependency is pinned within its range, by hashes, for more platforms than one, and from no named index."""
    text = (TOP / "requirements.txt").read_text(encoding="utf-8")
    pins = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))
    hashes = {block.split("==")[0]: block.count("--hash=sha256:") for block in re.split(r"\n(?=[a-z])", text)}

    for line in [*PYPROJECT["project"]["dependencies"], *PYPROJECT["build-system"]["requires"]]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pins[requirement.name]), line
    assert all(hashes[name] for name in pins)
    assert hashes["uvloop"] > 10  # wheels for several versions of Python, kinds of processor and of C library
    assert "://" not in text
