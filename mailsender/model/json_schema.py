"""Models as JSON Schemas, and how the published documents are written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue, models_json_schema

COMPONENTS: Final = "#/components/schemas/{model}"
"""Where OpenAPI and AsyncAPI keep what several places refer to."""

# They would end a line in editors, and some would not show them at all.
_UNSEEN: Final = {ord(char): f"\\u{ord(char):04x}" for char in "\x7f\x85\u2028\u2029\ufeff"}


class _Schemas(GenerateJsonSchema):
    """Without titles that only repeat a field's name."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  pydantic's signature
        """No field gets one."""
        return False


def components(models: Sequence[tuple[type[BaseModel], JsonSchemaMode]]) -> dict[str, Any]:
    """The schemas of `models` and of what they hold, by name; they refer to each other as components."""
    _, found = models_json_schema(models, ref_template=COMPONENTS, schema_generator=_Schemas)
    definitions: dict[str, Any] = found["$defs"]
    return definitions


def reference(model: type[BaseModel]) -> dict[str, str]:
    """Refers to the component of a model."""
    return {"$ref": COMPONENTS.format(model=model.__name__)}


def schema_of(model: type[BaseModel], mode: JsonSchemaMode) -> JsonSchemaValue:
    """The schema of one model, whole."""
    return model.model_json_schema(mode=mode, schema_generator=_Schemas)


def readable(document: Any) -> str:
    """`document` as JSON that people can read and compare, with a line break at its end."""
    return json.dumps(document, ensure_ascii=False, indent=2).translate(_UNSEEN) + "\n"
