"""What every section of the configuration is made from: strict models, documented keys, secrets that may stand in files.

A check between keys of one section is a field validator that reads ``info.data``, so that it points at one key and runs
even if other keys are faulty; a check against other sections reads the ``Known`` of the validation context. Order of
fields therefore matters: a field sees those above it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, LiteralString

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError

from proxy.config.headers import value_fault
from proxy.config.scalars import FilePath, SecretText, Text, Written
from proxy.gateway.settings import AccessRules
from proxy.routing import Route
from proxy.secret import FixedSecret, OverlappingSecrets, Secret, SecretFile, SecretSource

KEY_FAULT: Literal["key_fault"] = "key_fault"


def _min_version(value: str) -> str:
    if value not in {"1.2", "1.3"}:
        raise ValueError("expected 1.2 or 1.3")
    return value


# an editor reads an unquoted 1.2 as a number
MIN_VERSION = Written(_min_version, {"enum": ["1.2", "1.3", 1.2, 1.3]}, "1.2 or 1.3")


class Section(BaseModel):
    """A mapping of the configuration: unknown keys are faults, defaults are written as an operator would write them."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        hide_input_in_errors=True,
        arbitrary_types_allowed=True,
    )

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """Shows no value: any of them may be a misplaced secret."""
        return []


@dataclass(slots=True)
class Known:
    """What one section must know of others; filled before and while the sections are validated."""

    credentials: frozenset[str]  # every name that the file gives, faulty or not
    access_written: frozenset[str]  # keys that `access` really has
    access: AccessRules | None = None  # once it was found to be right
    routes: dict[tuple[object, ...], list[Route]] = field(default_factory=dict)  # by host and path, to find ties
    route_names: set[str] = field(default_factory=set)


def known(info: ValidationInfo) -> Known:
    """Returns the context of the validation under way."""
    assert isinstance(info.context, Known)
    return info.context


def key(default: Any = ..., *, description: str, examples: list[Any] | None = None) -> Any:
    """Declares a key. The default is the text that an operator would write; without one the key must be given."""
    return Field(default, description=description, examples=examples)


def section(kind: type[Section]) -> Any:
    """Returns the default of a key that is a section itself: all of that section's defaults."""
    return Field(default_factory=dict, description=(kind.__doc__ or "").strip(), validate_default=True)


def faults_at(found: Iterable[tuple[tuple[str | int, ...], str]], *, of_keys: bool = False) -> None:
    """Raises one validation error for all (place within the value, message), if there is any.

    With `of_keys`, it is the key there that is wrong, and not its value.
    """
    kind: LiteralString = KEY_FAULT if of_keys else "fault"
    errors = [
        InitErrorDetails(type=PydanticCustomError(kind, "{message}", {"message": message}), loc=place, input=None)
        for place, message in found
    ]
    if errors:
        raise ValidationError.from_exception_data("section", errors, hide_input=True)


def either(info: ValidationInfo, first: str, given: object, *, needed: bool = True) -> None:
    """Raises ValueError unless exactly one of the key `first` and this one is given; none is fine if not `needed`."""
    if first not in info.data:
        return  # faulty itself
    if info.data[first] is not None and given is not None:
        raise ValueError(f"excludes {first}: give one of the two")
    if needed and info.data[first] is None and given is None:
        raise ValueError(f"one of {first} and {info.field_name} is needed")


def secret_source(value: Secret | None, file: Path | None) -> SecretSource:
    """Returns the source of a secret that is given in one of the two ways."""
    if value is not None:
        return FixedSecret(value)
    assert file is not None  # the schema asks for one of them
    return SecretFile(file)


def client_secret_source(values: tuple[Secret, ...] | None, files: tuple[Path, ...] | None) -> SecretSource:
    """Returns the source of a client's secret, or of its current and its next one."""
    sources: list[SecretSource] = [*map(FixedSecret, values or ()), *map(SecretFile, files or ())]
    return sources[0] if len(sources) == 1 else OverlappingSecrets(tuple(sources))


class SecretValue(Section):
    """A value that is a secret: written here, or in a file that is read again when it changes."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["value"]}, {"required": ["value_file"]}]})

    value: SecretText | None = key(None, description="The value; better a reference such as ${NAME}, or value_file.")
    value_file: FilePath | None = key(None, description="A file that holds the value.", examples=["/run/secrets/key"])

    @field_validator("value")
    @classmethod
    def _grammatical(cls, value: Any) -> Any:
        if value is not None and (fault := value_fault(value.reveal())) is not None:
            raise ValueError(fault)
        return value

    @field_validator("value_file")
    @classmethod
    def _one_of_both(cls, value: Any, info: ValidationInfo) -> Any:
        either(info, "value", value)
        return value

    def source(self) -> SecretSource:
        """Returns where the value comes from."""
        return secret_source(self.value, self.value_file)


class HeaderValue(SecretValue):
    """A header's value: a text, or a mapping with value or value_file."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, data: Any) -> Any:
        return {"value": data} if isinstance(data, str) else data

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Admits the short form too."""
        return {"anyOf": [{"type": ["string", "number", "boolean"]}, handler(schema)]}


class TlsSection(Section):
    """TLS towards a server. The certificate and the host name are always verified; there is no switch for that."""

    ca_file: FilePath | None = key(
        None,
        description="Certificates of the authorities to trust, PEM; the system's if absent.",
        examples=["/etc/ssl/internal-ca.pem"],
    )
    cert_file: FilePath | None = key(
        None, description="Our client certificate and its chain, PEM.", examples=["/run/secrets/tls.crt"]
    )
    key_file: FilePath | None = key(
        None, description="The client certificate's private key, PEM.", examples=["/run/secrets/tls.key"]
    )
    server_name: Text | None = key(
        None, description="The name to ask for and to verify, if it is not the URL's host.", examples=["api.internal"]
    )
    min_version: Annotated[str, MIN_VERSION] = key("1.2", description="The lowest TLS version that is spoken.")

    @field_validator("key_file")
    @classmethod
    def _with_certificate(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("cert_file", value) is None:
            raise ValueError("needs cert_file: a key without its certificate is of no use")
        return value


class ListenTlsSection(Section):
    """TLS towards clients, on every address of `listen`. Lowest version 1.2; files are read again when they change."""

    cert_file: FilePath = key(
        description="The gateway's certificate and the chain above it, PEM.", examples=["/run/secrets/tls.crt"]
    )
    key_file: FilePath | None = key(
        None,
        description="Its private key, PEM; not needed if cert_file holds it too.",
        examples=["/run/secrets/tls.key"],
    )
    client_ca_file: FilePath | None = key(
        None,
        description="Demands a certificate of each client, from one of these authorities, PEM.",
        examples=["/etc/bearer-proxy/clients-ca.pem"],
    )
