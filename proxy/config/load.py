"""From a path, or none, and the environment to ``Settings``: finds the configuration, reads it, tells all its faults.

The steps: text or variables to a tree; the command line's values put in; references resolved; reserved keys refused; the
schema; the files it names; the gateway's values. Every step goes on as far as it can, so that one run tells everything.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from proxy.config import environment, files, lint, proofs, reserved
from proxy.config.faults import ConfigurationFaults, Fault, Findings, Place
from proxy.config.parse import parse, read
from proxy.config.references import resolve, variables
from proxy.config.schema import Configuration
from proxy.config.snapshot import settings
from proxy.config.tree import MappingNode, ScalarNode, replaced
from proxy.config.validate import validate
from proxy.errors import ConfigurationError
from proxy.gateway.settings import LogLevel, Settings

PATH_VARIABLE = "BEARER_PROXY_CONFIG"
DEFAULT_PATHS = (Path("config/proxy.yaml"), Path("/etc/bearer-proxy/proxy.yaml"))
ENV_FILE = Path(".env")
_COMMAND_LINE = "command line"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A configuration in force, and where it comes from."""

    settings: Settings
    source: str  # for people: a path, or that there is no file
    document: lint.Document = field(repr=False)

    def warnings(self) -> list[Fault]:
        """Returns what is allowed but looks like a mistake or a risk. Reads the modes of the files it names."""
        return lint.warnings(self.document)

    def with_log_level(self, level: str) -> Loaded:
        """Returns the same with another log level. Raises ConfigurationError if there is no such level."""
        try:
            log = replace(self.settings.log, level=LogLevel(level))
        except ValueError:
            raise ConfigurationError(f"log level: expected one of: {', '.join(LogLevel)}") from None
        return replace(self, settings=replace(self.settings, log=log))


def load(
    path: Path | None = None,
    *,
    environ: Mapping[str, str],
    use_env_file: bool = True,
    listen: str | None = None,
    admin: str | None = None,
    workers: str | None = None,
    search: Sequence[Path] = DEFAULT_PATHS,
    check_files: bool = True,
) -> Loaded:
    """Returns the configuration of a file, or of the one found, or of the environment alone.

    `listen`, `admin` and `workers` are the command line's, and take the place of what is written; `search` is where a file
    is looked for that nobody names. Relative paths in a file start at the working directory. Without `check_files`, the
    files that it names need not be there.
    Raises ConfigurationFaults with every fault there is.
    """
    env_file = ENV_FILE if use_env_file else None
    known = variables(environ, env_file)
    path, source = _found(path, known, search)
    findings = Findings()
    root = environment.tree() if path is None else parse(read(path), str(path), findings)
    for key, value in (("listen", listen), ("admin", admin), ("workers", workers)):
        if value is not None:
            option = Place(_COMMAND_LINE, label=f"--{key}")
            root = replaced(root, key, ScalarNode(value.replace("${", "$${"), option))
    written = root
    root = reserved.refuse(resolve(root, known, findings), findings)
    configuration = validate(root, findings)
    if check_files:
        files.check(root, findings)
    built = None if configuration is None or findings.faults else _built(configuration, root, findings)
    if check_files and built is not None and built.tls is not None:
        files.check_tls(built.tls, root, findings)
    if built is not None and check_files:
        proofs.check(root, built, findings)
    if configuration is None or built is None or findings.faults:
        raise ConfigurationFaults(findings.faults, _hint(findings))
    document = lint.Document(
        written=written, root=root, configuration=configuration, settings=built, path=path, env_file=env_file
    )
    return Loaded(settings=built, source=source, document=document)


def _found(path: Path | None, known: Mapping[str, str], search: Sequence[Path]) -> tuple[Path | None, str]:
    """Returns the file to read, None for no file, and what to call it."""
    if path is not None:
        return path, str(path)
    if PATH_VARIABLE in known:
        named = Path(known[PATH_VARIABLE])
        return named, f"{named} (from {PATH_VARIABLE})"
    for candidate in search:
        if os.path.lexists(candidate):  # a link that leads nowhere is a fault, not a reason to look further
            return candidate, str(candidate)
    return None, "environment variables (no configuration file)"


def _built(configuration: Configuration, root: MappingNode, findings: Findings) -> Settings | None:
    try:
        return settings(configuration)
    except ConfigurationError as error:  # a rule of the gateway's own that the schema does not know
        findings.add(root.place, (), str(error))
    return None


def _hint(findings: Findings) -> str:
    if not findings.unset:
        return ""
    names = ", ".join(sorted(findings.unset))
    return (
        f"give {names} in the environment, or as NAME=value lines in ./.env (.env.example shows them); "
        "-c FILE names another configuration"
    )
