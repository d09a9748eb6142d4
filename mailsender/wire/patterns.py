r"""Regular expressions for the published schemas; `address` and `text` decide, these tell it to others.

JSON Schema leaves the dialect open, and validators run these under Python, ECMAScript, RE2 and more. So
only what means the same in all of them is used: no look-around, no ``\d``, ``\w`` or ``\p``. In some a ``$``
matches before a line break at the end, hence the bounds on length and the ``not`` beside it.

No pattern describes every internationalized address: that takes normalization and the tables of IDNA.
What `ADDRESS` matches is accepted, always. What it leaves out and is accepted all the same are longer
labels, other scripts, ``--`` beside letters beyond ASCII, and names in A-labels (``xn--``).
"""

from __future__ import annotations

from typing import Any, Final

from mailsender.address import MAX_ADDRESS, MAX_LOCAL

ID: Final = "^[0-9A-Fa-f]{24}$"

NOT_IN_A_HEADER: Final = r"[\x00-\x1f\x7f-\x9f" + "\u2028\u2029]"
"""A control character, or what some libraries take for the end of a line."""

_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-"
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9\-]{0,61}[A-Za-z0-9])?"

# Letters of Western Europe, Greek and Cyrillic, written from left to right, that no normalization changes.
_LETTERS = "À-ÖØ-öø-ÿΑ-ΡΣ-Ωα-ωА-яЁёЄєІіЇїҐґ"
# Short enough for an A-label of 63 octets, few enough for a name of 190, whatever the letters.
_LETTERS_LABEL = f"[A-Za-z0-9{_LETTERS}]([A-Za-z0-9{_LETTERS}\\-]{{0,14}}[A-Za-z0-9{_LETTERS}])?"


def _address(
    title: str, words: str, label: str, *, local: int, labels: str, refused: str, longest: int = MAX_ADDRESS
) -> dict[str, Any]:
    return {
        "title": title,
        "type": "string",
        "maxLength": longest,
        "pattern": f"^{words}@{label}(\\.{label}){labels}$",
        "allOf": [{"type": "string", "pattern": f"^[^@]{{1,{local}}}@"}],
        "not": {"type": "string", "pattern": refused},
    }


def _dot_atom(atext: str) -> str:
    return f"[{atext}]+(\\.[{atext}]+)*"


_LEFT_TO_IDNA = r"[\n]|@([^@]*\.)?[Xx][Nn]--"

PLAIN: Final = _address(
    "Plain", _dot_atom(_ATEXT), _LABEL, local=MAX_LOCAL, labels="*", refused=_LEFT_TO_IDNA
)
"""An address in ASCII whose dots stand where they should."""

DOTTED: Final = _address(
    "With a dot first, last or beside another before the @",
    f"\\.*[{_ATEXT}][{_ATEXT}.]*",
    _LABEL,
    local=MAX_LOCAL - 2,
    labels="*",
    refused=_LEFT_TO_IDNA,
    longest=MAX_ADDRESS - 2,
)
"""An address in ASCII with dots anywhere; room is kept for the quotes that it has on the wire."""

LETTERS: Final = _address(
    "With letters beyond ASCII",
    _dot_atom(_ATEXT + _LETTERS),
    _LETTERS_LABEL,
    local=MAX_LOCAL // 2,
    labels="{0,2}",
    refused=r"[\n]|--",
)
"""An internationalized one; every letter beyond ASCII in it takes two octets."""

ADDRESS: Final = {
    "description": (
        "One bare address: no name, no angle brackets, no quotes, no comments. What matches is accepted; dots"
        " may stand anywhere before the @ (a..b@docomo.ne.jp), quotes are added on the way to the relay."
        " Longer internationalized domains, further scripts and A-labels (xn--) are accepted, too, where they"
        " are valid: a schema cannot say which."
    ),
    "anyOf": [PLAIN, DOTTED, LETTERS],
}
