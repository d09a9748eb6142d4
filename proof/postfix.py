"""A real Postfix in a directory of its own, with its defaults; it hands on all it takes to another relay."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
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
relayhost = [127.0.0.1]:{next_port}
maillog_file = /dev/stdout
"""

_MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
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


class Postfix(Part):
    """The instance; needs root, as Postfix does."""

    def __init__(self, directory: Path, next_port: int) -> None:
        super().__init__("postfix", directory)
        self._next_port = next_port
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
        values = {"directory": self._home, "next_port": self._next_port, "port": self.port}
        (self._config / "main.cf").write_text(_MAIN.format(**values))
        (self._config / "master.cf").write_text(_MASTER.format(**values))
        self.child.start([postfix_binary(), "-c", self._config, "start-fg"])
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
