"""Templates."""

from __future__ import annotations

from typing import Any

import orjson
from pydantic import BaseModel, field_validator

from mailsender.settings.kinds import field
from mailsender.templates.template import Limits, normal_language
from mailsender.templates.variables import bounded


class TemplateSettings(BaseModel):
    """Where templates lie, and what all of them know."""

    templates_dir: str = field(
        "",
        "Folder of templates, which is read at the start; the names in it come before those that are saved in"
        " MongoDB.",
        shown="none",
    )
    templates_language: str = field(
        "en", "Language of the sources in it whose names tell none; a tag such as `ru` or `pt-br`."
    )
    templates_variables: str = field(
        "", "Variables of all templates: a JSON object. Those of a letter come before them.", shown="none"
    )

    @field_validator("templates_language")
    @classmethod
    def _tag(cls, value: str) -> str:
        tag = normal_language(value)
        if not tag:
            raise ValueError("a language tag such as ru or pt-br is needed")
        return tag

    @field_validator("templates_variables")
    @classmethod
    def _variables(cls, value: str) -> str:
        try:
            found = orjson.loads(value or "{}")
        except orjson.JSONDecodeError as error:
            raise ValueError(f"it is no JSON: {error}") from None
        if not isinstance(found, dict):
            raise ValueError("a JSON object is needed")  # noqa: TRY004  what pydantic takes for a fault
        bounded(found, limits=Limits())
        return value

    @property
    def variables(self) -> dict[str, Any]:
        """The variables of all templates."""
        found: dict[str, Any] = orjson.loads(self.templates_variables or "{}")
        return found
