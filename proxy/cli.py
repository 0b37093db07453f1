"""The command line: one sub-command after the other; each parses, calls and returns an exit code.

Results go to stdout, everything else to stderr. Exit codes: 0 fine; 1 the thing asked for failed; 2 usage or
configuration error. What a command needs is imported when it runs, so that ``health`` imports the standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from proxy import __version__
from proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from proxy.config.load import Loaded
    from proxy.tokens.source import CredentialSettings

FINE, FAILED, USAGE = 0, 1, 2
_DEFAULT_ADMIN = "127.0.0.1:9464"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except ConfigurationError as error:
        _tell(f"configuration error:\n{error}" if "\n" in str(error) else f"configuration error: {error}")
        return USAGE
    except BrokenPipeError:
        # the reader of our output went away: not an error of ours, and there is nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return 130  # as shells count a program that SIGINT ended


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


def _fail(text: str) -> NoReturn:
    raise ConfigurationError(text)


# --- run -------------------------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    from proxy.process.worker import run

    loaded = _loaded(options)
    _tell(f"configuration: {loaded.source}")
    if options.log_level is not None:
        loaded = loaded.with_log_level(options.log_level)
    return run(loaded.settings, source=loaded.source)


def _loaded(options: argparse.Namespace) -> Loaded:
    from proxy.config.load import load

    return load(
        None if options.config is None else Path(options.config),
        environ=os.environ,
        use_env_file=not options.no_env_file,
        listen=getattr(options, "listen", None),
        admin=getattr(options, "admin", None),
        workers=getattr(options, "workers", None),
    )


# --- demo ------------------------------------------------------------------------------------------------------------


def _demo(options: argparse.Namespace) -> int:
    from proxy.demo.show import run_demo

    return run_demo(listen=options.listen, once=options.once)


# --- check -----------------------------------------------------------------------------------------------------------


def _check(options: argparse.Namespace) -> int:
    loaded = _loaded(options)
    for warning in loaded.warnings():
        _tell(f"warning: {warning}")
    settings = loaded.settings
    print(f"{loaded.source}: fine ({len(settings.routes)} routes, {len(settings.credentials)} credentials)")
    return FINE


# --- token -----------------------------------------------------------------------------------------------------------


def _token(options: argparse.Namespace) -> int:
    from proxy.process.worker import run_loop

    settings = _loaded(options).settings
    return run_loop(_got_token(_credential(settings.credentials, options.credential), options))


def _credential(credentials: Sequence[CredentialSettings], name: str | None) -> CredentialSettings:
    by_name = {str(credential.name): credential for credential in credentials}
    if name is None:
        if len(by_name) == 1:
            return next(iter(by_name.values()))
        _fail(f"which credential? The configuration has: {', '.join(sorted(by_name)) or 'none'}")
    if name not in by_name:
        close = get_close_matches(name, by_name, n=1)
        hint = f' (did you mean "{close[0]}"?)' if close else ""
        _fail(f"no credential has the name given{hint}; the configuration has: {', '.join(sorted(by_name)) or 'none'}")
    return by_name[name]


async def _got_token(credential: CredentialSettings, options: argparse.Namespace) -> int:
    from proxy.clock import SystemClock
    from proxy.oauth.client import TokenEndpointClient
    from proxy.oauth.response import TokenRequestError

    client = TokenEndpointClient(SystemClock())
    try:
        grant = await client.request(credential.registration)
    except TokenRequestError as error:
        _tell(f"no token for credential {credential.name}: {error.detail}")
        if error.description:
            _tell(f"  the authorization server says: {error.description}")
        if error.hint:
            _tell(f"  hint: {error.hint}")
        return FAILED
    finally:
        await client.close()
    token = grant.access_token.reveal()
    lifetime = grant.expires_in
    if options.header:
        print(f"Authorization: {grant.token_type} {token}")
    elif options.json:
        print(
            json.dumps(
                {
                    "access_token": token,
                    "token_type": grant.token_type,
                    "expires_in": lifetime,
                    "scope": grant.scope,
                }
            )
        )
    else:
        print(f"token type: {grant.token_type}")
        print(f"lifetime:   {'not told' if lifetime is None else f'{lifetime:g} s'}")
        print(f"scope:      {grant.scope or 'as requested'}")
        print(f"token:      {_snippet(token)}")
    return FINE


def _snippet(token: str) -> str:
    """Returns how a token looks without telling it: its length and, of a long one, the first four characters."""
    shown = token[:4] if len(token) >= 32 else ""
    return f"{shown}… ({len(token)} characters, not shown; --header or --json prints it)"


# --- schema, health --------------------------------------------------------------------------------------------------


def _schema(_options: argparse.Namespace) -> int:
    from proxy.config.schema import json_schema

    print(json.dumps(json_schema(), indent=2))
    return FINE


def _health(options: argparse.Namespace) -> int:
    from proxy.probe import probe

    address = options.admin or os.environ.get("BEARER_PROXY_ADMIN") or _DEFAULT_ADMIN
    healthy, message = probe(address, ready=options.ready)
    (print if healthy else _tell)(message)
    return FINE if healthy else FAILED


# --- the parser ------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bearer-proxy",
        description="Forwards each request to a protected API with a Bearer token that it obtains and keeps fresh.",
        epilog="example: TOKEN_URL=… CLIENT_ID=… CLIENT_SECRET=… UPSTREAM_URL=… bearer-proxy run",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"bearer-proxy {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    run = _command(commands, "run", _run, "serve until SIGTERM", "bearer-proxy run -c config/proxy.yaml")
    _configuration(run)
    run.add_argument("--listen", metavar="ADDR", help="host:port or unix:/path, instead of the configuration's")
    run.add_argument("--admin", metavar="ADDR", help="address of metrics and health, or off")
    run.add_argument("--workers", metavar="N", help="processes (only 1 is supported yet)")
    run.add_argument("--log-level", choices=["debug", "info", "warning", "error"])

    demo = _command(
        commands, "demo", _demo, "show it working, with an embedded authorization server and API", "bearer-proxy demo"
    )
    demo.add_argument(
        "--listen", metavar="ADDR", help="host:port of the gateway (default: 127.0.0.1:8080, or a free port)"
    )
    demo.add_argument("--once", action="store_true", help="end after the demonstration instead of staying up")

    check = _command(commands, "check", _check, "validate the configuration", "bearer-proxy check -c proxy.yaml")
    _configuration(check)

    token = _command(
        commands,
        "token",
        _token,
        "get a token the way the gateway would",
        'curl -H "$(bearer-proxy token --header)" URL',
    )
    _configuration(token)
    token.add_argument("credential", metavar="CREDENTIAL", nargs="?", help="its name; may be left out if there is one")
    form = token.add_mutually_exclusive_group()
    form.add_argument("--header", action="store_true", help="print the whole token, ready for curl -H")
    form.add_argument("--json", action="store_true", help="print the whole token as JSON")

    _command(commands, "schema", _schema, "print the JSON Schema of the configuration", "bearer-proxy schema > s.json")

    health = _command(commands, "health", _health, "probe a running gateway", "bearer-proxy health --ready")
    health.add_argument("--admin", metavar="ADDR", help=f"its admin address (default: {_DEFAULT_ADMIN})")
    health.add_argument("--ready", action="store_true", help="ask whether it is ready, not only alive")
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    call: Callable[[argparse.Namespace], int],
    what: str,
    example: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=what, description=what.capitalize() + ".", epilog=f"example: {example}", allow_abbrev=False
    )
    parser.set_defaults(command=call)
    return parser


def _configuration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--config", metavar="FILE", help="configuration file (default: see the README)")
    parser.add_argument("--no-env-file", action="store_true", help="do not read ./.env")
