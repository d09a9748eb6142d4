"""Postfix end to end: letters go in through SMTP and out to the sink, by way of its queue on disk.

An instance of its own, with its own configuration, queue and data directories, started by its own master. The
clock runs from the first injection until the sink took the last letter. All of Postfix's processes are the
sender; it has no separate store. The injecting client (the bare pipelined one, ten sessions) is not counted.

Tuned: no chroot, no name lookups, no address rewriting, no header and body checks, no anvil; concurrency
towards the sink raised to 50 from the first delivery on, sessions cached and reused without a limit,
processes never retired early, no brake on input (`in_flow_delay`), no logs (no syslog daemon is started for
it). What makes it durable stays: each queue file is synced before the letter is accepted.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.measure import Meter, Round, poll
from benchmarks.parts import POSTFIX_PATH, Stage, a_port
from benchmarks.peers.bare import inject
from mailsender.dev.process import Child, PartMissing, listens

MAIN = """\
compatibility_level = 3.6
queue_directory = {queue}
data_directory = {data}
mail_owner = postfix
setgid_group = postdrop
command_directory = /usr/sbin
daemon_directory = {daemons}
myhostname = mail.example.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
relayhost = [127.0.0.1]:{sink}
alias_maps =
alias_database =
local_recipient_maps =
relay_domains =
disable_dns_lookups = yes
smtp_dns_support_level = disabled
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_client_event_limit_exceptions = 127.0.0.0/8
smtpd_recipient_restrictions = permit_mynetworks,reject
smtpd_relay_restrictions =
smtpd_tls_security_level = none
smtp_tls_security_level = none
receive_override_options = no_address_mappings,no_header_body_checks,no_unknown_recipient_checks,no_milters
local_header_rewrite_clients =
enable_original_recipient = no
smtp_connection_cache_destinations = [127.0.0.1]:{sink}
smtp_connection_cache_on_demand = yes
smtp_connection_cache_time_limit = 30s
smtp_connection_reuse_time_limit = 3600s
connection_cache_ttl_limit = 30s
initial_destination_concurrency = {out}
default_destination_concurrency_limit = {out}
smtp_destination_concurrency_limit = {out}
default_destination_concurrency_failed_cohort_limit = 100
default_process_limit = 200
qmgr_message_active_limit = 50000
qmgr_message_recipient_limit = 100000
in_flow_delay = 0
max_use = 1000000
maximal_queue_lifetime = 1h
notify_classes =
"""

MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - {out} smtp
relay unix - - n - {out} smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
"""

OUT = 50
"""Deliveries at once towards the sink."""


class Postfix:
    """One instance a round, started and ended off the clock."""

    name = "Postfix end to end"
    letters = 10_000

    def run(self, stage: Stage, letters: int) -> Round:
        room = stage.room("postfix")
        port = a_port()
        directory = _configure(room, port, stage.sink.port)
        master = Child("postfix", room / "log")
        master.start([_daemons() / "master", "-c", directory, "-d"])
        try:
            master.until(lambda: listens(port), 20)
            return _measure(stage, master, port, letters)
        finally:
            # It passes the signal on to its processes and waits for none: they end by themselves.
            master.stop()


def _measure(stage: Stage, master: Child, port: int, letters: int) -> Round:
    wanted = stage.sink.received() + letters
    meter = Meter([master.pid])
    began = inject(stage, port, letters)  # idle processes cost nothing until then
    poll(lambda: stage.sink.received() >= wanted, "last letter", timeout=300)
    return meter.round(letters, began=began)


def _daemons() -> Path:
    found = shutil.which("qmgr", path=POSTFIX_PATH)
    if found is None or shutil.which("postfix", path=POSTFIX_PATH) is None:
        raise PartMissing("there is no Postfix (on Debian: apt-get install postfix)")
    if os.geteuid() != 0:
        raise PartMissing("Postfix starts as root only")
    return Path(found).parent


def _configure(room: Path, port: int, sink: int) -> Path:
    """Write the configuration and let Postfix make its directories."""
    daemons = _daemons()
    made = {name: room / name for name in ("etc", "queue", "data")}
    for path in made.values():
        path.mkdir(mode=0o755)
    shutil.chown(made["data"], "postfix")
    names = {"queue": made["queue"], "data": made["data"], "daemons": daemons}
    (made["etc"] / "main.cf").write_text(MAIN.format(**names, sink=sink, out=OUT))
    (made["etc"] / "master.cf").write_text(MASTER.format(port=port, out=OUT))
    binary = shutil.which("postfix", path=POSTFIX_PATH)
    done = subprocess.run(
        [str(binary), "-c", made["etc"], "check"], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        raise PartMissing(f"Postfix does not take its configuration: {done.stderr.strip()[-300:]}")
    return made["etc"]
