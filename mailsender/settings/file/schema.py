"""The file as a whole."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from mailsender.settings.file.kinds import LongWait, Name, Streams, Table, key
from mailsender.settings.file.relays import RelayTable
from mailsender.settings.file.routes import RouteTable

MOST_RELAYS: Final = 100
"""Relays of one service: each has loops, sessions and a document of its own, whether it is used or not."""

MOST_ROUTES: Final = 500
"""Routes of one service: each is looked at for each letter at intake, and claims by itself."""


class SuppressionTable(Table):
    """Addresses that refused mail for good, and get none for a while. Without a key as the settings say."""

    learn: bool | None = key(None, "As `SUPPRESSION_LEARN`: refusals add to the list.", True)
    life: LongWait | None = key(None, "As `SUPPRESSION_LIFE`: how long an entry holds.", "30d")
    transactional: Streams | None = key(
        None,
        "As `SUPPRESSION_TRANSACTIONAL`: streams whose letters may override the list.",
        ["transactional", "codes"],
    )


class FileTables(Table):
    """All that may stand in the file."""

    relays: dict[Name, RelayTable] = key(
        {}, "SMTP servers that letters go to, by their names.", max_length=MOST_RELAYS
    )
    routes: dict[Name, RouteTable] = key(
        {},
        "Which letters go where; the first that fits, in the order of the file, else `default`.",
        max_length=MOST_ROUTES,
    )
    suppression: SuppressionTable | None = key(None, "Addresses that get no letters.", {"learn": True})


def json_schema() -> dict[str, Any]:
    """What editors are told of the file."""
    made = FileTables.model_json_schema(mode="validation", schema_generator=_OfToml)
    return {**made, "title": "The file of MAILSENDER_CONFIG"}


class _OfToml(GenerateJsonSchema):
    """TOML has no null, and durations and parts are written as text: their defaults say nothing there."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  pydantic's signature
        """No field gets one that only repeats its name."""
        return False

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """What may be absent is not null."""
        return self.generate_inner(schema["schema"])

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """Other names than those that fit are not left open."""
        made = super().dict_schema(schema)
        return {**made, "additionalProperties": False} if "patternProperties" in made else made

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Only what can stand there like that is shown."""
        default = schema.get("default")
        if default is None or isinstance(default, float | BaseModel):
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)
