"""A real Postfix in a directory of its own, with its defaults but for what is asked for.

It hands on all it takes to another relay, or forgets it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mailsender.dev.process import LOOPBACK, Part, PartMissing, listens

_SBIN = "/usr/sbin:/usr/lib/postfix/sbin"

# Only what an instance of its own needs; everything else is Postfix's default.
_MAIN = """\
compatibility_level = 3.6
queue_directory = {directory}/queue
data_directory = {directory}/data-of-postfix
mail_owner = postfix
setgid_group = postdrop
myhostname = postfix.example.test
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
maillog_file = /dev/stdout
"""

_SMTPD = "127.0.0.1:{port} inet n - n - - smtpd"
POSTSCREEN = """\
127.0.0.1:{port} inet n - n - 1 postscreen
smtpd pass - - n - - smtpd
dnsblog unix - - n - 0 dnsblog
tlsproxy unix - - n - 0 tlsproxy"""
"""What listens when it is postscreen that greets, and hands connections on."""

_MASTER = """\
{front}
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


def postfix_binary(name: str = "postfix") -> str:
    """Where a program of Postfix's lies.

    Raises:
        PartMissing: It is not installed.
    """
    found = shutil.which(name, path=_SBIN)
    if found is None:
        raise PartMissing(f"there is no {name} (on Debian: apt-get install postfix)")
    return found


def _master_binary() -> str:
    return str(Path(postfix_binary("smtpd")).with_name("master"))


class Postfix(Part):
    """The instance; needs root, as Postfix does. With `next_port` 0 it forgets what it took.

    `settings` are lines of main.cf, `front` is what listens.
    """

    def __init__(
        self,
        directory: Path,
        next_port: int = 0,
        *,
        settings: Mapping[str, str] | None = None,
        front: str = _SMTPD,
    ) -> None:
        super().__init__("postfix", directory)
        onward = f"[127.0.0.1]:{next_port}"
        way = {"relayhost": onward} if next_port else {"default_transport": "discard:"}
        self._settings = {**way, **(settings or {})}
        self._front = front
        # Its processes run as another user, who cannot enter the directories of tests: pytest closes them to
        # others at the start of each of its runs, those of its neighbours, too.
        self._home = Path(tempfile.mkdtemp(prefix="postfix-"))
        self._config = self._home / "config"

    def start(self) -> None:
        if os.geteuid() != 0:
            raise PartMissing("Postfix starts as root only")
        self._config.mkdir(parents=True, exist_ok=True)
        self._home.chmod(0o755)
        for name in ("queue", "data-of-postfix"):
            (self._home / name).mkdir(exist_ok=True)
        shutil.chown(self._home / "data-of-postfix", "postfix")
        own = "".join(f"{name} = {value}\n" for name, value in self._settings.items())
        (self._config / "main.cf").write_text(_MAIN.format(directory=self._home) + own)
        front = self._front.format(port=self.port)
        (self._config / "master.cf").write_text(_MASTER.format(front=front))
        # As `postfix start-fg` does, but for its shell between: with that one killed Postfix would live on.
        check, master = (f"{program} -c {self._config}" for program in (postfix_binary(), _master_binary()))
        self.child.start(["/bin/sh", "-c", f"{check} check && exec {master} -s"])
        self.child.until(lambda: listens(self.port), 20)

    def stop(self) -> None:
        """End it; nothing of it stays but its log."""
        super().stop()
        shutil.rmtree(self._home, ignore_errors=True)

    def queue_is_empty(self) -> bool:
        """Whether it has handed on all that it took."""
        command = [postfix_binary("postqueue"), "-c", str(self._config), "-p"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        return "queue is empty" in done.stdout

    @property
    def version(self) -> str:
        command = [postfix_binary("postconf"), "-c", str(self._config), "-h", "mail_version"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    @property
    def host(self) -> str:
        return LOOPBACK
