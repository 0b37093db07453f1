"""The log: one line a record whatever a peer sends, no secret in it, and never a wait for whoever reads it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
import textwrap
import threading
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import log
from proxy.log_format import MAX_VALUE, JsonLines, TextLines, escape
from proxy.secret import FixedSecret, Secret

CANARY = "c4n4ry-s3cr3t"
BIDI_CONTROLS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
INVISIBLE = "\r\n\t\x00\x1b\x7f\x9b\u2028\u2029\u202e\u2066\u200b\ufeff\udc80\U000e0041"


@pytest.fixture
def configured():
    """A log on a text buffer: a function that configures it and one that stops it and returns what was written."""
    made = []

    def configure(style="json", level="debug"):
        stream = io.StringIO()
        made.append(log.configure(style, level, stream))

        def written():
            assert made[-1].stop(10)
            return stream.getvalue()

        return written

    yield configure
    for handle in reversed(made):
        handle.detach()


@pytest.fixture
def pipe():
    """A pipe whose write end is a text stream; nobody reads until a test does."""
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "w", encoding="utf-8")
    yield reader, stream
    with contextlib.suppress(OSError):  # a test closed it
        os.close(reader)
    stream.close()


def everything_from(reader):
    """Reads a pipe in the background until it is closed; the returned function waits for the octets."""
    parts = []

    def read():
        while data := os.read(reader, 1 << 16):
            parts.append(data)

    thread = threading.Thread(target=read)
    thread.start()

    def wait():
        thread.join(30)
        return b"".join(parts)

    return wait


def emit(written, **fields):
    logging.getLogger("proxy.test").info("message", extra={"fields": fields})
    return written()


# ---- JSON


def test_a_json_line(configured):
    """One object: ts in RFC 3339 with milliseconds, level, logger, message, then the fields with their types."""
    written = configured()
    line = emit(written, status=200, ratio=0.25, route="orders", replay=None, cut=True)

    document = json.loads(line)

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", document.pop("ts"))
    assert document == {
        "level": "info", "logger": "proxy.test", "message": "message",
        "status": 200, "ratio": 0.25, "route": "orders", "replay": None, "cut": True,
    }  # fmt: skip


def test_the_instant_of_a_json_line():
    """Milliseconds are cut, not rounded, so that a line never lies in the future."""
    line = JsonLines().line(1_700_000_000.9999, logging.INFO, "proxy", "m", fields={})
    assert json.loads(line)["ts"] == "2023-11-14T22:13:20.999Z"


@pytest.mark.parametrize("name", ["ts", "level", "logger", "message", "exception", "causes", "frames"])
def test_a_field_named_like_one_of_the_lines_own(configured, name):
    """It gets a trailing underscore, so that a JSON object has no name twice."""
    document = json.loads(emit(configured(), **{name: "x"}))
    assert document[f"{name}_"] == "x"
    assert document["message"] == "message"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_json_has_no_word_for(configured, value):
    """It is written as text, and the line stays JSON."""
    assert json.loads(emit(configured(), value=value))["value"] == str(value)


def test_two_fields_of_one_name_in_the_line():
    """The name that ours moves aside for is there once, however often the line was made."""
    lines, fields = JsonLines(), {"message": 1, "message_": 2}
    made = {lines.line(5.25, logging.INFO, "proxy.access", "request", fields=fields) for _ in range(3)}
    assert [line.count('"message_"') for line in made] == [1]


def test_a_text_that_is_not_unicode(configured):
    """A lone surrogate is escaped in words; other readers refuse a line that holds one. Neighbours stay as they are."""
    document = json.loads(emit(configured(), value="a\udc80b\\", neighbour="\n\\", emoji="😀", nested=["\ud800", "\t"]))
    assert document["value"] == "a\\udc80b\\\\"
    assert (document["neighbour"], document["emoji"]) == ("\n\\", "😀")
    assert document["nested"] == ["\\ud800", "\t"]


@pytest.mark.parametrize(
    "value",
    [
        "plain", "", 'a "quote" and a \\', "line\nbreak", "\x7f\x00", "é\u2028", "\ud800", "\\ud800", "x" * (MAX_VALUE + 1), 0, -7, 2**70,
        1.5, -0.0, 0.0, 1e22, 0.12345678, float("nan"), float("inf"), True, False, None, ["a", 1], {"b": 2}, b"octets", Secret("hidden"),
    ],
    ids=repr,
)  # fmt: skip
def test_a_line_is_the_same_whenever_it_is_made(value: object):
    """What is known from earlier lines saves work and changes nothing."""
    lines, fields = JsonLines(), {"client": "127.0.0.1", "status": 200, "duration_ms": 1.2, "odd": value, "cookie": "c"}
    first, again, third = (lines.line(5.25, logging.INFO, "proxy.access", "request", fields=fields) for _ in range(3))
    assert first == again == third
    fields.pop("cookie")
    shorter, known = (lines.line(5.25, logging.INFO, "proxy.access", "request", fields=fields) for _ in range(2))
    assert shorter == known == JsonLines().line(5.25, logging.INFO, "proxy.access", "request", fields=fields)
    assert json.loads(known)["duration_ms"] == 1.2


@given(st.text(), st.binary(max_size=50), st.text(max_size=5))
def test_any_text_in_a_json_line(text, data, name):
    """One line of printable ASCII that any JSON reader takes."""
    line = JsonLines().line(
        0.5, logging.INFO, text, text, fields={"text": text, "data": data, name: [text, {text: data}]}
    )
    assert line.isascii()
    assert line.isprintable()
    document = json.loads(line)
    document_text = json.dumps(document, ensure_ascii=False)
    document_text.encode("utf-8")


# ---- text


def test_a_text_line(configured):
    """`12:00:01.123 INFO message key=value`, values quoted where they would not end where they end."""
    line = emit(
        configured("text"), status=200, target="/a b", quote='say "x"', path="C:\\x", empty="", none=None, yes=True,
        members=["a", "b"],
    )  # fmt: skip
    time, rest = line.split(" ", 1)
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3}", time)
    assert rest == (
        'INFO message status=200 target="/a b" quote="say \\"x\\"" path="C:\\\\x" empty="" none=- yes=true '
        'members="a, b"\n'
    )


@given(st.text(), st.binary(max_size=50), st.text(max_size=5))
def test_any_text_in_a_text_line(text, data, name):
    """One line without a character that moves a cursor, reorders, hides, or cannot be encoded."""
    line = TextLines(colour=False).line(
        0.5, logging.INFO, text, text, fields={"text": text, "data": data, name: [text, {text: data}]}
    )
    line.encode("utf-8")
    assert not {"Cc", "Cs", "Zl", "Zp"} & {unicodedata.category(character) for character in line}
    assert not BIDI_CONTROLS & {unicodedata.bidirectional(character) for character in line}
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize("style", ["json", "text"])
@pytest.mark.parametrize("character", INVISIBLE, ids=lambda character: f"U+{ord(character):04X}")
def test_a_character_that_is_not_seen(configured, style, character):
    """In a message, a value, octets or a name: escaped, and the record stays one line."""
    written = configured(style)
    fields = {"value": f"a{character}b", "data": f"a{character}b".encode("utf-8", "surrogatepass"), f"n{character}": 1}
    logging.getLogger("proxy.test").warning("text %s end", character, extra={"fields": fields})
    text = written()
    assert text.endswith("\n")
    assert character not in text[:-1]
    assert len(text.splitlines()) == 1


def test_an_escape_sequence_in_the_middle_of_a_path():
    """It is shown in words."""
    assert escape("/\x1b[31m\r\nINFO fake\u202e\U000e0041") == "/\\x1b[31m\\r\\nINFO fake\\u202e\\U000e0041"


# ---- values


@pytest.mark.parametrize("style", ["json", "text"])
@pytest.mark.parametrize("value", ["q" * 5000, b"q" * 5000, memoryview(b"q" * 5000)])
def test_a_long_value(configured, style, value):
    """It is cut to 1 KiB."""
    line = emit(configured(style), value=value)
    assert line.count("q") == MAX_VALUE - 1  # the last character says that it was cut
    assert "…" in json.loads(line)["value"] if style == "json" else "…" in line


def test_more_than_a_line_can_hold(configured):
    """Fields, members, depth, names and the message are bounded too."""
    deep: list[object] = []
    deep.append(deep)
    fields = {f"field{number}": "v" * 2000 for number in range(500)} | {"n" * 5000: 1}
    written = configured()
    logging.getLogger("proxy.test").info(
        "m" * 100_000, extra={"fields": {"deep": deep, "many": list(range(10_000)), **fields}}
    )
    assert len(written()) < 80 * 1024


@pytest.mark.parametrize("style", ["json", "text"])
def test_a_secret(configured, style):
    """By its type it shows three stars, wherever it stands; by its name too, where the caller passed plain text."""
    line = emit(
        configured(style),
        secret=Secret(CANARY),
        members=[Secret(CANARY), FixedSecret(Secret(CANARY))],
        authorization=f"Bearer {CANARY}",
        client_secret=CANARY.encode(),
        fields={"Set-Cookie": CANARY, "Authorization": [CANARY]},
        Proxy_Authorization=CANARY,
    )
    assert CANARY not in line
    assert line.count("***") >= 7


@pytest.mark.parametrize("style", ["json", "text"])
def test_an_exception_as_a_value(configured, style):
    """Its type is shown, not its text."""
    line = emit(configured(style), error=ValueError(CANARY))
    assert "ValueError" in line
    assert CANARY not in line


class Unprintable:
    def __str__(self):
        raise RuntimeError(CANARY)


@pytest.mark.parametrize("style", ["json", "text"])
def test_a_value_that_cannot_be_shown(configured, style):
    """The caller is not disturbed; a line tells of it without the text of what was raised."""
    line = emit(configured(style), value=Unprintable())
    assert "a line could not be made" in line
    assert "RuntimeError" in line
    assert CANARY not in line


def test_arguments_that_do_not_fit_the_message(configured, capsys):
    """The caller is not disturbed, and nothing is printed past the log."""
    written = configured()
    logging.getLogger("proxy.test").info("%d of %d", CANARY)  # noqa: PLE1206
    line = written()
    assert "arguments that do not fit" in line
    assert CANARY not in line + "".join(capsys.readouterr())


def test_a_percent_sign_without_arguments(configured):
    """It stays one."""
    written = configured()
    logging.getLogger("proxy.test").info("100 % of it")
    assert json.loads(written())["message"] == "100 % of it"


# ---- exceptions


def fails():
    secret_in_a_local = CANARY  # noqa: F841
    try:
        {}[CANARY]
    except KeyError as error:
        raise ValueError(f"text {CANARY}") from error


@pytest.mark.parametrize("style", ["json", "text"])
def test_an_exception(configured, style):
    """Type, causes and frames are shown; no text of it and no local."""
    written = configured(style)
    try:
        fails()
    except ValueError:
        logging.getLogger("proxy.test").exception("it failed", stack_info=True)
    line = written()
    assert CANARY not in line
    assert len(line.splitlines()) == 1
    assert "ValueError" in line
    assert "KeyError" in line
    assert re.search(r"tests/test_log\.py:\d+ fails", line)


def test_an_exception_from_deep_down(configured):
    """The innermost frames are shown, a bounded number of them."""

    def down(depth):
        return down(depth - 1) if depth else fails()

    written = configured()
    try:
        down(200)
    except ValueError:
        logging.getLogger("proxy.test").exception("it failed")
    frames = json.loads(written())["frames"]
    assert len(frames) == 24
    assert frames[-1].endswith(" fails")


def test_a_group_of_exceptions(configured):
    """The types of its members are shown."""
    written = configured()
    error = ExceptionGroup(CANARY, [ValueError(CANARY), OSError(CANARY)])
    logging.getLogger("proxy.test").error("failed", exc_info=error)
    document = json.loads(written())
    assert document["exception"] == "ExceptionGroup"
    assert document["causes"] == ["ValueError", "OSError"]
    assert CANARY not in str(document)


# ---- what others log


@pytest.mark.parametrize("name", ["aiohttp.server", "asyncio", "some.library", None])
def test_t12_a_library_logs_what_a_client_sent(configured, name):
    """Only the logger's name, the level and the exception's type are written."""
    written = configured()
    logging.getLogger(name).error("got %r", CANARY, exc_info=ValueError(CANARY), extra={"fields": {"value": CANARY}})
    text = written()
    document = json.loads(text)
    assert CANARY not in text
    assert (document["logger"], document["level"]) == (name or "root", "error")
    assert document["exception"] == "ValueError"
    assert "frames" not in document


def test_a_library_logs_below_warning(configured):
    """It is not written at any level of ours."""
    written = configured(level="debug")
    for name in ("aiohttp.access", "asyncio", "aiohttp"):
        logging.getLogger(name).info("text")
    assert written() == ""


def test_a_library_floods(configured):
    """So many lines a second, and no more."""
    written = configured()
    for _ in range(1000):
        logging.getLogger("aiohttp.server").error("text")
    assert 1 <= len(written().splitlines()) < 100


def test_t12_a_task_whose_failure_nobody_reads(configured, capsys):
    """Its exception's text reaches neither the log nor standard error."""
    written = configured()

    async def failing():
        raise ValueError(CANARY)

    async def main():
        task = asyncio.get_running_loop().create_task(failing(), name=CANARY)
        await asyncio.wait([task])
        del task
        gc.collect()

    asyncio.run(main())
    text = written()
    assert json.loads(text)["logger"] == "asyncio"
    assert CANARY not in text + "".join(capsys.readouterr())


def test_a_thread_that_fails(configured, capsys):
    """Type and frames are logged."""
    written = configured()
    thread = threading.Thread(target=fails)
    thread.start()
    thread.join()
    text = written()
    assert json.loads(text)["exception"] == "ValueError"
    assert CANARY not in text + "".join(capsys.readouterr())


def test_a_finaliser_that_fails(configured, capsys):
    """Type and frames are logged."""

    class Failing:
        def __del__(self):
            fails()

    written = configured()
    Failing()
    gc.collect()
    text = written()
    assert json.loads(text)["exception"] == "ValueError"
    assert CANARY not in text + "".join(capsys.readouterr())


# ---- configuration


@pytest.mark.parametrize(("level", "lines"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_a_level(configured, level, lines):
    """Less severe lines are not written."""
    written = configured(level=level)
    for name in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger("proxy.test"), name)("text")
    assert len(written().splitlines()) == lines


@pytest.mark.parametrize(("style", "level"), [("xml", "info"), ("json", "loud"), ("json", "NOTSET")])
def test_a_format_or_level_that_is_none(style, level):
    """It is refused, and nothing is attached."""
    before = list(logging.getLogger("proxy").handlers)
    with pytest.raises(ValueError, match="one of"):
        log.configure(style, level, io.StringIO())
    assert logging.getLogger("proxy").handlers == before


def test_auto_without_a_terminal(configured):
    """It is JSON."""
    assert json.loads(emit(configured("auto")))


@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)]
)  # fmt: skip
def test_auto_on_a_terminal(monkeypatch, environment, coloured):
    """It is text, coloured unless NO_COLOR or a dumb terminal says otherwise."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as stream:
        handle = log.configure("auto", "info", stream)
        logging.getLogger("proxy.test").warning("text", extra={"fields": {"key": "\x1b[2J"}})
        assert handle.stop(10)
        handle.detach()
        text = os.read(ours, 4096).decode()
    os.close(ours)
    assert re.fullmatch(
        r'\d\d:\d\d:\d\d\.\d{3} WARNING text key="\\x1b\[2J"\r\n', text.replace("\x1b[33m", "").replace("\x1b[0m", "")
    )
    assert ("\x1b" in text) is coloured


def test_text_that_is_no_terminal_has_no_colour(configured):
    """A file stays free of escape sequences."""
    assert "\x1b" not in emit(configured("text"))


def test_a_second_configuration(configured):
    """It replaces the first: no line is written twice."""
    first, second = configured(), configured()
    logging.getLogger("proxy.test").info("text")
    assert len(second().splitlines()) == 1
    assert first.__closure__ is not None


def test_detaching():
    """Loggers and hooks are given back as they were found."""
    names = ("proxy", "aiohttp", "asyncio", None)
    hooks = (sys.excepthook, threading.excepthook, sys.unraisablehook)
    before = [(logger.level, logger.propagate, list(logger.handlers)) for logger in map(logging.getLogger, names)]
    log.configure("json", "debug", io.StringIO()).detach()
    assert [(x.level, x.propagate, list(x.handlers)) for x in map(logging.getLogger, names)] == before
    assert (sys.excepthook, threading.excepthook, sys.unraisablehook) == hooks


def test_without_a_configuration(capsys):
    """Nothing is printed: the interpreter's handler of last resort writes raw texts."""
    script = f"import logging, proxy.log; logging.getLogger('proxy.x').error({CANARY!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""


# ---- the queue


def test_nobody_reads_the_pipe(pipe):
    """Logging does not wait: what does not fit is dropped and counted, and stopping does not hang."""
    reader, stream = pipe
    handle = log.configure("json", "info", stream, capacity=100)
    finished = threading.Event()

    def flood():
        for number in range(2000):
            log.access_line({"number": number, "filler": "x" * 900})
        finished.set()

    thread = threading.Thread(target=flood, daemon=True)
    thread.start()
    assert finished.wait(30)

    assert handle.stop(0.05) is False
    dropped = handle.dropped
    assert 2000 > dropped > 1500
    os.close(reader)  # lets the writing thread end
    handle.detach(10)
    assert handle.dropped >= dropped


async def test_nobody_reads_the_pipe_of_a_running_loop(pipe):
    """The event loop goes on while the pipe is full."""
    reader, stream = pipe
    handle = log.configure("json", "info", stream, capacity=10)
    loop = asyncio.get_running_loop()
    turns = 0
    while handle.dropped < 100:
        log.access_line({"filler": "x" * 1000})
        turned = loop.create_future()
        loop.call_soon(turned.set_result, None)
        await asyncio.wait_for(turned, 10)
        turns += 1
    assert turns >= 100
    os.close(reader)
    handle.detach(10)


def test_a_pipe_that_is_read_again(pipe):
    """A line tells how many were dropped; those written and those dropped are all there were."""
    reader, stream = pipe
    handle = log.configure("json", "info", stream, capacity=50)
    for number in range(1000):
        log.access_line({"number": number, "filler": "x" * 900})
    dropped = handle.dropped
    assert dropped > 0

    octets = everything_from(reader)
    assert handle.stop(30)
    stream.close()
    lines = [json.loads(line) for line in octets().splitlines()]

    numbers = [line["number"] for line in lines if line["message"] == "request"]
    reports = [line["dropped"] for line in lines if line["message"] == "log lines were dropped"]
    assert numbers == sorted(numbers)
    assert len(numbers) + dropped == 1000
    assert sum(reports) == dropped == handle.dropped
    handle.detach()


def test_lines_that_are_long(pipe):
    """Characters are bounded as well as lines."""
    from proxy.log_writer import LineWriter

    reader, stream = pipe
    writer = LineWriter(stream, report=str, capacity_characters=100_000)
    for _ in range(1000):
        writer.put("x" * 1000)
    assert writer.dropped >= 1000 - 100 - 2 * 65
    os.close(reader)
    writer.stop(10)


def test_a_pipe_whose_reader_left(pipe):
    """Lines count as dropped, and nobody is disturbed."""
    reader, stream = pipe
    os.close(reader)
    handle = log.configure("json", "info", stream)
    logging.getLogger("proxy.test").info("text")
    assert handle.stop(10)
    assert handle.dropped == 1
    handle.detach()


def test_a_stream_that_does_not_wait(pipe):
    """Another process made the pipe non-blocking: every line arrives all the same."""
    reader, stream = pipe
    os.set_blocking(stream.fileno(), False)
    handle = log.configure("json", "info", stream)
    for number in range(500):
        log.access_line({"number": number, "filler": "x" * 900})
    octets = everything_from(reader)
    assert handle.stop(30)
    stream.close()
    assert [json.loads(line)["number"] for line in octets().splitlines()] == list(range(500))
    handle.detach()


def test_many_threads(pipe):
    """No line is lost, torn or doubled."""
    reader, stream = pipe
    octets = everything_from(reader)
    handle = log.configure("json", "info", stream)

    def work(name):
        for number in range(300):
            logging.getLogger("proxy.test").info("text", extra={"fields": {"of": f"{name}/{number}"}})

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert handle.stop(30)
    stream.close()
    seen = [json.loads(line)["of"] for line in octets().splitlines()]
    assert sorted(seen) == sorted(f"{name}/{number}" for name in range(8) for number in range(300))
    handle.detach()


def test_after_the_stop(configured, capsys):
    """Lines are dropped and counted, and reach standard error on no other way."""
    written = configured()
    written()
    before = log.dropped()
    logging.getLogger("proxy.test").error(CANARY)
    logging.getLogger("asyncio").error(CANARY)
    assert log.dropped() == before + 2
    assert "".join(capsys.readouterr()) == ""


def run(script, **options):
    code = f"from proxy import log\nimport logging, sys\n{textwrap.dedent(script)}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=50, **options)


def test_a_program_that_ends_without_stopping():
    """What waits is written on the way out."""
    done = run("log.configure('json'); [log.access_line({'number': n}) for n in range(1000)]")
    assert done.returncode == 0
    assert [json.loads(line)["number"] for line in done.stderr.splitlines()] == list(range(1000))


def test_a_program_that_ends_with_a_blocked_pipe(pipe):
    """It ends, within the deadline of the flush, and is not aborted by the interpreter's own flush."""
    _, stream = pipe
    code = "from proxy import log; log.configure('json'); [log.access_line({'x': 'x' * 900}) for n in range(1000)]"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=stream)
    assert process.wait(30) == 0


@pytest.mark.parametrize("stopped", [False, True])
def test_a_program_that_an_exception_ends(stopped):
    """One line with type and frames, even where the log was stopped before; no traceback with its text."""
    done = run(f"""
        log.configure('json')
        try:
            raise ValueError({CANARY!r})
        finally:
            {stopped} and log.stop()
    """)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["exception"] == "ValueError"
    assert json.loads(line)["level"] == "critical"
    assert CANARY.encode() not in done.stderr


# ---- the access log


def test_an_access_line(configured):
    """One line at INFO on proxy.access."""
    written = configured()
    log.access_line({"method": "GET", "status": 200})
    document = json.loads(written())
    assert (document["logger"], document["level"], document["message"]) == ("proxy.access", "info", "request")
    assert (document["method"], document["status"]) == ("GET", 200)


def test_access_lines_of_one_kind_of_refusal(configured):
    """Twenty at once; of other kinds, and of requests that were served, none is left out."""
    written = configured()
    for number in range(100):
        log.access_line({"number": number}, "no-route")
        log.access_line({"number": number})
    log.access_line({}, "bad-request")
    assert written().count('"message":"request"') == 20 + 100 + 1


def test_an_access_line_below_the_level(configured):
    """It is not written."""
    written = configured(level="warning")
    log.access_line({"status": 200})
    assert written() == ""


def test_an_access_line_without_a_configuration(caplog):
    """It is an ordinary record of its logger."""
    with caplog.at_level(logging.INFO, "proxy.access"):
        log.access_line({"status": 200})
    assert caplog.records[0].fields == {"status": 200}


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        (b"/orders", "/orders"),
        (b"/orders?", "/orders?"),
        (b"/orders?id=7&token=abc", "/orders?id=*&token=*"),
        (b"/orders?id=7=8&&x=", "/orders?id=*&&x=*"),
        (b"/orders?eyJhbGciOi", "/orders?*"),
        (b"/orders?a;b=c", "/orders?a;b=*"),
        (b"/o?" + b"n" * 65 + b"=v", "/o?*=*"),
        (b"/orders?a=1?b=2", "/orders?a=*"),
        (b"http://user:pass@host/p?q=1", "http://*@host/p?q=*"),
        (b"http://user:pa/ss@host/p", "http://*@host/p"),
        (b"http://host/p@q?r=1", "http://*@q?r=*"),  # hidden for nothing: a secret with a slash looks like this
        (b"/p/http://user@host?r=1", "/p/http://user@host?r=*"),
        (b"*", "*"),
        (b"/\xff\x1b", "/\xff\x1b"),
        (b"", ""),
    ],
)
def test_a_request_target_for_the_log(target, shown):
    """Path and parameter names stay, every value and bare parameter is hidden, and so is user information."""
    assert log.redact_query(target) == shown


@given(st.binary(max_size=3000))
def test_any_request_target_for_the_log(target):
    """It is bounded."""
    assert len(log.redact_query(target)) <= 1024


def test_many_parameters():
    """The rest is cut, and no value shows."""
    shown = log.redact_query(b"/?" + b"&".join(b"a=secret" for _ in range(100)))
    assert shown == "/?" + "a=*&" * 32 + "…"


# ---- repeated warnings


def test_a_repeated_warning(caplog):
    """So many a second; the next line says how many were held back."""
    now = [100.0]
    limited = log.RateLimited(logging.getLogger("proxy.test"), 2, now=lambda: now[0])
    with caplog.at_level(logging.WARNING, "proxy.test"):
        for _ in range(10):
            limited.warning("malformed", {"peer": "a"})
        assert len(caplog.records) == 2
        assert limited.suppressed == 8
        limited.warning("another")
        assert caplog.records[-1].message == "another"

        now[0] += 0.5
        limited.warning("malformed", {"peer": "b"})
        limited.warning("malformed", {"peer": "c"})

    assert caplog.records[-1].fields == {"peer": "b", "suppressed": 8}
    assert limited.suppressed == 9


def test_a_repeated_warning_of_less_than_one_a_second(caplog):
    """The first comes at once."""
    now = [0.0]
    limited = log.RateLimited(logging.getLogger("proxy.test"), 0.1, now=lambda: now[0])
    with caplog.at_level(logging.WARNING, "proxy.test"):
        for second in range(21):
            now[0] = float(second)
            limited.warning("text")
    assert len(caplog.records) == 3


def test_a_burst_of_warnings(caplog):
    """The first ones come at once, then so many a second."""
    now = [0.0]
    limited = log.RateLimited(logging.getLogger("proxy.test"), 0.5, burst=5, now=lambda: now[0])
    with caplog.at_level(logging.WARNING, "proxy.test"):
        for _ in range(100):
            limited.warning("text")
        assert len(caplog.records) == 5
        for _ in range(4):
            now[0] += 1.0
            limited.warning("text")
    assert len(caplog.records) == 7


def test_messages_that_are_all_different(caplog):
    """They share an allowance once there are too many: what is remembered does not grow."""
    limited = log.RateLimited(logging.getLogger("proxy.test"), 1, now=lambda: 0.0)
    with caplog.at_level(logging.WARNING, "proxy.test"):
        for number in range(10_000):
            limited.warning(f"text {number}")
    assert len(caplog.records) <= 65
    assert limited.suppressed == 10_000 - len(caplog.records)


def test_a_level_that_is_off(caplog):
    """It is not counted as held back."""
    limited = log.RateLimited(logging.getLogger("proxy.test"), 1, now=lambda: 0.0)
    with caplog.at_level(logging.ERROR, "proxy.test"):
        limited.log(logging.DEBUG, "text")
        limited.log(logging.DEBUG, "text")
    assert limited.suppressed == 0
