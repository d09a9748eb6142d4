"""What the loops need from the way to a relay. The docstrings are the contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from mailsender.model.errors import Unavailable
from mailsender.model.letter import Envelope, Outcome, Result
from mailsender.smtp.replies import Reply


class Permit(Protocol):
    """Permission for a transaction, asked at the two moments that cannot be taken back."""

    def begin(self) -> bool:
        """Asked just before MAIL FROM is written: the slot has not lapsed, and the letter is ours."""
        ...

    def dot(self) -> bool:
        """Asked just before the final dot is written: the letter is still ours and nobody cut us off.

        After a yes nothing may come between but the write: it is noted that a relay may have the letter.
        """
        ...

    def refused(self, results: Mapping[str, Result]) -> None:
        """Told what the relay said of recipients whom it does not take, as soon as it has said so.

        The transaction may go on with others, for minutes, and what a reply asks for holds from now on.
        """
        ...

    def replied(self, results: Mapping[str, Result]) -> None:
        """Told what the reply to the dot came to for all recipients, before anybody waits for anything."""
        ...


class RelayAway(Unavailable):
    """No session could be opened. `phase` and `code` say how far it came, `reply` is what the relay said now.

    `login` is the mark of the password or token that it refused, see `Transport.bar_logins`. `permanent`
    tells a fault that waiting will not mend (wrong password, wrong certificate), so that the operator hears
    of it at once; it is tried again all the same.
    """

    def __init__(
        self,
        text: str,
        *,
        phase: str,
        code: int | None = None,
        permanent: bool = False,
        reply: Reply | None = None,
        login: str = "",
    ) -> None:
        """Note how far it came."""
        super().__init__(text)
        self.reply = reply
        self.login = login
        self.phase = phase
        self.code = code
        self.permanent = permanent


class NotBegun(Exception):  # noqa: N818  an answer, not a mistake
    """Nothing came of a transaction, nothing was sent, and it says nothing about the letter.

    `Permit.begin` said no; or the session ended before the relay had answered a word about this letter, and
    it had carried others before, so that its end has to do with them; or commands that were sent ahead of
    their replies got none, which will not be done again. Another session may try at once.
    """


class Session(Protocol):
    """One connection to a relay."""

    @property
    def pipeline_depth(self) -> int:
        """How many transactions it is worth to ask for at once: 2 where the relay takes them pipelined."""
        ...

    async def transact(
        self, envelope: Envelope, message: bytes | tuple[bytes, ...], permit: Permit
    ) -> Outcome:
        """Carry one transaction through and say what became of each recipient.

        Several may be asked for at once: they are carried in the order in which they were asked for, and at
        most one of them is after its dot.

        `message` is ready for the wire but for dot-stuffing: CRLF line ends, no final dot. It may come in
        pieces, the first of which holds all headers, and none of which divides a line end. Never raises
        for anything that the relay does: a lost connection before the dot is `deferred`, after it
        `uncertain`, and `session_usable` is False. If `permit.dot()` says no the connection is closed
        without the dot and all recipients are deferred in phase `data`. After a refused
        transaction the session has been reset (RSET) when it is usable.

        Raises:
            NotBegun: nothing came of it.
        """
        ...

    @property
    def alive(self) -> bool:
        """Whether anything more may be said, as far as is known without asking."""
        ...

    @property
    def reusable(self) -> bool:
        """Whether it is certain to be alive without asking: it is alive and was used just now."""
        ...

    async def check_alive(self, *, ask: bool = False) -> bool:
        """Whether it can carry another transaction; asks the relay (NOOP) after it has been idle.

        With `ask` it is asked in any case, but while it carries one: that is answer enough, and the question
        would be a line of its message.
        """
        ...

    async def try_sender(self, reverse_path: str, recipient: str = "") -> Result:
        """What the relay says to MAIL FROM with `reverse_path`, which is taken back at once (RSET).

        Where a `recipient` is named and the sender was taken, what it says to RCPT TO with that; the result's
        phase tells. No letter is sent. Without a recipient `accepted` may still turn into a refusal later:
        many relays judge the greeting and the sender only when they hear the first one. Never raises for
        anything that the relay does; a lost connection is `deferred`.
        """
        ...

    def abort(self) -> None:
        """Cut the connection now. A transaction under way ends at once as if it was lost."""
        ...

    async def close(self) -> None:
        """QUIT, within a deadline."""
        ...

    @property
    def tls(self) -> str:
        """The version of TLS that protects it, such as ``TLSv1.3``; empty for none."""
        ...

    @property
    def supports_smtputf8(self) -> bool:
        """Whether the relay offers SMTPUTF8 (RFC 6531)."""
        ...

    @property
    def supports_8bit(self) -> bool:
        """Whether the relay offers 8BITMIME (RFC 6152)."""
        ...


class Transport(Protocol):
    """The way to an SMTP server that we submit to."""

    @property
    def name(self) -> str:
        """As reports and logs tell it: its name in the file, ``host:port`` where it is not from there."""
        ...

    @property
    def address(self) -> str:
        """``host:port``."""
        ...

    @property
    def remark(self) -> str:
        """What it is found to do otherwise than it says, for an operator; empty when there is nothing."""
        ...

    def bar_logins(self, barred: Callable[[str], str]) -> None:
        """Ask `barred` before each login: it says why nobody is to log in by what has this mark, or nothing.

        A mark tells two logins (the user with a password, or a token) apart, and is of no use to guess one.
        """
        ...

    async def connect(self) -> Session:
        """Open a session: connection, TLS, EHLO, AUTH.

        Raises:
            RelayAway: it could not be opened, with the reason.
        """
        ...
