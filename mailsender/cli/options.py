"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        envvar="MAILSENDER_URL",
        help="Where the service listens. Else that of `mailsender dev` here, else by HTTP_HOST, HTTP_PORT.",
        show_default=False,
    ),
]
Key = Annotated[
    str,
    typer.Option(
        "--key",
        metavar="KEY",
        envvar="HTTP_API_KEY",
        help="The service's X-API-KEY. Others on the machine can read options: prefer the variable, or a file"
        " in MAILSENDER_SECRETS_DIR.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, for programs.")]
