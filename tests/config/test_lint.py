"""What `check` warns of, each at its place; and that a plain configuration is silent."""

from pathlib import Path

import pytest

from tests.config.written import CREDENTIAL, FILE, MINIMAL, ROUTE, loaded, with_credential, with_route
from tests.oauth.certificates import self_signed


def warnings(text: str, mode: int = 0o600, **environ: str) -> list[str]:
    result = loaded(text, **environ)
    Path(FILE).chmod(mode)
    return [str(warning).removeprefix(f"{FILE}:") for warning in result.warnings()]


def test_nothing_to_warn_of():
    """A configuration as the README shows it."""
    assert warnings(MINIMAL, mode=0o644) == []


IN_FILE = "a secret stands in the file; refer to a variable (${NAME}) or to a file of its own"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MINIMAL.replace("${SECRET}", "c4n4ry"), f"5:20: credentials.orders.client_secret: {IN_FILE}"),
        (
            with_route("set_request_headers: {X-Api-Key: c4n4ry, X-Team: legacy}"),
            f"11:38: routes[0].set_request_headers.X-Api-Key: looks as if {IN_FILE}",
        ),
        (
            with_route("set_request_headers: {X-Auth-Token: {value: c4n4ry}}"),
            f"11:49: routes[0].set_request_headers.X-Auth-Token.value: looks as if {IN_FILE}",
        ),
        (
            with_credential("token_request_headers: {X-Secret: c4n4ry}"),
            f"6:39: credentials.orders.token_request_headers.X-Secret: looks as if {IN_FILE}",
        ),
        (
            "access: {require_header: {name: X-Key, value: c4n4ry}}\n" + MINIMAL,
            f"1:47: access.require_header.value: {IN_FILE}",
        ),
    ],
)
def test_a_secret_in_the_file(text, expected):
    """A file is copied, committed and shown; a reference is not a secret."""
    assert warnings(text) == [expected]


def test_a_secret_in_a_file_that_others_can_read():
    """Is worse, and said so."""
    (warning,) = warnings(MINIMAL.replace("${SECRET}", "c4n4ry"), mode=0o644)
    assert "in the file, which every user of this machine can read; refer to" in warning


@pytest.mark.parametrize("key", ["client_secret_file", "key_file"])
def test_a_secret_file_that_others_can_read(key):
    """Keys of certificates count as secrets."""
    made = self_signed(Path(), "made")
    Path("secret").write_text(made.cert_file.read_text() + made.key_file.read_text())
    if key == "client_secret_file":
        text = MINIMAL.replace("client_secret: ${SECRET}", "client_secret_file: secret")
        place = "5:25: credentials.orders.client_secret_file"
    else:
        text = with_route("tls: {cert_file: secret, key_file: secret}")
        place = "11:40: routes[0].tls.key_file"
    Path("secret").chmod(0o604)
    assert warnings(text) == [f"{place}: every user of this machine can read the file (chmod o-r)"]
    Path("secret").chmod(0o640)
    assert warnings(text) == []


def test_an_env_file_that_others_can_read():
    """Only if a secret comes from it, and the file's name is told in the place of a line."""
    env_file = Path(".env")
    told = ".env: every user of this machine can read the file, and a secret in it (chmod o-r)"
    for text, mode, expected in (
        ("SECRET=x\nTEAM=y\n", 0o644, [told]),
        ("SECRET=x\n", 0o640, []),
        ("TEAM=y\n", 0o644, []),
        ("", 0o644, []),
    ):
        env_file.write_text(text)
        env_file.chmod(mode)
        assert warnings(MINIMAL) == expected
    env_file.write_text("KEY=x\n")
    assert warnings(with_route("set_request_headers: {X-Key: '${KEY}'}"), KEY="from the environment") == [told]


@pytest.mark.parametrize(
    "value", ["$SECRET", "$client_secret", "Bearer $SECRET!", "${SECRET:-$OTHER_SECRET}", "$$SECRET"]
)
def test_a_variable_without_braces(value):
    """It is the text itself, which hardly anybody means."""
    warning = "holds a $NAME without braces, which is taken as it is; a variable is written ${NAME}"
    found = [text for text in warnings(with_credential(f"audience: '{value}'")) if "braces" in text]
    assert found == [f"6:15: credentials.orders.audience: {warning}"]


@pytest.mark.parametrize("value", ["/$metadata", "pa$word", "$5", "${SECRET}", "$${SECRET}", "a $", "x$ab"])
def test_a_dollar_that_is_one(value):
    """Neither is what a variable's value holds, nor what nobody reads."""
    text = "x-note: $SECRET\n" + with_credential(f"audience: '{value}'")
    assert warnings(text, SECRET="a $LITERAL") == []


def test_two_client_secrets():
    """Each is looked at as a single one is."""
    text = MINIMAL.replace("${SECRET}", "['${SECRET}', c4n4ry]")
    assert warnings(text) == [f"5:34: credentials.orders.client_secret[1]: {IN_FILE}"]
    Path("secret").write_text("x")
    Path("secret").chmod(0o604)
    text = MINIMAL.replace("client_secret: ${SECRET}", "client_secret_file: [secret, /dev/null]")
    assert warnings(text)[:1] == [
        "5:26: credentials.orders.client_secret_file[0]: every user of this machine can read the file (chmod o-r)"
    ]


@pytest.mark.parametrize("value", ["x ", " x", "x\n", "\u00a0x"])
def test_white_space_that_came_along(value):
    """From a variable, as a copied secret often has it."""
    assert warnings(MINIMAL, SECRET=value) == [
        "5:20: credentials.orders.client_secret: begins or ends with white space, which is sent as part of it"
    ]


def test_a_control_character_in_a_secret():
    """Is sent as it is."""
    assert warnings(MINIMAL, SECRET="x\ty") == [
        "5:20: credentials.orders.client_secret: holds a control character, which is sent as part of it"
    ]


def test_a_comma_between_scopes():
    """Is grammatical, and rarely meant."""
    rule = "holds a comma, which is part of a scope's name; spaces separate scopes"
    assert warnings(with_credential("scope: a,b")) == [f"6:12: credentials.orders.scope: {rule}"]
    assert warnings(with_credential("scopes: ['a', 'b,c']")) == [f"6:19: credentials.orders.scopes[1]: {rule}"]


def test_plain_http():
    """What was allowed is still told; loopback is not."""
    as_ = MINIMAL.replace("https://as.example", "http://as.example").replace(
        "${SECRET}", "${SECRET}\n    allow_plain_http: true"
    )
    assert warnings(as_) == [
        "3:21: credentials.orders.token_endpoint: plain http: the client secret can be read on the way"
    ]
    api = MINIMAL.replace("https://api.example", "http://api.example")
    assert warnings(api + "    allow_plain_http: true\n") == [
        "9:15: routes[0].upstream: plain http: the token and the requests can be read on the way"
    ]
    local = MINIMAL.replace("https://as.example", "http://localhost:1").replace(
        "https://api.example", "http://127.0.0.1"
    )
    assert warnings(local) == []
    public = "routes:\n  - {name: a, match: {path_prefix: /}, upstream: 'http://a.example', credential: none}\n"
    assert warnings(public) == ["2:50: routes[0].upstream: plain http: requests can be read on the way"]


def test_a_credential_that_no_route_uses():
    """Its tokens would be got for nothing."""
    text = CREDENTIAL + "  spare: {token_endpoint: 'https://a/', client_id: a, client_secret: '${SECRET}'}\n" + ROUTE
    assert warnings(text) == ["6:3: credentials.spare: no route uses this credential"]


def routes(*matches: str) -> str:
    line = "  - {{name: r{n}, match: {match}, upstream: 'https://a.example', credential: orders}}\n"
    return CREDENTIAL + "routes:\n" + "".join(line.format(n=n, match=match) for n, match in enumerate(matches))


TAKEN = "the route can never match: other routes take every request that it is for"


@pytest.mark.parametrize(
    ("matches", "expected"),
    [
        (["{path_prefix: /a}", "{path_exact: /a}", "{path_prefix: /a/}"], [f"7:16: routes[0].match: {TAKEN}"]),
        (["{path_prefix: /a}", "{path_exact: /a}"], []),
        (["{path_prefix: /}", "{path_prefix: /a}", "{path_exact: /}"], []),
        (["{path_prefix: /a}", "{host: b.example, path_prefix: /a}"], []),
        (["{host: '*.example', path_prefix: /a}", "{host: b.example, path_prefix: /}"], []),
        (["{path_prefix: /a, methods: [GET]}", "{path_prefix: /a, methods: [POST]}"], []),
        (
            ["{path_prefix: /a/../b}"],
            ["7:16: routes[0].match: the route can never match: its path is ambiguous (a dot segment), and path_policy refuses those"],
        ),
        (["{path_prefix: /a/../b}, path_policy: raw"], []),
        (["{path_exact: //a}"], ["7:16: routes[0].match: the route can never match: its path is ambiguous (a leading //), and path_policy refuses those"]),
    ],
)  # fmt: skip
def test_a_route_that_can_never_match(matches, expected):
    """Only what is certain: another host, method or a path between leaves a way."""
    assert warnings(routes(*matches)) == expected


def test_doors_that_stand_open():
    """Any Host lets a web page in; any network lets everybody in, unless a key is asked for."""
    any_host = "access: {allowed_hosts: ['*']}\n" + MINIMAL
    (warning,) = warnings(any_host)
    assert warning.startswith("1:10: access.allowed_hosts: any Host: ")
    everybody = "listen: 0.0.0.0:80\naccess: {allowed_hosts: [a], allowed_clients: [0.0.0.0/0]%s}\n" + MINIMAL
    (warning,) = warnings(everybody % "")
    assert warning.startswith("2:30: access.allowed_clients: everyone who can reach the gateway")
    assert warnings(everybody % ", require_header: {name: X-Key, value: '${SECRET}'}") == []
    assert warnings("access: {allowed_clients: [0.0.0.0/0]}\n" + MINIMAL) == []


def test_a_refresh_setting_without_effect():
    """`before_expiry` counts only for lives longer than twice as long."""
    assert warnings(with_credential("refresh: {before_expiry: 30m}\nmax_lifetime: 1h")) == [
        "6:30: credentials.orders.refresh.before_expiry: has no effect: no token lives longer than twice this (max_lifetime)"
    ]


def test_several_warnings():
    """In the order of the file, and without a value."""
    text = with_credential("scope: a,b").replace("${SECRET}", "' c4n4ry'")
    found = warnings(text)
    assert [line.split(": ")[1] for line in found] == [
        "credentials.orders.client_secret", "credentials.orders.client_secret", "credentials.orders.scope",
    ]  # fmt: skip
    assert "c4n4ry" not in "\n".join(found)
