"""The letters in flight: which, under which token, and until when they are certainly ours. No I/O."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable

from mailsender.journal.port import Journal, NoJournal
from mailsender.model.letter import REPLICA_DIGITS, Claim, replica_of

_LONG_AGO = float("-inf")


class InFlight:
    """Which letters are in flight, and under which token.

    What ends is told to the `journal`. `replica` names this process as others know it, and a successor that
    has its journal. Until `alive_until`, on the monotonic clock, nobody gives its letters to others.
    `asked` are the tokens of claims under way, and `doubts` counts those that were never answered, so that
    letters may be ours in the queue of which nobody here knows.
    Whoever may find too many letters here takes `eased` before it looks, and waits for that: it is set once,
    when some have left, and another takes its place.
    """

    def __init__(self, journal: Journal | None = None) -> None:
        self.journal = journal or NoJournal()
        self.replica = self.journal.replica or secrets.token_hex(REPLICA_DIGITS // 2)
        self.alive_until = _LONG_AGO
        self.asked: set[str] = set()
        self.doubts = 0
        self._tokens: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._decided: set[str] = set()
        self.bytes = 0
        self.eased = asyncio.Event()

    def __len__(self) -> int:
        return len(self._tokens)

    def new_token(self) -> str:
        """A token for a claim: the replica's ID, and as many hex digits more."""
        return self.replica + secrets.token_hex(REPLICA_DIGITS // 2)

    @property
    def joined(self) -> bool:
        """Whether others know us by our name. Before that they would give away what we claim under it."""
        return self.alive_until > _LONG_AGO

    def ask(self) -> str:
        """A token for a claim that is under way until it is `answered`, or nobody expects that any more."""
        token = self.new_token()
        self.asked.add(token)
        return token

    def answered(self, token: str) -> None:
        """A claim is over, and what it took is known."""
        self.asked.discard(token)

    def unanswered(self, token: str) -> None:
        """A claim is over, and nobody knows what it took, or will take yet."""
        self.asked.discard(token)
        self.doubts += 1

    @property
    def in_doubt(self) -> bool:
        """Whether letters may be under our name, or come under it still, of which nobody here knows."""
        return bool(self.doubts or self.asked)

    def is_own(self, token: str) -> bool:
        """Whether a token was made under the present name: else its letters are those of a dead replica."""
        return replica_of(token) == self.replica

    def take(self, claim: Claim) -> None:
        """Note a claim's letters."""
        # It was given away unnoticed, and came back: the old claim is over.
        self.drop([letter.id for letter in claim.letters if letter.id in self._tokens])
        for letter in claim.letters:
            self._tokens[letter.id] = claim.token
            self._sizes[letter.id] = letter.size
            self.bytes += letter.size

    def drop(self, ids: Iterable[str]) -> None:
        """Forget letters that were settled, released or lost; repeating it does no harm."""
        ended: dict[str, list[str]] = {}
        for letter_id in ids:
            token = self._tokens.pop(letter_id, None)
            if token is None:
                continue
            ended.setdefault(token, []).append(letter_id)
            self.bytes -= self._sizes.pop(letter_id)
            self._decided.discard(letter_id)
        if ended:
            self.ease()
            self.journal.done(ended)

    def begin_anew(self) -> int:
        """Drop all letters, which are others' now, and take another name; returns how many they were."""
        lost = len(self._tokens)
        self.drop(list(self._tokens))
        self.alive_until = _LONG_AGO
        self.replica = self.journal.new_replica() or secrets.token_hex(REPLICA_DIGITS // 2)
        return lost

    def ease(self) -> None:
        """Tell those who wait that there is more room."""
        eased, self.eased = self.eased, asyncio.Event()
        eased.set()

    def decide(self, token: str, letter_id: str) -> None:
        """Note that what becomes of a letter only waits to be written; whoever writes it drops it."""
        if self._tokens.get(letter_id) == token:
            self._decided.add(letter_id)

    def decided(self, letter_id: str) -> bool:
        """Whether its outcome, or its return, waits to be written or is being written."""
        return letter_id in self._decided

    def token(self, letter_id: str) -> str | None:
        """The token under which a letter is in flight, None when it is not."""
        return self._tokens.get(letter_id)

    def lasts(self, token: str, letter_id: str) -> float:
        """Until when a letter is certainly ours under `token`; -inf once it was lost, though it came back."""
        return self.alive_until if self._tokens.get(letter_id) == token else _LONG_AGO
