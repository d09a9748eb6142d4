"""Letters that name a template are filled in when they are taken in.

What comes out is a letter as if its publisher had written it himself: subject, body and text, and nothing of
the template. So it is sent, repeated and reported like any other. A personal one keeps the names of what it
is made of, for it is made once for each recipient when it is sent; what that takes is pinned now.

The digest of such a letter is of what was published. Read again, it may be other words, for its template has
a newer version; it is the same letter nevertheless.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import structlog

from mailsender.model.errors import Rejected, Unavailable
from mailsender.model.letter import Letter, Status
from mailsender.model.text import cleaned, octets
from mailsender.templates.compiled import Rendered
from mailsender.templates.library import Found, Library
from mailsender.templates.pins import Filling, Pinner
from mailsender.templates.port import PinStore
from mailsender.templates.template import TemplateError

log = structlog.get_logger()

BREATH: Final = 0.005
"""Seconds of rendering after which others have their turn."""

_MARK: Final = '"Template":'
"""Stands in the further keys of each letter that has one; in others it may stand in a text."""


class Filler:
    """Fills letters in, from the templates of a library and with the variables of all letters.

    `most` is how many bytes a body may have.
    """

    def __init__(self, library: Library, pins: PinStore, variables: Mapping[str, Any], *, most: int) -> None:
        self._library = library
        self._pinner = Pinner(pins, variables)
        self._variables = variables
        self._most = most
        self._since = 0.0

    async def fill(self, letter: Letter, now: datetime) -> Letter:
        """`letter` with what its template makes of it; an error, finished at `now`, where that fails.

        One that names no template stays as it is.

        Raises:
            Unavailable: the store of templates does not answer.
        """
        if _MARK not in letter.mail or letter.status is not Status.AWAITING:
            return letter
        keys = json.loads(letter.mail)
        if "Template" not in keys:
            return letter
        try:
            found = await self._library.found(keys["Template"], keys.get("Lang", ""))
            filled = self._filled(letter, keys, found)
            if keys.get("Personal") is True:
                pin = await self._pinner.pin(found)
                filled = filled.evolve(mail=_written({**json.loads(filled.mail), "Pin": pin}))
        except (TemplateError, Rejected) as error:
            filled = _failed(letter, str(error), now)
        except Unavailable:
            raise
        except Exception as error:
            log.error(
                "template_raised",
                letter=letter.id,
                error=type(error).__name__,
                exc_info=error,
                action="the letter is reported as error; the others are taken in",
            )
            filled = _failed(letter, f"internal error ({type(error).__name__})", now)
        await self._breathe()
        return filled

    async def tried(self, letter: Letter) -> tuple[Letter, Filling | None]:
        """As `fill`, but nothing is kept: with it comes what a personal letter's messages are made with.

        Raises:
            TemplateError: it cannot be filled in.
            Unavailable: the store of templates does not answer.
        """
        keys = json.loads(letter.mail) if _MARK in letter.mail else {}
        if "Template" not in keys:
            return letter, None
        found = await self._library.found(keys["Template"], keys.get("Lang", ""))
        filling = Filling(found.compiled, self._variables) if keys.get("Personal") is True else None
        return self._filled(letter, keys, found), filling

    def _filled(self, letter: Letter, keys: Mapping[str, Any], found: Found) -> Letter:
        """With what `found` makes of it; a personal one with the version that it will be made from."""
        if keys.get("Personal") is True:
            found.compiled.whole(letter.subject)
            version = f"{found.compiled.name}@{found.compiled.version}"
            return letter.evolve(mail=_written({**keys, "Template": version}))
        made = found.compiled.letter(letter.subject, self._variables, keys.get("Variables", {}))
        html = made.html or ""
        size = max(octets(html), octets(made.text or ""))
        if size > self._most:
            reason = f"it makes a body of {size} bytes; {self._most} are allowed"
            raise TemplateError(reason, template=found.compiled.name)
        return letter.evolve(subject=made.subject or "", body=html, mail=_rest(keys, made))

    async def _breathe(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() - self._since > BREATH:
            await asyncio.sleep(0)
            self._since = loop.time()


def _rest(keys: Mapping[str, Any], made: Rendered) -> str:
    """What is left to say beside subject and body."""
    rest = {key: value for key, value in keys.items() if key not in {"Template", "Variables", "Lang"}}
    if made.text is not None:
        rest["TextBody"] = made.text
    return _written(rest) if rest else ""


def _written(keys: Mapping[str, Any]) -> str:
    """As `intake.batch` writes them."""
    return json.dumps(keys, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _failed(letter: Letter, why: str, now: datetime) -> Letter:
    """Without what it was to be filled in with, which nobody reads any more."""
    return letter.evolve(
        status=Status.ERROR,
        reason=cleaned(f"Template cannot be filled in: {why}"),
        mail="",
        recipients=(),
        finished_at=now,
    )
