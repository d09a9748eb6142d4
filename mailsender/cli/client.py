"""How the command line talks to a running service."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import IO, Any, Final
from urllib.parse import quote

import aiohttp

TIMEOUT: Final = 30.0
"""Seconds for one request; a service answers within its `HTTP_TIMEOUT`, 15 s unless set otherwise."""

FILE_TIMEOUT: Final = 3600.0
"""The same where a file comes or goes."""

FAULTS_SHOWN: Final = 10


class ServiceError(Exception):
    """The service could not be asked, or said no; the text is fit for a terminal.

    `problem` is what it answered when it said no: problem details (RFC 9457), as they came.
    """

    def __init__(self, text: str, problem: Mapping[str, Any] | None = None) -> None:
        """Note what was said."""
        super().__init__(text)
        self.problem = problem


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceClient:
    """A running service at `url`, asked with `key`."""

    url: str
    key: str = field(default="", repr=False)
    timeout: float = TIMEOUT

    async def post(self, batch: bytes, record_key: str = "", *, dry_run: bool = False) -> dict[str, Any]:
        """Publish a batch, under `record_key` unless that is empty; with `dry_run` nothing is.

        Raises:
            ServiceError: it was not taken, with the place of each fault; with `dry_run`: it is no batch.
        """
        query = {"key": record_key} if record_key else {}
        if dry_run:
            query["dry_run"] = "true"
        answer = await self._ask("POST", "/post", batch, query)
        if dry_run and "shown" not in answer:
            raise ServiceError(f"{self.url} knows no dry run: the batch was published")
        return answer

    async def status(self) -> dict[str, Any]:
        """What the service is doing.

        Raises:
            ServiceError: nobody answers, or the key is wrong.
        """
        return await self._ask("GET", "/status")

    async def explain(self, letter_id: str) -> dict[str, Any]:
        """Which way a letter takes, and what stands in it now.

        Raises:
            ServiceError: nobody answers, the key is wrong, or there is no such letter.
        """
        return await self._ask("GET", f"/letters/{quote(letter_id, safe='')}/explain")

    async def suppressed(self, address: str, stream: str) -> list[dict[str, Any]]:
        """The entries of the suppression list by which letters of a stream are not sent to an address.

        Raises:
            ServiceError: nobody answers, or the key is wrong.
        """
        found: list[dict[str, Any]] = []
        for one in dict.fromkeys(("", stream)):
            found += (await self.suppressions({"address": address, "stream": one}))["suppressions"]
        return sorted(found, key=lambda each: (each["address"].startswith("@"), each["stream"]))

    async def halt(self) -> dict[str, Any]:
        """Start the drain, or learn how far it is.

        Raises:
            ServiceError: nobody answers, or the key is wrong.
        """
        return await self._ask("POST", "/halt")

    async def reload(self) -> dict[str, Any]:
        """Have the file of relays and routes read again.

        Raises:
            ServiceError: nobody answers, the key is wrong, there is no file, or it is wrong.
        """
        return await self._ask("POST", "/reload")

    async def lift_order(self, relay: str, scope: str, reason: str) -> dict[str, Any]:
        """End what a relay's reply ordered.

        Raises:
            ServiceError: nobody answers, the key is wrong, or nothing is ordered.
        """
        path = f"/relays/{quote(relay, safe='')}/orders/{quote(scope, safe='')}"
        return await self._ask("DELETE", path, query={"reason": reason} if reason else {})

    async def templates(self) -> dict[str, Any]:
        """All templates, without what is in them.

        Raises:
            ServiceError: nobody answers, or the key is wrong.
        """
        return await self._ask("GET", "/templates")

    async def template(self, name: str, version: str = "") -> dict[str, Any]:
        """The files of a template.

        Raises:
            ServiceError: there is none.
        """
        query = {"version": version} if version else {}
        return await self._ask("GET", f"/templates/{quote(name, safe='')}", query=query)

    async def put_template(
        self, name: str, files: Mapping[str, str], *, language: str, only_check: bool
    ) -> dict[str, Any]:
        """Save a template, or only look whether it could be.

        Raises:
            ServiceError: it was not taken, with the place of each fault.
        """
        body = json.dumps({"files": dict(files), "language": language}).encode()
        query = {"check": "true"} if only_check else {}
        return await self._ask("PUT", f"/templates/{quote(name, safe='')}", body, query)

    async def preview_template(
        self, name: str, version: str = "", *, lang: str = "", variables: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """What a template makes of variables, or of its sample.

        Raises:
            ServiceError: there is none, or it cannot be filled in.
        """
        body = {"lang": lang, "variables": variables, "version": version or None}
        path = f"/templates/{quote(name, safe='')}/preview"
        return await self._ask("POST", path, json.dumps(body).encode())

    async def suppressions(self, query: Mapping[str, str]) -> dict[str, Any]:
        """A page of the suppression list.

        Raises:
            ServiceError: nobody answers, or it does not understand the query.
        """
        return await self._ask("GET", "/suppressions", query=query)

    async def suppress(self, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Put entries on the suppression list.

        Raises:
            ServiceError: one is wrong, and none was taken.
        """
        body = json.dumps({"suppressions": [dict(each) for each in entries]}).encode()
        return await self._ask("POST", "/suppressions", body)

    async def lift(self, addresses: Sequence[str], stream: str | None) -> dict[str, Any]:
        """Take addresses off the suppression list; those that are not on it are passed over.

        `held` says, of those among them for which something else on the list holds, what that is.

        Raises:
            ServiceError: nobody answers.
        """
        query, removed = ({} if stream is None else {"stream": stream}), 0
        held: list[dict[str, str]] = []
        for each in addresses:
            try:
                answer = await self._ask("DELETE", f"/suppressions/{quote(each, safe='')}", query=query)
            except ServiceError as error:
                problem = error.problem or {}
                if problem.get("status") != HTTPStatus.NOT_FOUND:
                    raise
                if problem.get("reason") == "still-suppressed":
                    held.append({"address": each, "text": problem["detail"]})
            else:
                removed += answer["removed"]
        return {"removed": removed, "held": held}

    async def import_suppressions(self, file: IO[bytes]) -> dict[str, Any]:
        """Put the entries of a file on the suppression list.

        Raises:
            ServiceError: it was not taken, or not the whole of it.
        """
        patient = replace(self, timeout=FILE_TIMEOUT)
        return await patient._ask("POST", "/suppressions/import", file)  # noqa: SLF001  it is one of us

    async def export_suppressions(self, query: Mapping[str, str], target: IO[bytes]) -> dict[str, Any]:
        """Write the suppression list into a file.

        Raises:
            ServiceError: nobody answers, or the file is not whole.
        """
        patient = replace(self, timeout=FILE_TIMEOUT)
        async with patient._answer("GET", "/suppressions/export", None, query) as answer:  # noqa: SLF001
            if answer.status != HTTPStatus.OK:
                return _understood(self.url, answer.status, await answer.text(errors="replace"))
            try:
                async for block in answer.content.iter_any():
                    target.write(block)
            except aiohttp.ClientPayloadError:
                raise ServiceError("the file is not whole: the connection broke off") from None
            except OSError as error:
                raise ServiceError(f"the file cannot be written: {error.strerror or error}") from error
        return {}

    async def _ask(
        self,
        method: str,
        path: str,
        body: bytes | IO[bytes] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        async with self._answer(method, path, body, query) as answer:
            status, text = answer.status, await answer.text(errors="replace")
        return _understood(self.url, status, text)

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, body: bytes | IO[bytes] | None, query: Mapping[str, str] | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a request, whose body is still to be read."""
        headers = {"X-API-KEY": self.key} if self.key else {}
        timeout = aiohttp.ClientTimeout(total=self.timeout)
        url = self.url.rstrip("/") + path
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.request(
                    method, url, params=query, data=body, headers=headers, allow_redirects=False
                ) as answer,
            ):
                yield answer
        except TimeoutError:
            raise ServiceError(f"{self.url} did not answer within {self.timeout:g} s") from None
        except aiohttp.InvalidURL:
            raise ServiceError(f"{self.url!r} is no URL; it should read http://host:port") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ServiceError(f"no service answers at {self.url}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The system's own words where there are any; those of the libraries add nothing to them."""
    number = error.os_error.errno if isinstance(error, aiohttp.ClientConnectorError) else None
    if number is not None and number in errno.errorcode:
        return os.strerror(number).lower()
    return str(error) or type(error).__name__


def _understood(url: str, status: int, text: str) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise ServiceError(f"{url} answered {status}, and not as mailsender does: is it another program's?")
    if status == 200:
        return answer
    raise ServiceError(_complaint(status, answer), answer)


def _complaint(status: int, problem: dict[str, Any]) -> str:
    """Problem details (RFC 9457) as a line, and one more for each fault of a batch."""
    if status == 401:
        return "the service wants another key: give it with --key or HTTP_API_KEY"
    lines = [f"{problem.get('detail') or problem.get('title') or 'no reason given'} ({status})"]
    lines += fault_lines(problem.get("errors") or [])
    faults = problem.get("faults") or []
    lines += [f"  {_place(fault)}{fault['text']}" for fault in faults[:FAULTS_SHOWN] if len(faults) > 1]
    ids = problem.get("ids") or []
    lines += [f"  letter {index}: ID {each}" for index, each in enumerate(ids[:FAULTS_SHOWN])]
    if len(ids) > FAULTS_SHOWN:
        lines.append(f"  … and {len(ids) - FAULTS_SHOWN} more; --json has them all")
    return "\n".join(lines)


def _place(fault: dict[str, Any]) -> str:
    """Where something is wrong with a template."""
    where = [fault["template"]] if fault.get("template") else []
    where += [f"line {fault['line']}"] if fault.get("line") else []
    where += [f"variable {fault['variable']}"] if fault.get("variable") else []
    return f"{', '.join(where)}: " if where else ""


def fault_lines(errors: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each fault of a batch, or for the first of them."""
    lines = [f"  letter {error['index']}{_key(error)}: {error['text']}" for error in errors[:FAULTS_SHOWN]]
    if len(errors) > FAULTS_SHOWN:
        lines.append(f"  … and {len(errors) - FAULTS_SHOWN} more")
    return lines


def _key(error: Mapping[str, Any]) -> str:
    return f", {error['field']}" if error.get("field") else ""
