r"""Regular expressions for the published schemas; `address` and `text` decide, these tell it to others.

JSON Schema leaves the dialect open, and validators run these under Python, ECMAScript, RE2 and more. So
only what means the same in all of them is used: no look-around, no ``\d``, ``\w`` or ``\p``. In some a ``$``
matches before a line break at the end, hence the bounds on length and the ``not`` beside it.

No pattern describes every internationalized address: that takes normalization and the tables of IDNA.
What `ADDRESS` matches is accepted, always, and of addresses in ASCII nothing else is. What it leaves out of
those with letters beyond ASCII, and is accepted all the same, are other scripts, longer parts, and ``--``
and ``_`` in the domain.
"""

from __future__ import annotations

from typing import Any, Final

from mailsender.model.address import MAX_ADDRESS

ID: Final = "^[0-9A-Fa-f]{24}$"

REF: Final = "^sha256:[0-9a-f]{64}$"
"""The name of a blob."""

BASE64: Final = (
    r"^(([A-Za-z0-9+/]{4})*\r?\n)*([A-Za-z0-9+/]{4})*"
    r"(([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)(\r?\n)*)?$"
)
"""A content (RFC 4648 §4), in lines or without; with line breaks at other places it is accepted, too."""

MEDIA_TYPE: Final = (
    "^(application|audio|font|image|model|text|video)/[A-Za-z0-9][A-Za-z0-9!#$&^_.+\\-]{0,99}$"
)
"""The types that files have. Others, and parameters, are accepted, too, where they are valid."""

CONTENT_ID: Final = r"^[A-Za-z0-9!#$&'*+/=?^_`{|}~.@\-]{1,200}$"
"""In angle brackets it is accepted, too."""

_WAIT = "([1-9][0-9]?[smh]|[1-7]d)([*][1-9])?"

SCHEDULE: Final = f"^{_WAIT}(, ?{_WAIT}){{0,9}}$"
"""When to try again. Longer ones, waits of several units and other spaces are accepted, too."""

_DAY_OF_YEAR = (
    "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
)

MOMENT: Final = (
    f"^[12][0-9]{{3}}-{_DAY_OF_YEAR}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{{1,9}})?"
    "(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)
"""A time with its zone (RFC 3339 §5.6). The 29th of February is accepted, too, where there is one."""

NOT_IN_A_HEADER: Final = r"[\x00-\x1f\x7f-\x9f" + "\u2028\u2029]"
"""A control character, or what some libraries take for the end of a line."""

_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-"
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_\-]{0,61}[A-Za-z0-9_])?"

# Letters of Western Europe, Greek and Cyrillic, written from left to right, that no normalization changes.
_LETTERS = "À-ÖØ-öø-ÿΑ-ΡΣ-Ωα-ωА-яЁёЄєІіЇїҐґ"
# As an A-label of 16 of these letters takes 42 octets at most (by trial), a name of three of them takes 128.
_LETTERS_LABEL = f"[A-Za-z0-9{_LETTERS}]([A-Za-z0-9{_LETTERS}\\-]{{0,14}}[A-Za-z0-9{_LETTERS}])?"
# Of two octets each: with the @ and such a name they are fewer than an address may have.
_LETTERS_LOCAL = 50


def _address(title: str, words: str, domain: str, *, refused: str, longest: int) -> dict[str, Any]:
    return {
        "title": title,
        "type": "string",
        "maxLength": longest,
        "pattern": f"^{words}@{domain}$",
        "not": {"type": "string", "pattern": refused},
    }


def _dot_atom(atext: str) -> str:
    return f"[{atext}]+(\\.[{atext}]+)*"


_DOMAIN = f"{_LABEL}(\\.{_LABEL})*"

PLAIN: Final = _address("Plain", _dot_atom(_ATEXT), _DOMAIN, refused=r"[\n]", longest=MAX_ADDRESS)
"""An address in ASCII whose dots stand where they should."""

DOTTED: Final = _address(
    "With a dot first, last or beside another before the @",
    f"\\.*[{_ATEXT}][{_ATEXT}.]*",
    _DOMAIN,
    refused=r"[\n]",
    longest=MAX_ADDRESS - 2,
)
"""An address in ASCII with dots anywhere; room is kept for the quotes that it has on the wire."""

LETTERS: Final = _address(
    "With letters beyond ASCII",
    _dot_atom(_ATEXT + _LETTERS),
    f"{_LETTERS_LABEL}(\\.{_LETTERS_LABEL}){{0,2}}",
    refused=rf"[\n]|--|[^@]{{{_LETTERS_LOCAL + 1}}}@",
    longest=MAX_ADDRESS,
)
"""An internationalized one; every letter beyond ASCII in it takes two octets."""

ADDRESS: Final = {
    "description": (
        "One bare address: no name, no angle brackets, no quotes, no comments. What matches is accepted; dots"
        " may stand anywhere before the @ (a..b@docomo.ne.jp), quotes are added on the way to the relay."
        " Longer internationalized domains and further scripts are accepted, too, where they are valid: a"
        " schema cannot say which."
    ),
    "anyOf": [PLAIN, DOTTED, LETTERS],
}
