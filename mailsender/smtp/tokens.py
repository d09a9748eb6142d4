"""Access tokens for the login to a relay: from a file, or granted, kept, and renewed before they end."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import structlog

from mailsender.model.clock import Clock
from mailsender.model.text import one_line
from mailsender.net.tls import Renewed, client_context
from mailsender.smtp.bearer import is_token
from mailsender.smtp.credentials import TokenEndpoint, TokenFile
from mailsender.smtp.token_endpoint import Answer, Ask, Granted, NoToken, ask, granted_by

log = structlog.get_logger()

AHEAD: Final = 300.0
"""Seconds before its end at which a token is renewed, or a quarter of its life if that is less.

A session may take minutes from the token to the login, clocks differ, and an endpoint that is away for some
minutes then stops nobody."""

FIRST_PAUSE, LAST_PAUSE = 10.0, 60.0
"""Seconds between two questions that granted nothing, doubled each time: the endpoint is others', too, and
who mends it waits for a minute at most."""

TOO_NEW: Final = 60.0
"""Seconds of age below which a token that a relay refuses is not replaced: the next would fare no better."""

MAX_FILE: Final = 64 * 1024
"""Octets that a file with a token may have; its JSON may hold other tokens beside it."""


class Tokens(Protocol):
    """Where the access tokens of one relay come from; shared by all sessions with it."""

    async def get(self) -> str:
        """One that is good as far as one knows.

        Raises:
            NoToken: there is none.
        """
        ...

    async def another_than(self, refused: str) -> str | None:
        """One in place of `refused`, which the relay did not take; None where there is no other.

        It had not ended as far as one knew, but its user, or an administrator, can end it before its time.
        """
        ...

    def advice(self) -> str:
        """What to look at where the relay takes none of them."""
        ...


def tokens_of(source: TokenFile | TokenEndpoint, clock: Clock, relay: str) -> Tokens:
    """Those that `source` names, for the relay of this name."""
    if isinstance(source, TokenFile):
        return FileTokens(source.path, clock)
    return EndpointTokens(source, clock, relay)


# --- from a file ---------------------------------------------------------------------------------


class FileTokens:
    """Read anew for each login, as something else renews the file."""

    def __init__(self, path: str, clock: Clock) -> None:
        self._path = Path(path)
        self._clock = clock
        self._changed = 0.0  # epoch seconds

    async def get(self) -> str:
        """See `Tokens`."""
        text, self._changed = await asyncio.to_thread(_read, self._path, "SMTP_TOKEN_FILE")
        token = _token_in(text)
        if not is_token(token):
            raise NoToken(f"SMTP_TOKEN_FILE={self._path} holds no access token", permanent=True)
        return token

    async def another_than(self, refused: str) -> str | None:
        """See `Tokens`."""
        try:
            token = await self.get()
        except NoToken:
            return None
        return token if token != refused else None

    def advice(self) -> str:
        """See `Tokens`."""
        minutes = max(0.0, self._clock.epoch() - self._changed) / 60
        return (
            f"see SMTP_USER, and what renews SMTP_TOKEN_FILE={self._path}, which last changed"
            f" {minutes:.0f} minutes ago"
        )


def _token_in(text: str) -> str:
    """The token alone, or `access_token` of a JSON object, as an endpoint's answer is when it is kept."""
    if not text.startswith("{"):
        return text
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    token = told.get("access_token") if isinstance(told, dict) else None
    return token if isinstance(token, str) else ""


def _read(path: Path, setting: str) -> tuple[str, float]:
    """What a file holds, without white space around it, and when it last changed.

    Raises:
        NoToken: it cannot be read, or is none.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise NoToken(f"{setting}={path} is no file", permanent=True)
        with path.open("rb") as file:
            text = file.read(MAX_FILE).decode("ascii", "replace")
            return text.strip(), os.fstat(file.fileno()).st_mtime
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise NoToken(f"{setting}={path} cannot be read: {why}", permanent=True) from None


# --- from an endpoint ----------------------------------------------------------------------------


class _Held(NamedTuple):
    token: str
    since: float  # monotonic seconds, as the others
    renew_at: float
    ends: float


class EndpointTokens:
    """Granted by an endpoint; one question at a time, for all who wait.

    A renewal that was begun goes on when who asked for it is gone: a refresh token that came with the answer
    may be the only one that is still good.
    """

    def __init__(self, endpoint: TokenEndpoint, clock: Clock, relay: str, ask: Ask = ask) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._relay = relay
        self._ask = ask
        self._tls = Renewed(lambda: client_context(endpoint.ca_file), endpoint.ca_file)
        self._refresh = RefreshToken(endpoint.refresh_file, relay) if endpoint.refresh_file else None
        self._held: _Held | None = None
        self._renewal: asyncio.Task[_Held] | None = None
        self._failure: NoToken | None = None
        self._again = 0.0  # monotonic seconds
        self._pause = 0.0

    async def get(self) -> str:
        """See `Tokens`. One that is about to end will do where no other can be had."""
        held, now = self._held, self._clock.monotonic()
        if held is not None and now < held.renew_at:
            return held.token
        try:
            return (await self._renewed()).token
        except NoToken:
            if held is not None and now < held.ends:
                return held.token
            raise

    async def another_than(self, refused: str) -> str | None:
        """See `Tokens`."""
        held = self._held
        if held is not None and held.token == refused:
            if self._clock.monotonic() < held.since + TOO_NEW:
                return None
            try:
                held = await self._renewed()
            except NoToken:
                return None
        return held.token if held is not None and held.token != refused else None

    def advice(self) -> str:
        """See `Tokens`."""
        return "see SMTP_USER, SMTP_TOKEN_SCOPE, and whether the application may send for this user"

    async def _renewed(self) -> _Held:
        if self._renewal is None:
            if self._failure is not None and self._clock.monotonic() < self._again:
                raise NoToken(str(self._failure), permanent=self._failure.permanent)
            self._renewal = asyncio.get_running_loop().create_task(self._renew())
            self._renewal.add_done_callback(self._ended)
        return await asyncio.shield(self._renewal)

    async def _renew(self) -> _Held:
        refresh_token = await asyncio.to_thread(self._refresh.current) if self._refresh is not None else ""
        try:
            context = await asyncio.to_thread(self._tls.get)
        except OSError as error:
            text = f"the token endpoint's CA file {self._endpoint.ca_file} is no readable PEM file: {error}"
            raise NoToken(text, permanent=True) from error
        asked_at = self._clock.monotonic()
        answer: Answer = await self._ask(self._endpoint, refresh_token, context)
        granted: Granted = granted_by(answer, self._endpoint, refresh_token)
        if self._refresh is not None and granted.refresh_token not in {"", refresh_token}:
            await asyncio.to_thread(self._refresh.replace, granted.refresh_token)
        ahead = min(AHEAD, granted.life / 4)
        ends = asked_at + granted.life
        return _Held(granted.token, asked_at, ends - ahead, ends)

    def _ended(self, renewal: asyncio.Task[_Held]) -> None:
        """Keep what came of it."""
        self._renewal = None
        if renewal.cancelled():
            return
        error, now = renewal.exception(), self._clock.monotonic()
        if error is None:
            if self._failure is not None:
                log.info("relay_token_renewed", relay=self._relay)
            self._held, self._failure, self._pause = renewal.result(), None, 0.0
        elif isinstance(error, NoToken):
            held = self._held
            if self._failure is None and held is not None and now < held.ends:
                log.warning(
                    "relay_token_not_renewed",
                    relay=self._relay,
                    error=str(error),
                    seconds_left=round(held.ends - now),
                    action="the one there is goes on being used until it ends",
                )
            self._pause = min(LAST_PAUSE, self._pause * 2) if self._pause else FIRST_PAUSE
            self._failure, self._again = error, now + self._pause


class RefreshToken:
    """A refresh token in a file, and the newer one that takes its place (RFC 6749 §6).

    A newer one that cannot be written is used as long as the file stays as it is, and lost with the process.
    """

    def __init__(self, path: str, relay: str) -> None:
        self._path = Path(path)
        self._relay = relay
        self._in_file = ""
        self._newer = ""
        self._told = False

    def current(self) -> str:
        """The one to use now.

        Raises:
            NoToken: the file cannot be read, or holds none.
        """
        text, _ = _read(self._path, "SMTP_TOKEN_REFRESH_FILE")
        if not is_token(text):
            raise NoToken(f"SMTP_TOKEN_REFRESH_FILE={self._path} holds no refresh token", permanent=True)
        if text != self._in_file:
            self._in_file, self._newer = text, ""
        return self._newer or text

    def replace(self, newer: str) -> None:
        """Use this one from now on, and keep it in the file."""
        self._newer = newer
        try:
            _write(self._path.resolve(), newer)
        except OSError as error:
            if not self._told:
                log.warning(
                    "relay_refresh_token_not_kept",
                    relay=self._relay,
                    file=str(self._path),
                    error=one_line(error.strerror or str(error)),
                    action="the new one is used until the process ends; the next start takes the old one",
                )
            self._told = True
            return
        self._told = False


def _write(path: Path, text: str) -> None:
    """Put `text` in the place of a file, whole or not at all, for the same eyes."""
    mode = path.stat().st_mode & 0o777
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    beside = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{text}\n")
            file.flush()
            os.fsync(file.fileno())
        beside.chmod(mode)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
