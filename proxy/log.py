"""The log: one line a record on one stream, written by a thread, so that logging never waits.

``configure`` attaches it to the logger ``proxy``, whose records carry their facts as ``extra={"fields": {...}}``. What
other libraries log may quote a client's bytes or hold a traceback with a secret in its text: of their records only the
logger's name and the type of the exception are written. The same holds for exceptions that nobody caught.

Beside it: ``access_line`` and ``served_line`` for the one line of each request, ``redact_query`` for request targets, and
``RateLimited`` for warnings that a peer can cause as often as it likes (``proxy/log_limit.py``). ``proxy/log_format.py``
makes the lines (``proxy/served_lines.py`` nearly all of a busy gateway's), ``proxy/log_writer.py`` writes them.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections.abc import Mapping
from typing import Any, TextIO

from proxy.clock import SystemClock
from proxy.log_format import ExceptionInfo, JsonLines, Lines, TextLines
from proxy.log_limit import RateLimited
from proxy.log_writer import CAPACITY, LineWriter
from proxy.served_lines import ACCESS, Served, ServedLines
from proxy.units import KIB, SECONDS

__all__ = ["Log", "RateLimited", "access_line", "configure", "dropped", "redact_query", "served_line", "stop"]

_ROOT = "proxy"
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_access = logging.getLogger("proxy.access")
_log = logging.getLogger("proxy.log")
_wall = SystemClock().wall
_installed: list[Log] = []  # the one in force, if any
# Before `configure`, and for a program that only imports a part of this package, nothing goes to the interpreter's
# handler of last resort, which writes raw texts.
logging.getLogger(_ROOT).addHandler(logging.NullHandler())

_FLUSH_AT_EXIT_S = 2 * SECONDS
_LIBRARY_LINES_PER_S = 10.0
_REFUSAL_LINES_PER_S = 1.0  # of each kind: 30 MB a day, however fast somebody sends what is refused
_REFUSAL_LINES_AT_ONCE = 20.0
MAX_TARGET = 1 * KIB  # characters of a redacted request target
_MAX_PARAMETERS = 32
_MAX_PARAMETER_NAME = 64
_MASK = "*"


class Log:
    """The configured log. Made by ``configure``."""

    def __init__(self, writer: LineWriter, lines: Lines, level: int) -> None:
        self._writer = writer
        self._loggers: list[tuple[logging.Logger, int, bool, list[logging.Handler]]] = []
        self._hooks = (sys.excepthook, threading.excepthook, sys.unraisablehook)
        self._lines = lines
        self.served = ServedLines(lines) if isinstance(lines, JsonLines) and level <= logging.INFO else None
        self.put = writer.put
        self.refusals = RateLimited(_access, _REFUSAL_LINES_PER_S, burst=_REFUSAL_LINES_AT_ONCE)
        self._attach(logging.getLogger(_ROOT), _LineHandler(self), level=level)
        # The root catches what other libraries log, aiohttp and asyncio among them, at WARNING and above.
        self._attach(logging.getLogger(), _LibraryHandler(self), level=logging.WARNING, keep=True)
        for name in ("aiohttp", "asyncio"):
            self._attach(logging.getLogger(name), None, level=logging.WARNING)
        sys.excepthook = _uncaught
        threading.excepthook = _uncaught_in_thread
        sys.unraisablehook = _unraisable
        atexit.register(self.stop, _FLUSH_AT_EXIT_S)

    @property
    def dropped(self) -> int:
        """Lines that were never written, since the start."""
        return self._writer.dropped

    def write(
        self, level: int, logger: str, message: str, fields: Mapping[str, object], info: ExceptionInfo = None
    ) -> None:
        """Queues a line. Formats here, so that no value lives on in the queue; never raises, never waits."""
        try:
            line = self._lines.line(_wall(), level, logger, message, fields=fields, info=info)
        except Exception as error:  # noqa: BLE001  # whatever a value's own __str__ raises
            failure = (type(error), error, error.__traceback__)
            text = "a line could not be made"
            line = self._lines.line(_wall(), logging.ERROR, _log.name, text, fields={"of": logger}, info=failure)
        if level < logging.CRITICAL or not self._writer.stopped:
            self._writer.put(line)
        else:
            self._writer.put_last(line)  # what ended the program is told even after the end of the log

    def stop(self, timeout_s: float = _FLUSH_AT_EXIT_S) -> bool:
        """Writes what waits, for at most so many seconds, and then drops what still comes. Blocks the caller.

        Returns False if the stream still blocks. The loggers stay attached, so that nothing that is logged on the way
        out reaches the standard error stream past the rules of this module.
        """
        atexit.unregister(self.stop)
        return self._writer.stop(timeout_s)

    def detach(self, timeout_s: float = _FLUSH_AT_EXIT_S) -> None:
        """Stops, and gives loggers and hooks back as they were found: for tests and a second `configure`."""
        self.stop(timeout_s)
        if self in _installed:
            _installed.remove(self)
        for logger, level, propagate, handlers in reversed(self._loggers):
            logger.handlers[:] = handlers
            logger.setLevel(level)
            logger.propagate = propagate
        self._loggers.clear()
        sys.excepthook, threading.excepthook, sys.unraisablehook = self._hooks

    def _attach(
        self, logger: logging.Logger, handler: logging.Handler | None, *, level: int, keep: bool = False
    ) -> None:
        """Makes the handler the logger's only one (or, with keep, one more); without one, records go to the root."""
        self._loggers.append((logger, logger.level, logger.propagate, list(logger.handlers)))
        logger.handlers[:] = [*(logger.handlers if keep else ()), *([handler] if handler else ())]
        logger.setLevel(level)
        logger.propagate = handler is None


def configure(
    format: str = "auto",  # noqa: A002  # the configuration's own word
    level: str = "info",
    stream: TextIO | None = None,
    *,
    capacity: int = CAPACITY,
) -> Log:
    """Attaches the log to the loggers and returns its handle. A log that was configured before ends.

    Args:
        format: `text` for people, `json` for machines, `auto` for text on a terminal and JSON otherwise.
        level: least severe level written: debug, info, warning, error.
        stream: where lines go; standard error by default, as it is at the time of the call.
        capacity: lines that may wait to be written.

    Raises:
        ValueError: the format or the level is none of those.
    """
    stream = sys.stderr if stream is None else stream
    terminal = stream is not None and stream.isatty()
    if format == "auto":
        format = "text" if terminal else "json"  # noqa: A001
    lines: Lines
    if format == "text":
        lines = TextLines(colour=terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb")
    elif format == "json":
        lines = JsonLines()
    else:
        raise ValueError("a log format is one of auto, text, json")
    if level not in _LEVELS:
        raise ValueError("a log level is one of debug, info, warning, error")

    def report(missing: int) -> str:
        return lines.line(_wall(), logging.WARNING, _log.name, "log lines were dropped", fields={"dropped": missing})

    while _installed:
        _installed.pop().detach()
    _installed.append(Log(LineWriter(stream, report=report, capacity=capacity), lines, _LEVELS[level]))
    return _installed[-1]


def stop(timeout_s: float = _FLUSH_AT_EXIT_S) -> bool:
    """Stops the log in force; see ``Log.stop``. Returns True if there is none."""
    return all(log.stop(timeout_s) for log in _installed)


def dropped() -> int:
    """Returns how many lines the log in force has dropped since its start."""
    return sum(log.dropped for log in _installed)


def access_line(fields: Mapping[str, object], refused_as: str | None = None) -> None:
    """Logs a finished request, at INFO on `proxy.access`. The mapping is read at once and not kept.

    `refused_as` is the kind of refusal, one of few, for a request that the gateway refused by itself: anybody can cause
    any number of those at no cost, so their lines are bounded by kind, and the next one tells how many were left out.
    """
    if not _access.isEnabledFor(logging.INFO):
        return
    if _installed and not _access.handlers:
        if refused_as is not None:
            left_out = _installed[-1].refusals.admit(refused_as)
            if left_out is None:
                return
            if left_out:
                fields = {**fields, "suppressed": left_out}
        # what the logger would do, without a record, a walk of the stack and of the loggers: half the cost of a line
        _installed[-1].write(*ACCESS, fields)
    else:
        _access.info("request", extra={"fields": fields})


def served_line(served: Served, duration_s: float, target: str, about: tuple[str, str]) -> bool:
    """Logs a request that was served as usual, if that can be done in one pass; else it is for ``access_line``.

    `target` is what may be shown of the request's target, `about` the names of the route and of its credential.
    """
    if not _installed or _access.handlers:
        return False
    log = _installed[-1]
    try:
        line = None if log.served is None else log.served.line(_wall(), served, duration_s, target, about)
    except Exception:  # noqa: BLE001  # no request may fail of its line: `Log.write` tells of what is wrong
        return False
    if line is None:
        return False
    log.put(line)
    return True


def redact_query(target: bytes) -> str:
    """Returns a request target with its path and parameter names kept and every value replaced by `*`.

    A parameter without `=` may be a bare token: it is hidden too, like the user information of an absolute-form target.
    At most MAX_TARGET characters; still a peer's bytes (as Latin-1), so it goes into a field, where it is escaped.
    """
    if b"?" not in target and b"://" not in target and len(target) <= MAX_TARGET:
        return target.decode("latin-1")
    path, mark, query = target[: 8 * KIB].partition(b"?")
    scheme, separator, rest = path.partition(b"://")
    if separator and not scheme.startswith(b"/"):
        _, at, tail = rest.rpartition(b"@")  # the last one: a secret may hold a slash, which ends the authority
        path = scheme + separator + (_MASK.encode() + at if at else b"") + tail
    text = path.decode("latin-1")
    if mark:
        parameters = query.decode("latin-1").split("&", _MAX_PARAMETERS)
        kept = [_redact_parameter(parameter) for parameter in parameters[:_MAX_PARAMETERS]]
        text += "?" + "&".join(kept) + ("&…" if len(parameters) > _MAX_PARAMETERS else "")
    return text if len(text) <= MAX_TARGET else text[: MAX_TARGET - 1] + "…"


def _redact_parameter(parameter: str) -> str:
    name, equals, _ = parameter.partition("=")
    if not equals:
        return _MASK if name else ""
    # a name this long is no name
    return f"{name if len(name) <= _MAX_PARAMETER_NAME else _MASK}={_MASK}"


class _LineHandler(logging.Handler):
    """Hands the records of this program to the log."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            # without arguments nothing is formatted: a percent sign in a constant text stays one
            message = record.getMessage() if record.args else str(record.msg)
        except Exception:  # noqa: BLE001  # arguments that do not fit the text
            message = f"a log call in {record.funcName}, line {record.lineno}, has arguments that do not fit its text"
        fields = getattr(record, "fields", None)
        shown = fields if isinstance(fields, Mapping) else {}
        self._log.write(record.levelno, record.name, message, shown, record.exc_info)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Prints nothing: the stock one writes the record's raw values to standard error."""


class _LibraryHandler(logging.Handler):
    """Reduces a library's record to the logger's name and the exception's type, and bounds how many there are."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._limited = RateLimited(_log, _LIBRARY_LINES_PER_S)

    def emit(self, record: logging.LogRecord) -> None:
        held_back = self._limited.admit(record.name)
        if held_back is None:
            return
        fields = {"suppressed": held_back} if held_back else {}
        info = record.exc_info
        if info and info[1] is not None:
            info = (type(info[1]), info[1], None)  # without its frames, which are the library's
        self._log.write(record.levelno, record.name, "a library logged this; its text is withheld", fields, info)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Prints nothing."""


def _uncaught(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        _log.critical("an exception ended the program", exc_info=(kind, error, traceback))


def _uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None and not issubclass(arguments.exc_type, SystemExit):
        info = (arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
        _log.error("an exception ended a thread", exc_info=info)


def _unraisable(arguments: Any) -> None:
    if arguments.exc_value is not None:
        info = (arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
        _log.error("an exception could not be raised", exc_info=info)
