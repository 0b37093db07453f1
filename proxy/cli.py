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
from proxy.errors import ConfigurationError, UsageError

if TYPE_CHECKING:
    from proxy.config.load import Loaded
    from proxy.gateway.settings import Settings
    from proxy.http1.wire import ResponseHead
    from proxy.tokens.source import CredentialSettings
    from proxy.tokens.static_source import StaticCredential

FINE, FAILED, USAGE = 0, 1, 2
_DEFAULT_ADMIN = "127.0.0.1:9464"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except UsageError as error:
        _tell(f"usage error: {error}")
        return USAGE
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
    raise UsageError(text)


# --- run -------------------------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    from proxy.process.worker import run

    loaded = _loaded(options)
    _tell(f"configuration: {loaded.source}")
    if options.log_level is not None:
        loaded = loaded.with_log_level(options.log_level)
    for warning in loaded.warnings():
        _tell(f"warning: {warning}")
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
    from proxy.process.worker import run_loop

    loaded = _loaded(options)
    for warning in loaded.warnings():
        _tell(f"warning: {warning}")
    settings = loaded.settings
    print(f"{loaded.source}: fine (routes: {len(settings.routes)}, credentials: {len(settings.credentials)})")
    return run_loop(_checked_live(settings)) if options.live else FINE


async def _checked_live(settings: Settings) -> int:
    from proxy.clock import SystemClock
    from proxy.process.live import findings

    code = FINE
    async for finding in findings(settings, SystemClock()):
        text = "\n  ".join(finding.lines)
        if finding.fine:
            print(text)
        else:
            _tell(text)
            code = FAILED
    return code


# --- token -----------------------------------------------------------------------------------------------------------


def _token(options: argparse.Namespace) -> int:
    from proxy.process.worker import run_loop

    settings = _loaded(options).settings
    return run_loop(_got_token(_credential(settings.credentials, options.credential), options))


def _credential(
    credentials: Sequence[CredentialSettings | StaticCredential], name: str | None
) -> CredentialSettings | StaticCredential:
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


async def _got_token(credential: CredentialSettings | StaticCredential, options: argparse.Namespace) -> int:
    from proxy.clock import SystemClock
    from proxy.oauth.response import TokenRequestError
    from proxy.process import diagnosis, grant

    try:
        got = await grant.granted(credential, SystemClock())
    except TokenRequestError as error:
        reason, *more = await diagnosis.told(grant.registration(credential), error)
        _tell("\n  ".join([f"no token for credential {credential.name}: {reason}", *more]))
        return FAILED
    if options.claims:
        claims = grant.claims(got)
        if claims is None:
            _tell("the token is not a JWT: it has no claims to show")
            return FAILED
        print(claims)
    elif options.header:
        print(f"Authorization: {got.token_type} {got.access_token.reveal()}")
    elif options.json:
        print(grant.document(got))
    else:
        print("\n".join(grant.summary(got, grant.registration(credential))))
    return FINE


# --- call, explain ---------------------------------------------------------------------------------------------------


def _call(options: argparse.Namespace) -> int:
    from proxy import log
    from proxy.process.worker import run_loop

    settings = _loaded(options).settings
    log.configure("text", "warning")  # says why no token could be had
    try:
        return run_loop(_called(settings, options))
    finally:
        log.stop()


async def _called(settings: Settings, options: argparse.Namespace) -> int:
    from proxy.clock import SystemClock
    from proxy.log_format import escape
    from proxy.process.call import Request, call, told

    body = _body(options.data)
    fields = [_field(text) for text in options.header]
    if body is not None and not any(name.lower() == b"content-type" for name, _ in fields):
        fields.append((b"Content-Type", b"application/x-www-form-urlencoded"))  # as curl does
    request = Request(
        method=options.method or ("GET" if body is None else "POST"), url=options.path, fields=tuple(fields), body=body
    )
    status = 0

    def on_head(head: ResponseHead) -> None:
        nonlocal status
        status = head.status
        _tell(f"HTTP/1.1 {status} {escape(head.reason.decode('latin-1'))}")  # it must not drive the terminal

    def on_data(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    failure = await call(settings, SystemClock(), request, on_head=on_head, on_data=on_data)
    if failure is not None:
        _tell("\n".join(told(failure)))
    return FINE if failure is None and status < 400 else FAILED


def _body(data: str | None) -> bytes | None:
    """Returns the body: the text, or what `@FILE` or `@-` (standard input) holds."""
    if data is None:
        return None
    if not data.startswith("@"):
        return data.encode()
    try:
        return sys.stdin.buffer.read() if data == "@-" else Path(data[1:]).read_bytes()
    except OSError as error:
        _fail(f"-d {data}: {error.strerror}")


def _field(text: str) -> tuple[bytes, bytes]:
    from proxy.http1.fields import is_field_value, is_token

    name, colon, value = text.partition(":")
    field = name.encode("latin-1", "replace"), value.strip().encode("utf-8")
    if not colon or not is_token(field[0]) or not is_field_value(field[1]):
        _fail("-H takes `Name: value`")
    return field


def _explain(options: argparse.Namespace) -> int:
    from proxy.process.worker import run_loop

    return run_loop(_explained(_loaded(options).settings, options))


async def _explained(settings: Settings, options: argparse.Namespace) -> int:
    from proxy.clock import SystemClock
    from proxy.process.explain import explain

    explanation = explain(settings, SystemClock(), method=options.method, url=options.url)
    print("\n".join(explanation.lines))
    return FINE if explanation.forwarded else FAILED


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
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
    check.add_argument("--live", action="store_true", help="also get one token per credential and reach each upstream")

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
    form.add_argument("--claims", action="store_true", help="print a JWT's header and claims, never its signature")

    call = _command(
        commands, "call", _call, "send one request through the gateway's own path", "bearer-proxy call /orders/7"
    )
    _configuration(call)
    call.add_argument("-X", "--method", metavar="METHOD", help="default: GET, or POST with -d")
    call.add_argument("-H", "--header", metavar="HEADER", action="append", default=[], help="`Name: value`; repeatable")
    call.add_argument(
        "-d", "--data", metavar="DATA", help="the body; @FILE takes it from a file, @- from standard input"
    )
    call.add_argument("path", metavar="PATH", help="a path, or a URL whose host and path count")

    explain = _command(
        commands,
        "explain",
        _explain,
        "show route, credential and outgoing request",
        "bearer-proxy explain GET /orders/7",
    )
    _configuration(explain)
    explain.add_argument("method", metavar="METHOD")
    explain.add_argument("url", metavar="URL", help="a path, or a URL whose host and path count")

    _command(commands, "schema", _schema, "print the JSON Schema of the configuration", "bearer-proxy schema > s.json")

    health = _command(commands, "health", _health, "probe a running gateway", "bearer-proxy health --ready")
    health.add_argument(
        "--admin", metavar="ADDR", help=f"its admin address (default: $BEARER_PROXY_ADMIN, else {_DEFAULT_ADMIN})"
    )
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
        name,
        help=what,
        description=what[0].upper() + what[1:] + ".",
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(command=call)
    return parser


def _configuration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help="configuration file (default: $BEARER_PROXY_CONFIG, config/proxy.yaml, "
        "/etc/bearer-proxy/proxy.yaml, else environment variables alone)",
    )
    parser.add_argument("--no-env-file", action="store_true", help="do not read ./.env")
