"""Relays whose TLS is not to be trusted: refused for a reason that tells what to do, and nothing is sent."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

from lab.parts import Certificates, make_certificates
from lab.world import Replica
from mailsender.dev.process import ChildError
from proof.checker import check
from proof.run import Run, rest, run
from proof.stage import Stage
from proof.table import Row, row

NOTICE = 20.0
"""Seconds in which readiness has to say that the relay is refused."""

REFUSED_AGAIN = 2
"""Sessions that the relay must have been asked for, so that a refusal is no accident of the first one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A relay that must be refused. `says` are words of the reason, which readiness and the log have to give.

    Without a certificate the relay is one whose STARTTLS somebody on the way has taken out.
    """

    name: str
    says: tuple[str, ...]
    cert: Path | None = None
    key: Path | None = None
    oldest: bool = False
    mode: str = "starttls"

    def fits(self, said: str) -> bool:
        """Whether that is the reason."""
        return all(word in said for word in self.says)


def tls(stage: Stage, seed: int, *, modes: Sequence[str] = ("starttls", "implicit")) -> Row:
    """Each relay in turn, then a good one, which gets all the letters that waited."""
    began = time.monotonic()
    directory = stage.directory / "tls"
    directory.mkdir(exist_ok=True)
    good = make_certificates(directory)
    cases = list(_cases(good, directory, modes))
    options = {"certificates": good, "settings": {"SMTP_TLS_CA_FILE": str(good.ca)}}
    reasons = []
    with run(stage, "tls", seed, **options) as world:
        for case in cases:
            world.publisher.publish(5)
            reasons.append(_refused(world, case))
        _relay(world, Case(name="good", says=(), cert=good.cert, key=good.key))
        world.world.started(SMTP_TLS="starttls")
        world.wait_done(60)
        world.stop_services()
        verdict = check(world.history())
    return row(
        "TLS that is not to be trusted",
        seed,
        len(cases),
        verdict,
        notes=f"refused: {', '.join(case.name for case in cases)}; such as “{reasons[0]}”",
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="tls --seed {seed}"',
    )


def _cases(good: Certificates, directory: Path, modes: Sequence[str]) -> Iterator[Case]:
    expired = _expired(good, directory)
    trust = ("certificate is not to be trusted",)
    own_ca = (*trust, "SMTP_TLS_CA_FILE")
    for mode in modes:
        suffix = "" if mode == "starttls" else ", TLS from the start"
        yield Case(
            name=f"expired{suffix}", says=(*trust, "renew"), cert=expired[0], key=expired[1], mode=mode
        )
        wrong = (good.wrong_name_cert, good.wrong_name_key)
        yield Case(
            name=f"another name{suffix}", says=(*trust, "SMTP_HOST"), mode=mode, cert=wrong[0], key=wrong[1]
        )
        unknown = (good.untrusted_cert, good.untrusted_key)
        yield Case(name=f"an unknown CA{suffix}", says=own_ca, mode=mode, cert=unknown[0], key=unknown[1])
        yield Case(
            name=f"TLS 1.1{suffix}",
            says=("TLS 1.2 or later",),
            oldest=True,
            mode=mode,
            cert=good.cert,
            key=good.key,
        )
    # A CA's own certificate is signed by itself.
    cert, key = _self_signed(directory)
    yield Case(name="self-signed", says=own_ca, cert=cert, key=key)
    yield Case(name="STARTTLS taken out", says=("does not offer STARTTLS", "SMTP_TLS"))


def _refused(world: Run, case: Case) -> str:
    """Run the service before this relay; the reason that readiness gives."""
    _relay(world, case)
    service = world.world.replica(SMTP_TLS=case.mode)
    service.start()
    service.child.until(lambda: service.get("/healthz").status == 200, 30)
    said = _reason(service, case)
    if said is None:
        world.fault(f"{case.name}: nothing says why: {service.status()['not_ready_because']}")
    if case.mode == "starttls":  # of TLS from the start the relay counts no session that fails
        try:
            world.relay.wait_for(REFUSED_AGAIN, "sessions", timeout=30)
        except TimeoutError:
            world.fault(f"{case.name}: the relay was not tried again")
    try:  # it is written beside the loop, and may come a moment after readiness tells
        service.child.until(lambda: any(map(case.fits, _logged(service))), 10)
    except ChildError:
        world.fault(f"{case.name}: the log does not say why: {_logged(service)[:3]}")
    sent = world.relay.read()
    if sent.mails or sent.acceptances:
        world.fault(f"{case.name}: {len(sent.mails)} transactions were begun")
    service.terminate()
    if service.wait_exit() != 0:
        world.fault(f"{case.name}: ended with {service.child.returncode}")
    return said or ""


def _reason(service: Replica, case: Case) -> str | None:
    """Why it is not ready, once it is not and says all that it has to; None if it never does.

    Readiness is for balancers and says no more than that; why stands in the status, which wants the key.
    """
    deadline = time.monotonic() + NOTICE
    while time.monotonic() < deadline:
        if service.get("/readyz").status == 503:
            for said in service.status()["not_ready_because"]:
                if case.fits(str(said)):
                    return str(said)
        # An event that another process can hear there is none; the answer is cheap.
        rest(0.05)
    return None


def _logged(service: Replica) -> list[str]:
    return [str(event.get("error")) for event in service.events("relay_away")]


def _relay(world: Run, case: Case) -> None:
    """Put this one in the place of the last."""
    world.relay.kill()
    offers = {"tls": case.mode, "old": case.oldest}
    world.relay.plan = {**world.relay.plan, "offers": offers}
    world.relay.wear(case.cert, case.key)
    world.relay.start()


def _expired(good: Certificates, directory: Path) -> tuple[Path, Path]:
    """Of a CA that is trusted: it is put beside the good one into the file of CAs."""
    now = datetime.now(UTC)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(good.ca), append=True)
    leaf = authority.issue_cert(
        "127.0.0.1", not_before=now - timedelta(days=9), not_after=now - timedelta(days=1)
    )
    cert, key = directory / "expired.pem", directory / "expired.key"
    leaf.cert_chain_pems[0].write_to_path(str(cert))
    leaf.private_key_pem.write_to_path(str(key))
    return cert, key


def _self_signed(directory: Path) -> tuple[Path, Path]:
    authority = trustme.CA()
    cert, key = directory / "self-signed.pem", directory / "self-signed.key"
    authority.cert_pem.write_to_path(str(cert))
    authority.private_key_pem.write_to_path(str(key))
    return cert, key
