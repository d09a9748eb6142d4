"""The file of relays and routes, read again while the service runs."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from mailsender.routing.changes import Changes, changes
from mailsender.routing.plan import Plan
from mailsender.service import Replica
from mailsender.settings.environment import Settings
from mailsender.settings.links import links_of
from mailsender.settings.relays import plan_of
from mailsender.settings.sources import SettingsError
from mailsender.web.operations import BadConfig, NoConfig, Reloaded

log = structlog.get_logger()

NO_FILE: Final = "there is no file to be read again: MAILSENDER_CONFIG names none"


class Reloading:
    """Has a replica go by its file as it is now."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._tasks: set[asyncio.Task[Reloaded]] = set()

    def begin(self, by: str) -> asyncio.Task[Reloaded]:
        """Begin to read it; what comes of that is in the log, whoever waits for it or goes away.

        Several that are begun at once are done one after the other.
        """
        task = asyncio.create_task(self._reload(by))
        self._tasks.add(task)  # the loop alone would let it be collected
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Reloaded]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, BadConfig):  # of that one it is logged
            context = {"message": "the file was not read again", "exception": error}
            task.get_loop().call_exception_handler(context)

    async def reload(self, by: str) -> Reloaded:
        """Take what can be taken of the file; `by` says for the log who asked.

        Once begun it goes on to its end, also when its caller is cancelled.

        Raises:
            NoConfig: there is no file.
            BadConfig: something in it is wrong. Then nothing is changed.
        """
        return await asyncio.shield(self.begin(by))

    async def _reload(self, by: str) -> Reloaded:
        replica = self._replica
        config = replica.settings.config
        if config is None:
            raise NoConfig(NO_FILE)
        async with replica.rereading:
            try:
                # Neither a disk that hangs nor a file of many patterns must stop the mail.
                settings, plan = await asyncio.to_thread(self._read)
            except SettingsError as error:
                log.error("config_refused", by=by, error=str(error), action="nothing is changed")
                raise BadConfig(str(error)) from None
            found = self._take(settings, plan)
        log.info(
            "config_reloaded",
            by=by,
            path=config.path,
            taken=list(found.taken),
            left=list(found.left),
            action="what is left takes a restart" if found.left else None,
        )
        return Reloaded(path=config.path, taken=found.taken, left=found.left)

    def _read(self) -> tuple[Settings, Plan]:
        """What the file says now, and what is to be gone by; may take seconds."""
        settings = self._replica.settings.read_again()
        return settings, plan_of(settings)

    def _take(self, settings: Settings, plan: Plan) -> Changes:
        ways, old = links_of(settings), links_of(self._replica.settings)
        other = {name for name in ways.keys() & old.keys() if ways[name] != old[name]}
        found = changes(self._replica.plan, plan, other_ways=other)
        if found.taken:
            self._replica.adopt(found.plan)
        return found
