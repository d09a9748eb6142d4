"""The relay as a part of the stage: a process with a ledger, an own port, and a control socket."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mailsender.dev.process import Part, listens
from proof import ledger
from proof.control import tell

ROOT = Path(__file__).parents[1]


class LedgerRelay(Part):
    """`proof.smtp_server`, at so many more `places`. Its ledger outlives kills and restarts."""

    def __init__(
        self,
        directory: Path,
        plan: Mapping[str, Any] | None = None,
        *,
        cert: Path | None = None,
        key: Path | None = None,
        places: int = 0,
    ) -> None:
        super().__init__("relay", directory)
        self.plan = dict(plan or {})
        self._places = places
        self.ledger = self.directory / "ledger"
        # The path of a Unix socket may have 107 octets at most, and a test's directory may be longer.
        self._control = Path(tempfile.mkdtemp(prefix="relay-")) / "control"
        self._tls = (cert, key)

    def wear(self, cert: Path | None, key: Path | None) -> None:
        """From the next start on show this certificate; without one offer no TLS."""
        self._tls = (cert, key)

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "proof.smtp_server",
            "--port",
            str(self.port),
            "--ledger",
            self.ledger,
        ]
        command += ["--control", self._control, "--plan", json.dumps(self.plan)]
        command += ["--places", str(self._places)]
        if self._tls[0] and self._tls[1]:
            command += ["--cert", self._tls[0], "--key", self._tls[1]]
        self.child.start(command, cwd=ROOT)
        self.child.until(lambda: listens(self.port), 20)

    def tell(self, do: str, *, timeout: float = 10.0, **order: Any) -> dict[str, int]:
        """Give an order, see `proof.smtp_server`; what was counted since the process's start."""
        return tell(self._control, {"do": do, **order}, timeout)

    def follow(self, plan: Mapping[str, Any]) -> None:
        """From now on follow this plan."""
        self.plan = dict(plan)
        self.tell("plan", plan=self.plan)

    def accepted(self) -> int:
        """How many messages were accepted since the process's start."""
        return self.tell("count").get("accepted", 0)

    def living(self, within: float = 1.0) -> int:
        """How many sessions have a client that does not end them `within` so many seconds."""
        return self.tell("living", within=within)["living"]

    def wait_for(self, count: int, what: str = "accepted", timeout: float = 60.0) -> None:
        """Wait until so many were counted since the process's start."""
        self.tell("wait", what=what, count=count, timeout=timeout)

    def read(self) -> ledger.Ledger:
        """What stands in the ledger now."""
        return ledger.read(self.ledger)
