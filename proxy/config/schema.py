"""The whole configuration as one model, and its JSON Schema for editors.

The sections `credentials`, `routes` and `access` have files of their own. Keys that are planned but do not work yet are
not here: ``reserved`` refuses them.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator
from pydantic.json_schema import GenerateJsonSchema

from proxy.config.access import AccessSection, gateway_rules
from proxy.config.network import AdminAddress, ListenAddress, ListenList, is_loopback
from proxy.config.route import RouteSection
from proxy.config.scalars import Boolean, CommaList, Name, Written, count, duration, size, words
from proxy.config.section import ListenTlsSection, Section, key, known, section
from proxy.config.static_token import Credential
from proxy.gateway.settings import Address, LogFormat, LogLevel, TcpAddress


def _version(value: str) -> int:
    if value != "1":
        raise ValueError("expected 1, the only version there is")
    return 1


def _workers(value: str) -> int:
    if value != "1":
        raise ValueError("expected 1")
    return 1


_VERSION = Written(_version, {"enum": [1, "1"]}, "1")
_WORKERS = Written(_workers, {"enum": [1, "1"]}, "1")


class LimitsSection(Section):
    """Bounds for the whole gateway."""

    head_bytes: Annotated[int, size("1KiB", "1MiB")] = key(
        "32KiB", description="Request line and headers, in both directions; more is 431 or 502."
    )
    field_count: Annotated[int, count(10, 10_000)] = key("100", description="Headers of one message.")
    body_bytes: Annotated[int, size("1B", "1024GiB", zero=True)] = key(
        "0", description="The largest request body; 0 = unlimited. Bodies are streamed."
    )
    connections: Annotated[int, count(1, 1_000_000)] = key("10000", description="Client connections at the same time.")
    connections_per_client: Annotated[int, count(0, 1_000_000)] = key(
        "0", description="... of one client address; 0 = no bound of its own."
    )
    head_timeout: Annotated[float, duration("100ms", "1h")] = key("10s", description="To receive a request's head.")
    body_idle_timeout: Annotated[float, duration("100ms", "24h")] = key(
        "30s", description="Between two bytes of a request's body."
    )
    write_idle_timeout: Annotated[float, duration("100ms", "24h")] = key(
        "30s", description="For a client that does not read."
    )
    keepalive_timeout: Annotated[float, duration("100ms", "24h")] = key(
        "75s", description="An idle client connection is closed after this."
    )


class LogSection(Section):
    """What is logged, and how."""

    format: Annotated[str, words(*(word.value for word in LogFormat))] = key(
        "auto", description="auto = text on a terminal, JSON lines otherwise."
    )
    level: Annotated[str, words(*(word.value for word in LogLevel))] = key(
        "info", description="The least severe lines that are written."
    )
    access: Boolean = key("true", description="One line for each request.")
    query: Annotated[str, words("redact", "keep")] = key(
        "redact", description="Whether the access log holds the values of queries; they may be secrets."
    )


class Configuration(Section):
    """Configuration of bearer-proxy. Keys at the top that begin with x- are ignored."""

    version: Annotated[int, _VERSION] = key("1", description="Version of this format.")
    access: AccessSection = section(AccessSection)
    listen: Annotated[tuple[ListenAddress, ...], CommaList, ListenList] = key(
        "127.0.0.1:8080",
        description="Where clients connect: host:port or unix:/path, or a list. One that other machines can reach needs "
        "access.allowed_hosts and access.allowed_clients written out.",
        examples=["0.0.0.0:8080", "unix:/run/bearer-proxy.sock"],
    )
    admin: AdminAddress = key(
        "127.0.0.1:9464", description="Where metrics, health and status are served; off = nowhere.", examples=["off"]
    )
    workers: Annotated[int, _WORKERS] = key("1", description="Processes; only 1 is supported yet.")
    tls: ListenTlsSection | None = key(None, description=(ListenTlsSection.__doc__ or "").strip())
    shutdown_delay: Annotated[float, duration("0s", "1h")] = key(
        "0s", description="After SIGTERM: not ready any more, but still accepting."
    )
    drain_timeout: Annotated[float, duration("0s", "24h")] = key(
        "20s", description="After that: for open requests to finish."
    )
    limits: LimitsSection = section(LimitsSection)
    credentials: dict[Name, Credential] = key({}, description="Ways to get a token, by name; routes refer to them.")
    routes: Annotated[tuple[RouteSection, ...], Field(json_schema_extra={"minItems": 1})] = key(
        description="Which requests go where, and with whose token."
    )
    log: LogSection = section(LogSection)

    @field_validator("access")
    @classmethod
    def _told_to_routes(cls, value: AccessSection, info: ValidationInfo) -> AccessSection:
        known(info).access = gateway_rules(value)
        return value

    @field_validator("listen")
    @classmethod
    def _guarded(cls, value: tuple[Address, ...], info: ValidationInfo) -> tuple[Address, ...]:
        if not value:
            raise ValueError("needs an address")
        if len(set(value)) < len(value):
            raise ValueError("has an address twice")
        if not all(map(is_loopback, value)) and not {"allowed_hosts", "allowed_clients"} <= known(info).access_written:
            raise ValueError(
                "other machines can connect there, and whoever does acts with the gateway's tokens: "
                "access.allowed_hosts and access.allowed_clients must both be written out "
                "(without a file: BEARER_PROXY_ALLOWED_HOSTS and BEARER_PROXY_ALLOWED_CLIENTS)"
            )
        return value

    @field_validator("admin")
    @classmethod
    def _of_its_own(cls, value: Address | None, info: ValidationInfo) -> Address | None:
        any_port = isinstance(value, TcpAddress) and value.port == 0
        if value is not None and not any_port and value in info.data.get("listen", ()):
            raise ValueError("is an address of `listen`; it must be one of its own")
        return value

    @field_validator("routes")
    @classmethod
    def _at_least_one(cls, value: tuple[RouteSection, ...]) -> tuple[RouteSection, ...]:
        if not value:
            raise ValueError("needs a route")
        return value


def json_schema() -> dict[str, Any]:
    """Returns the JSON Schema (draft 2020-12) of a configuration file."""
    schema = Configuration.model_json_schema(mode="validation")
    tidied = {
        "$schema": GenerateJsonSchema.schema_dialect,
        "$comment": "made by `bearer-proxy schema`",
        **_tidy(schema),
        "title": "bearer-proxy configuration",
        "patternProperties": {"^x-": {}},
    }
    return dict(tidied)


def _tidy(schema: dict[str, Any]) -> dict[str, Any]:
    """Returns the schema as an editor wants it: no title and no null default for each key, `true` and `100` bare."""
    out = dict(schema)
    if out.get("default", 0) is None:
        del out["default"]
    elif isinstance(out.get("default"), str) and _admits_bare(schema):
        out["default"] = json.loads(out["default"])
    if "patternProperties" in out:
        out.setdefault("additionalProperties", False)
    for group in ("properties", "$defs"):
        for name, member in schema.get(group, {}).items():
            tidied = _tidy(member)
            if group == "properties":
                tidied.pop("title", None)
            else:
                tidied["title"] = name.removesuffix("Section")
            out[group] = {**out[group], name: tidied}
    if isinstance(choices := schema.get("anyOf"), list):
        kept = [_tidy(choice) for choice in choices if choice != {"type": "null"}]
        out["anyOf"] = kept
        if len(kept) == 1 and "properties" not in out:  # an optional section
            del out["anyOf"]
            out = {**kept[0], **out}
    return out


def _admits_bare(schema: dict[str, Any]) -> bool:
    kinds = {choice.get("type", "integer" if "const" in choice else None) for choice in schema.get("anyOf", [])}
    return (
        not kinds.isdisjoint({"boolean", "integer", "number"})
        and schema["default"][:1] in "tf0123456789"
        and (schema["default"] in {"true", "false"} or schema["default"].replace(".", "", 1).isdigit())
    )
