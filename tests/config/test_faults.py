"""How faults read, and that no value gets into one."""

import pickle

from proxy.config.faults import ConfigurationFaults, Fault, Findings, Place, shown, suggestion
from proxy.config.tree import ScalarNode
from proxy.errors import ConfigurationError
from tests.config.written import CREDENTIAL, MINIMAL, faults


def test_five_faults_in_one_file():
    """All are told at once, in the order of the file: form, variable, key, value and cross-reference."""
    text = """\
listen: 127.0.0.1:8080
listen: 127.0.0.1:8081
credentials:
  orders:
    token_endpoint: https://as.example/token
    client_id: ${NO_SUCH_VARIABLE}
    client_secret: ${SECRET}
    scpoes: [a]
routes:
  - name: orders
    match: {path_prefix: /orders}
    upstream: https://api.example/v1
    credential: ordres
    timeouts: {connect: 5 minutes}
"""
    assert faults(text) == [
        "2:1: listen: is a duplicate key; first given in line 1",
        "6:16: credentials.orders.client_id: the environment variable NO_SUCH_VARIABLE is not set, or is empty",
        '8:5: credentials.orders.scpoes: is an unknown key (did you mean "scopes"?)',
        '13:17: routes[0].credential: no credential has this name (did you mean "orders"?)',
        "14:25: routes[0].timeouts.connect: a duration is a number and a unit: 100ms, 30s, 5m, 1h",
    ]


def test_missing_keys_point_at_their_parent():
    """The path names what is missing, the place says where it belongs."""
    text = "credentials:\n  orders:\n    client_secret: ${SECRET}\nroutes:\n  - match: {methods: [GET]}\n"
    assert faults(text) == [
        "2:3: credentials.orders: token_endpoint is missing, or issuer in its place",
        "2:3: credentials.orders.client_id: is missing",
        "5:5: routes[0].credential: is missing",
        "5:5: routes[0].match: one of path_prefix, path_exact and host is needed; `path_prefix: /` is for every path",
        "5:5: routes[0].name: is missing",
        "5:5: routes[0].upstream: is missing",
    ]
    assert faults("version: 1\n") == ["1:1: routes: is missing"]


def test_unknown_keys():
    """At every level, each with the nearest key of that level."""
    text = (
        MINIMAL.replace("path_prefix", "path_perfix")
        + "    set_request_headers: {X-A: {valeu_file: /a}}\nlogs: {levle: info}\nlimits: {body_byte: 1}\nlog: {levle: info}\n"
    )
    assert faults(text) == [
        "8:5: routes[0].match: one of path_prefix, path_exact and host is needed; `path_prefix: /` is for every path",
        '8:13: routes[0].match.path_perfix: is an unknown key (did you mean "path_prefix"?)',
        "11:27: routes[0].set_request_headers.X-A: one of value and value_file is needed",
        '11:33: routes[0].set_request_headers.X-A.valeu_file: is an unknown key (did you mean "value_file"?)',
        '12:1: logs: is an unknown key (did you mean "log"?)',
        '13:10: limits.body_byte: is an unknown key (did you mean "body_bytes"?)',
        '14:7: log.levle: is an unknown key (did you mean "level"?)',
    ]


def test_values_of_the_wrong_kind():
    """A list for a mapping, a mapping for a text, and so on."""
    text = "credentials: [a]\nroutes: {a: b}\naccess: x\nlimits: {head_bytes: [1]}\nlog: {access: {a: b}, level: []}\nadmin: {}\n"
    assert faults(text) == [
        "1:1: credentials: expected a mapping: keys and their values",
        "2:1: routes: expected a list",
        "3:9: access: expected a mapping: keys and their values",
        "4:10: limits.head_bytes: expected a size: 512B, 64KiB, 1MiB",
        "5:7: log.access: expected true or false",
        "5:23: log.level: expected a word",
        "6:1: admin: expected host:port, unix:/path or off",
    ]
    assert faults(CREDENTIAL + "routes: [x, [y], ]\n") == [
        "6:10: routes[0]: expected a mapping: keys and their values",
        "6:13: routes[1]: expected a mapping: keys and their values",
    ]


def test_empty_values():
    """A key without a value is a fault, and not a default."""
    assert faults(MINIMAL.replace("legacy-app", "") + "    header_name: ''\n") == [
        "4:15: credentials.orders.client_id: is empty; leave the key out or give it a value",
        "11:18: routes[0].header_name: is empty; leave the key out or give it a value",
    ]


def test_names_of_routes_and_credentials():
    """One grammar for both; `none` is taken."""
    rule = "a name begins with a-z and goes on with a-z, 0-9, '_', '.' or '-', 63 characters at most"
    assert faults(MINIMAL.replace("  orders:", "  Orders:")) == [
        f"2:3: credentials.Orders: {rule}",
        '10:17: routes[0].credential: no credential has this name (did you mean "Orders"?)',
    ]
    assert faults(MINIMAL.replace("name: orders", f"name: {'a' * 64}")) == [f"7:11: routes[0].name: {rule}"]
    assert faults(MINIMAL.replace("name: orders", "name: none")) == [
        "7:11: routes[0].name: `none` is not a name: it stands for no credential"
    ]
    assert faults(MINIMAL.replace("name: orders", f"name: a{'_.-9' * 15}")) == []


def test_no_value_gets_into_a_fault():
    """Whatever stands in the file or in the environment: a canary in every scalar, and in nothing that is told."""
    canary = "c4n4ry"
    text = f"""\
version: {canary}
listen: {canary}
admin: {canary}
shutdown_delay: {canary}
access: {{allowed_hosts: ["{canary}:1"], allowed_clients: ["{canary}"], browser_requests: "{canary}", allowed_origins: "{canary}",
  require_header: {{name: "{canary} ", value: "{canary}\\n"}}, trusted_proxies: "{canary}"}}
limits: {{head_bytes: "{canary}", field_count: "{canary}"}}
credentials:
  orders:
    token_endpoint: https://{canary}:{canary}@as.example/token
    grant_type: {canary}
    client_id: "{canary}\\t"
    client_secret: {canary}
    client_secret_file: /{canary}
    token_endpoint_auth_method: {canary}
    basic_form_encoding: {canary}
    scope: '"{canary}'
    scopes: {canary}
    resource: ["{canary}"]
    endpoint_params: {canary}
    token_request_headers: {{Accept: "{canary}", X-A: "{canary}\\n"}}
    timeout: {canary}
    tls: {{min_version: "{canary}", key_file: "/{canary}", ca_file: "{canary}\\0"}}
    refresh: {{at_ratio: "{canary}"}}
routes:
  - name: {canary.upper()}
    match: {{host: "{canary}:1", path_prefix: "{canary}", path_exact: "{canary}", methods: ["{canary}"]}}
    upstream: ftp://{canary}
    credential: {canary}
    client_authorization: {canary}
    header_name: "{canary} "
    host_header: "{canary} "
    set_request_headers: {{Host: "{canary}", X-A: " {canary}", X-B: {{value: "{canary}", value_file: "/{canary}"}}}}
    remove_request_headers: ["{canary} "]
    path_policy: {canary}
    rate_limit: {{requests_per_second: "{canary}"}}
    retries: {{budget: "{canary}"}}
    access: {{allowed_clients: ["{canary}"]}}
log: {{format: "{canary}", access: "{canary}"}}
"""
    from_file = faults(text)
    from_variables = faults(text.replace(canary, "${CANARY}"), CANARY=canary)

    assert len(from_file) > 40
    assert len(from_variables) >= len(from_file)
    assert canary not in "\n".join(from_file + from_variables).lower()


def test_a_fault_is_text_with_a_place():
    """And a configuration's faults are a configuration error: sorted, once each, with a hint at the end."""
    late, early = Fault("f", 10, 1, "b", "two"), Fault("f", 9, 4, "a", "one")
    error = ConfigurationFaults([late, early, late], hint="do this")
    assert isinstance(error, ConfigurationError)
    assert error.faults == (early, late)
    assert str(error) == "f:9:4: a: one\nf:10:1: b: two\nhint: do this"
    assert str(Fault("environment", 0, 0, "TOKEN_URL", "is wrong")) == "environment: TOKEN_URL: is wrong"
    assert pickle.loads(pickle.dumps(late)) == late


def test_nodes_do_not_show_their_text():
    """A tree in a traceback or a debugger's line holds no secret."""
    assert "canary" not in repr(ScalarNode("canary", Place("f", 1, 1)))


def test_paths_for_people():
    """Odd keys are quoted, escaped and cut: a line stays a line."""
    assert shown(("routes", 0, "match", "path_prefix")) == "routes[0].match.path_prefix"
    assert shown(("a b", "c\nd", "e" * 100)) == f"'a b'.'c\\nd'.'{'e' * 40}...'"


def test_what_is_below_a_fault_is_covered():
    """So that one mistake is told once."""
    findings = Findings()
    findings.add(Place("f", 1, 1), ("a", 0), "wrong")
    assert findings.covers(("a", 0, "b"))
    assert not findings.covers(("a", 1))


def test_suggestions():
    """Only for what is close."""
    assert suggestion("credentails", ["credentials", "routes"]) == ' (did you mean "credentials"?)'
    assert suggestion("xyz", ["credentials", "routes"]) == ""
    assert suggestion("x" * 10_000, ["y"]) == ""
