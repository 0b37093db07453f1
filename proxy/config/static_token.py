"""A credential that is a token in a file: somebody else gets it and renews it, and the gateway reads what is there.

``Credential`` is how any credential is written: `grant_type` says which of the two sections is meant.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from proxy.config.credential import CredentialSection
from proxy.config.scalars import Boolean, FilePath, words
from proxy.config.section import Section, key

STATIC = "static"


class StaticSection(Section):
    """A token that another program keeps in a file."""

    grant_type: Annotated[str, words(STATIC)] = key(description="The token is in a file; nothing is asked for one.")
    access_token_file: FilePath = key(
        description="The file that holds the token; read again when it changes, and when the upstream refuses the token.",
        examples=["/var/run/vault/orders-token"],
    )
    required: Boolean = key("true", description="Readiness waits for the first token.")


class _Chosen:
    """Hands a credential to the section that its `grant_type` names."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def chosen(value: Any, info: ValidationInfo) -> Section:
            static = isinstance(value, dict) and value.get("grant_type") == STATIC
            kind: type[Section] = StaticSection if static else CredentialSection
            return kind.model_validate(value, context=info.context)

        forms: list[CoreSchema | tuple[CoreSchema, str]] = [
            handler.generate_schema(kind) for kind in (CredentialSection, StaticSection)
        ]
        return core_schema.with_info_plain_validator_function(
            chosen, json_schema_input_schema=core_schema.union_schema(forms)
        )


Credential = Annotated[CredentialSection | StaticSection, _Chosen()]
