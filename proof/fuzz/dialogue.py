"""A relay that says anything at any moment, held against the SMTP protocol.

The k-th whole reply answers the k-th command: that alone says what may be written and what a letter came to,
as long as the session is not over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from random import Random

from mailsender.model.letter import Envelope, Phase, Result, Verdict
from mailsender.smtp.commands import Offers
from mailsender.smtp.learned import Learned
from mailsender.smtp.protocol import ONE_WRITE, Dialogue, Timeouts
from mailsender.smtp.transaction import Transaction

MESSAGES = (
    *(b"x\r\n", b".\r\nMAIL FROM:<evil@x.test>\r\n.\r\n", b"DATA\r\n..\r\nno end", b""),
    b"a large one\r\n.\r\n" * (ONE_WRITE // 8),
)
GOOD = {"M": b"250 2.1.0 Ok\r\n", "R": b"250 2.1.5 Ok\r\n", "D": b"354 Go on\r\n", ".": b"250 Queued\r\n"}
BAD = (
    *(b"451 4.3.0 Later\r\n", b"550 5.1.1 No\r\n", b"503 5.5.1 Sequence\r\n", b"421 Bye\r\n", b"221 Bye\r\n"),
    *(b"354 Go\r\n", b"250 Ok\r\n", b"250-more\r\n", b"2", b"\r\n", b"nonsense\r\n", b"220 Hello\r\n"),
)
_WHOLE = re.compile(rb"([2-5][0-9]{2})(?: .*)?\r?", re.DOTALL)
_COMMAND = re.compile(
    rb"(?:MAIL FROM:<s@x\.test>(?: SIZE=[0-9]+)?|RCPT TO:<[ab][0-9]+@x\.test>|DATA|RSET)\r\n"
)


class Clock:
    """It stands still."""

    def monotonic(self) -> float:
        return 0.0

    def epoch(self) -> float:
        return 0.0


class Leave:
    """Permission as the input has it; what was asked, and what was told."""

    def __init__(self, relay: Conversation, *, begins: bool, ends: bool) -> None:
        self.relay = relay
        self.begins = begins
        self.ends = ends
        self.asked: list[str] = []
        self.told = False
        self.dot_at: int | None = None

    def begin(self) -> bool:
        assert not self.asked, "begun twice"
        self.asked.append("begin")
        return self.begins

    def dot(self) -> bool:
        assert self.asked == ["begin"], self.asked
        self.asked.append("dot")
        self.dot_at = len(self.relay.said) if self.ends else None
        return self.ends

    def refused(self, results: Mapping[str, Result]) -> None:
        assert not self.told, "refused behind the reply to its dot"
        assert Verdict.ACCEPTED not in {each.verdict for each in results.values()}

    def replied(self, results: Mapping[str, Result]) -> None:
        del results
        assert self.dot_at is not None
        assert not self.told, "told twice"
        assert self.relay.code_of(self.dot_at), "told before it was answered"
        self.told = True


class Conversation:
    """One session, and the judge of what is said in it.

    `said` are the commands that were written, by their first letter, a dot for the end of a message.
    """

    def __init__(self, *, pipelining: bool) -> None:
        self.pipelining = pipelining
        offers = Offers(pipelining=pipelining, sizes=True)
        self.dialogue = Dialogue(offers, Timeouts(), Learned("", Clock(), 1.0))
        self.said: list[str] = []
        self.codes: list[int] = []  # of the whole replies that were heard
        self.half = b""  # what was heard of the next line
        self.letters: list[tuple[Transaction, Leave]] = []
        self.done: list[object] = []
        self.now = 0.0
        self.message = b""  # what was written of one, while it is not ended
        self.within = False

    def code_of(self, number: int) -> int | None:
        """The code of the reply to a command; None while there is none."""
        return self.codes[number] if number < len(self.codes) else None

    def submit(self, choice: int) -> None:
        number = len(self.letters)
        recipients = (f"a{number}@x.test", "no address", f"b{number}@x.test")[: 1 + choice % 3]
        leave = Leave(self, begins=choice % 16 != 15, ends=choice % 16 != 14)
        envelope = Envelope(reverse_path="s@x.test", recipients=recipients)
        message = MESSAGES[choice // 16 % len(MESSAGES)]
        self.letters.append((Transaction(envelope, message, leave, Offers(sizes=True)), leave))
        self.dialogue.submit(self.letters[-1][0])

    def write(self) -> None:
        """Let it write what it may, and judge that."""
        while True:
            out = bytes(self.dialogue.output(self.now))
            assert not out or self.dialogue.over is None, "written after the end"
            self._read(out)
            if not self.dialogue.streaming:
                return

    def _read(self, out: bytes) -> None:
        while out:
            if self.said and self.said[-1] == "D" and self.code_of(len(self.said) - 1) == 354:
                self.within = True
            if self.within:
                out = self._message(out)
                continue
            command = _COMMAND.match(out)
            assert command, f"no command of ours: {out[:60]!r}"
            unanswered = self.said[len(self.codes) :]
            assert self.pipelining or not unanswered, f"sent ahead: {out[:60]!r}"
            assert "D" not in unanswered, "DATA has to be the last of its group"
            verb = "S" if out.startswith(b"RSET") else out[:1].decode()
            assert verb != "M" or unanswered in ([], ["."], ["S"]), "the letter before it is before its dot"
            self.said.append(verb)
            out = out[command.end() :]

    def _message(self, out: bytes) -> bytes:
        assert len(self.codes) >= len(self.said), "a message before all commands were answered"
        self.message += out
        end = 0 if self.message.startswith(b".\r\n") else self.message.find(b"\r\n.\r\n") + 2
        if end == 1:
            return b""
        text, rest = self.message[:end], self.message[end + 3 :]
        if text:
            plain = text.replace(b"\r\n.", b"\r\n")
            plain = plain[1:] if plain.startswith(b".") else plain
            asked = [(each, leave) for each, leave in self.letters if leave.dot_at == len(self.said)]
            assert len(asked) == 1, "a message was ended without leave"
            wanted = asked[0][0].message
            assert isinstance(wanted, bytes), "none of these is in pieces"
            assert plain == wanted + (b"" if wanted.endswith(b"\r\n") else b"\r\n"), "another message"
        self.said.append(".")
        self.message, self.within = b"", False
        return rest

    def hear(self, octets: bytes) -> None:
        *lines, self.half = (self.half + octets).split(b"\n")
        self.codes += [int(found[1]) for line in lines if (found := _WHOLE.fullmatch(line))]
        self.dialogue.receive(octets)

    def answer(self) -> None:
        """A good reply to the next command that has none."""
        if len(self.codes) < len(self.said):
            self.hear(GOOD.get(self.said[len(self.codes)], b"250 Ok\r\n"))

    def tick(self) -> None:
        if self.dialogue.deadline is not None:
            self.now = self.dialogue.deadline
        self.dialogue.tick(self.now)

    def look(self) -> None:
        """Judge those that are through."""
        while self.dialogue.done:
            each = self.dialogue.done.popleft()
            assert each not in self.done, "ended twice"
            self.done.append(each)
            transaction, leave = next(pair for pair in self.letters if pair[0] is each)
            if not transaction.not_begun:
                assert not transaction.waiting, "somebody has no result"
                for address, result in transaction.results.items():
                    self._judge(address, result, leave)

    def _judge(self, address: str, result: Result, leave: Leave) -> None:
        code = None if leave.dot_at is None else self.code_of(leave.dot_at)
        if result.verdict is Verdict.ACCEPTED:
            assert code is not None, "accepted without a reply behind the dot"
            assert 200 <= code <= 219 or 230 <= code <= 299, "accepted without a 250 behind the dot"
        elif result.verdict is Verdict.REFUSED:
            # Nobody fails for good by anything but a whole reply that says so, or as it is no address.
            nobody = result.phase is Phase.RCPT and "@" not in address
            said = result.code is not None and result.code in self.codes[: len(self.said)]
            assert nobody or (said and result.code is not None and 500 <= result.code <= 599), (
                "refused for good without a reply that says so"
            )
        elif result.verdict is Verdict.UNCERTAIN:
            assert leave.dot_at is not None, "uncertain before the dot"
        elif result.verdict is Verdict.DEFERRED:
            refused = result.phase is Phase.RCPT  # by itself, before the dot
            assert leave.dot_at is None or code is not None or refused, (
                "deferred after the dot without a reply"
            )


def judge_dialogue(raw: bytes) -> str:
    """Each octet is a move: of ours, of the relay, or of time; none of them may break a promise."""
    moves: Iterator[int] = iter(raw)
    talk = Conversation(pipelining=next(moves, 0) % 3 > 0)
    for move in moves:
        kind, choice = move % 16, move // 16
        if kind < 8:
            talk.answer()
        elif kind < 10:
            talk.submit(next(moves, 0))
        elif kind == 10:
            talk.hear(BAD[choice % len(BAD)])
        elif kind == 11:
            talk.hear(bytes(next(moves, 13) for _ in range(choice)) if choice < 4 else BAD[choice % 3])
        elif kind == 12 and choice < 2:
            talk.tick()
        elif kind == 12 and choice == 2:
            talk.dialogue.end("lost")
        if kind not in {6, 7}:  # else more comes before anything is written
            talk.write()
        talk.look()
    talk.dialogue.end("lost")
    talk.look()
    assert len(talk.done) == len(talk.letters), "somebody waits for ever"
    verdicts = {r.verdict for each, _ in talk.letters if not each.not_begun for r in each.results.values()}
    shown = (Verdict.ACCEPTED, Verdict.UNCERTAIN)
    return next((each.value for each in shown if each in verdicts), "nothing sent")


def make_moves(chance: Random) -> bytes:
    """Moves that get somewhere: letters first, good answers mostly."""
    moves = [chance.randrange(256)]
    for _ in range(chance.randint(1, 3)):
        moves += [8, chance.randrange(256)]
    moves += [chance.choice((0, 0, 0, 6, 8, chance.randrange(256))) for _ in range(chance.randint(5, 50))]
    return bytes(moves)
