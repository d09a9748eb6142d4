"""What the HTTP side takes and answers about templates."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_CLOSED = ConfigDict(frozen=True, extra="forbid")
_TAKEN = ConfigDict(frozen=True, extra="forbid", strict=True)

VERSION_PATTERN = "^[A-Za-z0-9_.-]{1,64}$"
"""A version, as `mailsender.templates.template.VERSION` has it."""

_FILE_PATTERN = (
    r"^[A-Za-z0-9_-]{1,64}\.(([A-Za-z0-9-]{2,35}\.)?(subject|html|mjml|txt)|(schema|sample)\.json)$"
)

Files = Annotated[
    dict[str, str],
    Field(
        description="Texts by the names that the files would have in a folder: `welcome.html`,"
        " `welcome.ru.html`, `welcome.subject`, `welcome.txt`, `welcome.mjml`, `welcome.schema.json`,"
        " `welcome.sample.json`."
    ),
]


class TemplateIn(BaseModel):
    """A template to save."""

    model_config = _TAKEN

    files: Files = Field(
        json_schema_extra={"minProperties": 1, "propertyNames": {"pattern": _FILE_PATTERN}},
    )
    language: str = Field("en", description="The language of those whose names tell none.")


class PreviewIn(BaseModel):
    """What to fill a template in with."""

    model_config = _TAKEN

    variables: dict[str, Any] | None = Field(None, description="Without them: the template's sample.")
    lang: str = Field("", description="The reader's language.")
    version: Annotated[str, Field(pattern=VERSION_PATTERN)] | Annotated[int, Field(ge=1)] | None = Field(
        None, description='Without it: the newest one. `3` and `"3"` are the same.'
    )


class TemplateView(BaseModel):
    """One template, without what is in it."""

    model_config = _CLOSED

    name: str
    version: str = Field(description="The newest one.")
    place: Literal["folder", "mongodb"] = Field(description="`folder` is TEMPLATES_DIR.")
    files: list[str]
    saved_at: datetime | None = Field(description="Null for one of the folder.")


class TemplatesView(BaseModel):
    """All templates, by name."""

    model_config = _CLOSED

    templates: list[TemplateView]


class TemplateFilesView(BaseModel):
    """One version of a template, as its author wrote it."""

    model_config = _CLOSED

    name: str
    version: str
    place: Literal["folder", "mongodb"]
    language: str
    files: Files
    saved_at: datetime | None


class SavedView(BaseModel):
    """What was saved."""

    model_config = _CLOSED

    name: str
    version: str = Field(description="Empty with `check=true`.")
    new: bool = Field(
        description="False where the newest version has just these files already, and with `check=true`."
    )


class PreviewView(BaseModel):
    """The letter that a template makes. A part is null where the template has none."""

    model_config = _CLOSED

    name: str
    version: str
    subject: str | None
    html: str | None
    text: str | None


class TemplateFaultView(BaseModel):
    """One thing that is wrong with a template, or with its variables."""

    model_config = _CLOSED

    template: str = Field(description="The file, such as `welcome.ru.html`, or the template; may be empty.")
    line: int | None = None
    variable: str | None = Field(None, description="Such as `items[3].price`.")
    text: str = Field(description="What is wrong, for a person. It never quotes a value.")
