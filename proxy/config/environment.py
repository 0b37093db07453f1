"""The configuration without a file: eight variables make one credential and one route for everything.

Written as a tree with the same references that a file would have, so that what is missing or wrong is found by the same
code, and told with the variable's name. ``config/proxy.yaml`` is this tree as a file; a test compares the two.
"""

from __future__ import annotations

from proxy.config.faults import Place
from proxy.config.tree import Entry, ListNode, MappingNode, Node, ScalarNode

FILE = "environment"  # stands for the file's name in faults
DEFAULT_NAME = "default"  # of the one credential and the one route

_NOWHERE = Place(FILE)


def tree() -> MappingNode:
    """Returns the configuration with references to the variables."""
    secret = Place(FILE, label="CLIENT_SECRET or CLIENT_SECRET_FILE")  # the only thing the credential can be blamed for
    return _mapping(
        listen=_optional("BEARER_PROXY_LISTEN"),
        admin=_optional("BEARER_PROXY_ADMIN"),
        access=_mapping(
            allowed_hosts=_optional("BEARER_PROXY_ALLOWED_HOSTS"),
            allowed_clients=_optional("BEARER_PROXY_ALLOWED_CLIENTS"),
        ),
        credentials=MappingNode(
            {
                DEFAULT_NAME: Entry(
                    secret,
                    _mapping(
                        token_endpoint=_needed("TOKEN_URL"),
                        client_id=_needed("CLIENT_ID"),
                        client_secret=_optional("CLIENT_SECRET"),
                        client_secret_file=_optional("CLIENT_SECRET_FILE"),
                        scope=_optional("SCOPE"),
                        audience=_optional("AUDIENCE"),
                    ),
                )
            },
            _NOWHERE,
        ),
        routes=ListNode(
            (
                _mapping(
                    name=ScalarNode(DEFAULT_NAME, _NOWHERE),
                    match=_mapping(path_prefix=ScalarNode("/", _NOWHERE)),
                    upstream=_needed("UPSTREAM_URL"),
                    credential=ScalarNode(DEFAULT_NAME, _NOWHERE),
                ),
            ),
            _NOWHERE,
        ),
    )


def _mapping(**values: Node) -> MappingNode:
    return MappingNode({key: Entry(value.place, value) for key, value in values.items()}, _NOWHERE)


def _needed(variable: str) -> ScalarNode:
    return ScalarNode(f"${{{variable}}}", Place(FILE, label=variable))


def _optional(variable: str) -> ScalarNode:
    return ScalarNode(f"${{{variable}:-}}", Place(FILE, label=variable))
