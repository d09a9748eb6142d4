"""How commands read what they are given, and speak to people and to programs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn

import typer

STDIN: Final = Path("-")
"""As a file: standard input."""

_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)
"""A time as RFC 3339 has it."""


def content(file: Path, *, as_json: bool) -> bytes:
    """What stands in a file, or comes from standard input."""
    try:
        return typer.get_binary_stream("stdin").read() if file == STDIN else file.read_bytes()
    except OSError as error:
        text = f"{file} cannot be read: {error.strerror or error}"
        fail(text, status=2, document=error_document(text) if as_json else None)


def print_json(document: Mapping[str, Any]) -> None:
    """Write what a program reads, whatever the terminal's encoding has no letters for."""
    plain = sys.stdout.encoding.lower().replace("-", "") != "utf8"  # JSON has its own way to write the rest
    typer.echo(json.dumps(document, ensure_ascii=plain, indent=2))


def moment(text: str) -> str:
    """A time of a service's answer as people read it, in UTC, to the second. What is none stays as it is."""
    if not _MOMENT.fullmatch(text):
        return text
    try:
        return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError):
        return text


def findings_document(worst: str, findings: Iterable[tuple[str, str, str]]) -> dict[str, Any]:
    """What a check says with --json; each finding is part, level and text."""
    told = [{"part": part, "level": level, "text": text} for part, level, text in findings]
    return {"worst": worst, "findings": told}


def error_document(text: str, problem: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What commands say with --json when they fail; `problem` is the service's own answer, if it gave one."""
    return {"error": {"text": text, "problem": problem}}


def fail(text: str, *, status: int = 1, document: Mapping[str, Any] | None = None) -> NoReturn:
    """End the command: a line for people on standard error, and for programs `document`, if they asked."""
    if document is not None:
        print_json(document)
    typer.echo(f"mailsender: {text}", err=True)
    raise typer.Exit(status)
