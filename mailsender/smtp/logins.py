"""How sessions with one relay log in, and what they share for that: what is known of it, and tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b

from mailsender.model.clock import Clock
from mailsender.model.letter import Phase
from mailsender.model.text import one_line
from mailsender.smtp.auth import LoginMemory, log_in
from mailsender.smtp.credentials import Credentials
from mailsender.smtp.hosts import Host
from mailsender.smtp.mechanisms import Login, Say
from mailsender.smtp.port import RelayAway
from mailsender.smtp.scram import MECHANISM as SCRAM
from mailsender.smtp.scram import fits
from mailsender.smtp.token_endpoint import NoToken
from mailsender.smtp.tokens import Tokens, tokens_of


class Logins:
    """All logins to the relay at `host` and `port`, by `credentials` that are complete.

    `told` is its name for the log.
    """

    def __init__(
        self, credentials: Credentials, host: str, port: int, clock: Clock, *, told: str = ""
    ) -> None:
        told = told or Host.of(host).with_port(port)
        self._credentials = credentials
        self._host = host
        self._port = port
        self._clock = clock
        self._memory = LoginMemory(relay=told)
        self.barred: Callable[[str], str] = _nothing
        self._tokens: Tokens | None = None
        if credentials.tokens is not None:
            self._tokens = tokens_of(credentials.tokens, clock, told)

    async def next(self) -> Login:
        """What to log in by now. It is known before a relay is bothered with a connection.

        Raises:
            RelayAway: there is no token, or nobody is to log in by what there is.
            Repeated: the relay has just refused this one.
        """
        try:
            proof = await self._tokens.get() if self._tokens else self._credentials.password
        except NoToken as error:
            text = f"there is no token to log in by: {error}"
            raise RelayAway(text, phase=Phase.AUTH, permanent=error.permanent) from error
        if why := self.barred(self._mark(proof)):
            raise RelayAway(why, phase=Phase.AUTH, permanent=True)
        self._memory.check(proof, self._clock.monotonic())
        return self._login(proof)

    @property
    def refused(self) -> str:
        """The mark of what the relay refused last; empty while it has refused nothing."""
        return self._mark(self._memory.refused_proof) if self._memory.refused_proof else ""

    def _mark(self, proof: str) -> str:
        """See `Transport.bar_logins`: 16 bits tell another password from it, and are too few to guess it."""
        told = f"{self._credentials.user}\0{proof}".encode("utf-8", "surrogatepass")
        return blake2b(told, digest_size=2).hexdigest()

    def _login(self, proof: str) -> Login:
        return Login(user=self._credentials.user, proof=proof, host=self._host, port=self._port)

    async def log_in(self, say: Say, offered: Iterable[str], login: Login) -> None:
        """Log in to a relay that offers the mechanisms `offered`.

        Raises:
            RelayAway: it offers none that fits.
            SMTPException: see `mailsender.smtp.auth.log_in`.
        """
        wanted = self._mechanisms(login)
        known = {name.upper() for name in offered}
        if known.isdisjoint(wanted):
            offers = f"offers AUTH {one_line(' '.join(sorted(known)))}" if known else "offers no AUTH"
            raise RelayAway(
                f"the relay {offers}, and {' or '.join(wanted) or 'nothing'} is possible with what is set;"
                " see SMTP_AUTH; without SMTP_PASSWORD, SMTP_TOKEN_FILE and SMTP_TOKEN_URL nobody logs in",
                phase=Phase.AUTH,
                permanent=True,
            )
        await log_in(
            say,
            offered=known.intersection(wanted),
            login=login,
            memory=self._memory,
            clock=self._clock,
            tokens=self._tokens,
        )

    def _mechanisms(self, login: Login) -> list[str]:
        """Those that may be used, the best first."""
        scram = fits(login.user, login.proof)
        return [each for each in self._credentials.mechanisms if each != SCRAM or scram]

    def told(self, login: Login | None) -> list[Login]:
        """All that the relay may have heard, on the way that `login` was for or before, and could repeat."""
        proofs = {self._memory.refused_proof, login.proof if login is not None else ""}
        return [self._login(proof) for proof in proofs if proof]

    @property
    def advice(self) -> str:
        """What to look at when the relay refuses a login."""
        return self._tokens.advice() if self._tokens else "see SMTP_USER and SMTP_PASSWORD"


def _nothing(_mark: str) -> str:
    return ""
