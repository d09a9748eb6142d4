"""Asking a token endpoint (RFC 6749 §3.2) for an access token, and what its answer says.

Nothing of a secret is in an error, whatever the endpoint repeats.
"""

from __future__ import annotations

import base64
import json
import math
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple
from urllib.parse import quote_plus, urlsplit

import aiohttp

from mailsender.model.text import one_line
from mailsender.smtp.bearer import is_token
from mailsender.smtp.credentials import TokenEndpoint

TIMEOUT: Final = 20.0
"""Seconds for the whole answer: sessions wait for it, and those who grant tokens take well below one."""

MAX_ANSWER: Final = 64 * 1024
"""Octets of an answer that are read; a token has two or three thousand."""

USUAL_LIFE: Final = 3600.0
"""Seconds that a token is taken to live where its answer does not say, as it should (RFC 6749 §5.1)."""

LONGEST_LIFE: Final = 86400.0
"""Seconds after which it is renewed at the latest: rights that were taken back are to show within a day."""

_ADVICE: Final = {
    "invalid_client": "see SMTP_TOKEN_CLIENT_ID and SMTP_TOKEN_CLIENT_SECRET; secrets run out, too",
    "invalid_grant": "the refresh token is good no longer: have its user agree once more, and put the new one"
    " into SMTP_TOKEN_REFRESH_FILE",
    "invalid_scope": "see SMTP_TOKEN_SCOPE",
    "invalid_request": "see SMTP_TOKEN_URL and SMTP_TOKEN_SCOPE",
    "unauthorized_client": "the application may not ask in this way; see what it was registered for",
    "unsupported_grant_type": "it does not grant in this way; see SMTP_TOKEN_URL and SMTP_TOKEN_REFRESH_FILE",
}
"""What to do about the errors of RFC 6749 §5.2."""


class NoToken(Exception):  # noqa: N818  an answer
    """No access token can be had; the text says why. `permanent`: waiting will not mend it."""

    def __init__(self, text: str, *, permanent: bool) -> None:
        """Note whether somebody has to do something."""
        super().__init__(text)
        self.permanent = permanent


class Granted(NamedTuple):
    """An access token, the seconds that it lives, and a new refresh token, empty where none came."""

    token: str
    life: float
    refresh_token: str


class Answer(NamedTuple):
    """What came over HTTP: the status, and the beginning of the body."""

    status: int
    body: bytes


Ask = Callable[[TokenEndpoint, str, ssl.SSLContext], Awaitable[Answer]]
"""Asks an endpoint, by a refresh token where that is not empty; see `ask`."""


async def ask(endpoint: TokenEndpoint, refresh_token: str, context: ssl.SSLContext) -> Answer:
    """Ask for a token, over TLS as `context` has it. No redirect is followed: secrets would go along.

    Raises:
        NoToken: the endpoint does not answer.
    """
    connector = aiohttp.TCPConnector(ssl=context)
    limit = aiohttp.ClientTimeout(total=TIMEOUT)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=limit) as http,
            http.post(
                endpoint.url,
                data=_form(endpoint, refresh_token),
                headers=_headers(endpoint),
                allow_redirects=False,
            ) as answer,
        ):
            body = bytearray()
            async for piece in answer.content.iter_chunked(MAX_ANSWER):
                body += piece
                if len(body) >= MAX_ANSWER:
                    break
            return Answer(answer.status, bytes(body[:MAX_ANSWER]))
    except TimeoutError:
        why = f"it did not answer within {TIMEOUT:g} s"
    except aiohttp.ClientConnectorCertificateError as error:
        why = f"its certificate is not to be trusted: {error.certificate_error}"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        why = str(error) or type(error).__name__
    raise NoToken(f"{_begin(endpoint)} cannot be asked: {one_line(why)}; see SMTP_TOKEN_URL", permanent=False)


def _form(endpoint: TokenEndpoint, refresh_token: str) -> dict[str, str]:
    told = {"grant_type": "client_credentials"}
    if refresh_token:
        told = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    if endpoint.scope:
        told["scope"] = endpoint.scope
    if not endpoint.basic:
        told["client_id"] = endpoint.client_id
        if endpoint.client_secret:
            told["client_secret"] = endpoint.client_secret
    return told


def _headers(endpoint: TokenEndpoint) -> Mapping[str, str]:
    headers = {"Accept": "application/json"}
    if endpoint.basic:
        both = f"{quote_plus(endpoint.client_id)}:{quote_plus(endpoint.client_secret)}"
        headers["Authorization"] = f"Basic {base64.b64encode(both.encode()).decode()}"
    return headers


def granted_by(answer: Answer, endpoint: TokenEndpoint, refresh_token: str) -> Granted:
    """What `answer` grants. Pure.

    Raises:
        NoToken: nothing.
    """
    told = _object(answer.body)
    if answer.status == 200:
        token, kind = told.get("access_token"), told.get("token_type", "Bearer")
        if isinstance(token, str) and is_token(token) and str(kind).lower() == "bearer":
            new = told.get("refresh_token")
            usable = isinstance(new, str) and is_token(new)
            return Granted(token, _life(told.get("expires_in")), str(new) if usable else "")
        text = f"{_begin(endpoint)} answered without an access token that a relay takes; see SMTP_TOKEN_URL"
        raise NoToken(text, permanent=True)
    error = told.get("error")
    words = [str(answer.status)]
    words += [each for each in (error, told.get("error_description")) if isinstance(each, str)]
    said = " ".join(words)
    for secret in (endpoint.client_secret, refresh_token):
        for form in filter(None, {secret, quote_plus(secret)}):
            said = said.replace(form, "***")
    later = answer.status >= 500 or answer.status == 429
    advice = _ADVICE.get(error, "") if isinstance(error, str) else ""
    advice = advice or ("it is asked again" if later else "see SMTP_TOKEN_URL")
    raise NoToken(f"{_begin(endpoint)} grants none: {one_line(said)}; {advice}", permanent=not later)


def _object(body: bytes) -> dict[str, object]:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _life(told: object) -> float:
    """Seconds; some write the number as text."""
    try:
        seconds = float(told) if isinstance(told, int | float | str) else USUAL_LIFE
    except (ValueError, OverflowError):
        seconds = USUAL_LIFE
    return min(max(seconds, 0.0), LONGEST_LIFE) if math.isfinite(seconds) else USUAL_LIFE


def _begin(endpoint: TokenEndpoint) -> str:
    """Which endpoint it is; its path and query are left out, as some put keys there."""
    return f"the token endpoint at {urlsplit(endpoint.url).netloc}"
