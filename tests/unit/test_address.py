from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsender.model.address import BadAddress, all_as_written, domain_of, folded, parse_address


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        ("a@b.c", "a@b.c"),
        ("root@localhost", "root@localhost"),
        ("O'Brien+tag{x}=y@Mail-1.Example.ORG", "O'Brien+tag{x}=y@mail-1.example.org"),
        ("a.b.c@example.org", "a.b.c@example.org"),
        ("ivan@пример.рф", "ivan@xn--e1afmkfd.xn--p1ai"),
        ("ivan@XN--E1AFMKFD.рф", "ivan@xn--e1afmkfd.xn--p1ai"),
        ("ivan@xn--e1afmkfd.xn--p1ai", "ivan@xn--e1afmkfd.xn--p1ai"),
        # Longer than the standard's 64 octets before the @, and in use (RFC 5321 §4.5.3.1 lets a client try).
        (f"reply+{'0' * 81}@reply.github.com", f"reply+{'0' * 81}@reply.github.com"),
        ("я" * 40 + "@b.c", "я" * 40 + "@b.c"),
        ("." + "x" * 100 + "@b.c", '".' + "x" * 100 + '"@b.c'),
        ("x" * 250 + "@b.c", "x" * 250 + "@b.c"),
        # Names in ASCII are DNS's to know, whatever IDNA says of what they decode to.
        ("user@xn--i-7iq.ws", "user@xn--i-7iq.ws"),
        ("user@XN--I-7IQ.ws", "user@xn--i-7iq.ws"),
        ("user@xn--i-7iq.пример.рф", "user@xn--i-7iq.xn--e1afmkfd.xn--p1ai"),
        ("user@my_host.example.com", "user@my_host.example.com"),
        ("user@_Mail_.пример.рф", "user@_mail_.xn--e1afmkfd.xn--p1ai"),
        ("иван@пример.рф", "иван@xn--e1afmkfd.xn--p1ai"),
        # Not as the standards want it, but they exist, and quotes are how SMTP says it (RFC 5321 §4.1.2).
        ("a..b@docomo.ne.jp", '"a..b"@docomo.ne.jp'),
        (".a@docomo.ne.jp", '".a"@docomo.ne.jp'),
        ("a.@docomo.ne.jp", '"a."@docomo.ne.jp'),
        ("...a...@Docomo.ne.jp", '"...a..."@docomo.ne.jp'),
        ("я..@пример.рф", '"я.."@xn--e1afmkfd.xn--p1ai'),
        ("." + "x" * 61 + "@b.c", '".' + "x" * 61 + '"@b.c'),
    ],
)
def test_takes_a_plain_address_and_says_what_goes_on_the_wire(text: str, wire: str) -> None:
    address = parse_address(text)
    assert address.wire == wire
    assert address.text == text


def test_only_a_local_part_beyond_ascii_needs_the_extension() -> None:
    assert parse_address("иван@example.org").needs_smtputf8
    assert not parse_address("ivan@пример.рф").needs_smtputf8


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("a", "no @"),
        ("@b.c", "before the @"),
        ("a@", "after the @"),
        ("a@b@c.d", "more than one @"),
        ("a@b.c, d@e.f", "not a list"),
        ("a@b.c,d@e.f", "not a list"),
        ("a@b.c;d@e.f", "not a list"),
        ("a@b.c SIZE=1", "space"),
        ("a@b.c\u00a0", "space"),
        ("a@b.c\r\nRCPT TO:<d@e.f>", "U+000D"),
        ("a@b.c\n", "U+000A"),
        ("a\x00@b.c", "U+0000"),
        ("a\u202e@b.c", "U+202E"),
        ("a\ud800@b.c", "U+D800"),
        ("<a@b.c>", "angle brackets"),
        ("Ann <a@b.c>", "space"),
        ("a(comment)@b.c", "comment"),
        ("@relay.example:a@b.c", "route"),
        ("group:a@b.c", "group"),
        ('"a"@b.c', "quoted"),
        ("a\\@b.c", "not allowed"),
        (".@b.c", "dots"),
        ("...@b.c", "dots"),
        ("a..b c@d.e", "space"),
        ('a.."@b.c', "quoted"),
        ("a..\\@b.c", "not allowed"),
        ("a..b@c..d", "domain"),
        ("." + "x" * 248 + "@b.c", "254 octets"),
        ("." + "x" * 10 + "@" + ".".join(["b" * 48] * 4) + "." + "b" * 45, "254 octets"),
        ("a\uff20evil.example@b.c", "not allowed"),  # becomes an @ where a relay folds it
        ("a\u2026b@c.d", "dots"),  # becomes three dots
        (".a\u2026b@c.d", "dots"),
        ("a\u2025@c.d", "dots"),
        ("a@[192.0.2.1]", "IP address"),
        ("a@[IPv6:2001:db8::1]", "route"),
        ("a@b..c", "domain"),
        ("a@b.c.", "ends with a dot"),
        ("a@пример.рф.", "ends with a dot"),
        ("a@пример.рф。", "ends with a dot"),
        ("a@.", "ends with a dot"),
        ("a@-b.c", "domain"),
        ("a@b-.c", "domain"),
        ("a@b c.d", "space"),
        ("a@b/c.d", "domain"),
        ("a@\u2100.org", "domain"),  # becomes a/c
        ("a@\uff20.org", "domain"),  # becomes an @
        ("a@xn--é.org", "internationalized"),
        ("a@я_.рф", "internationalized"),
        ("a@\u2603-\u2603.org", "internationalized .*xn--"),
        ("a@i\u2764\ufe0f.ws", "internationalized .*xn--"),
        ("a@" + "b" * 64 + ".c", "domain"),
        ("x" * 251 + "@b.c", "254 octets"),
        ("я" * 126 + "@b.c", "254 octets"),
        ("a@" + ".".join(["b" * 60] * 4) + ".example.org", "254 octets"),
        ("a@" + "é." * 60 + "org", "254 octets"),  # short to read, long as A-labels
        ("a" * 1_000_000, "254 octets"),
    ],
)
def test_refuses_what_is_not_one_plain_address_and_says_why(text: str, reason: str) -> None:
    with pytest.raises(BadAddress, match=reason.replace("+", r"\+")):
        parse_address(text)


@given(
    st.text(max_size=80)
    | st.from_regex(r"\A[a.я]{1,8}@[^@]{1,4}\Z")
    | st.from_regex(r"\A[^@]{1,20}@[^@]{1,20}\Z")
)
def test_whatever_is_taken_cannot_break_a_command(text: str) -> None:
    try:
        address = parse_address(text)
    except BadAddress:
        return
    local, at, domain = address.wire.partition("@")
    assert at
    assert "@" not in domain
    quoted = local.startswith('"')
    bare = local.removeprefix('"').removesuffix('"') if quoted else local
    assert local == (f'"{bare}"' if quoted else bare)
    assert not set(bare + domain) & set('\r\n\0\t <>,;:()"\\')
    assert quoted is not all(bare.split(".")), "in quotes only where the dots want it"
    assert len(address.wire.encode()) <= 254
    assert address.domain.isascii()
    assert parse_address(f"{bare}@{domain}").wire == address.wire


@pytest.mark.parametrize(
    ("address", "domain", "known_by"),
    [
        ("Ann@Example.ORG", "example.org", "ann@example.org"),
        ("Ann@b\u00fccher.Example", "xn--bcher-kva.example", "ann@xn--bcher-kva.example"),
        ("a@\uff47\uff4dail.com", "gmail.com", "a@gmail.com"),
        ("a@gmail\u3002com", "gmail.com", "a@gmail.com"),
        ("B\u00fccher.example", "xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("no domain\u00c4", "no domain\u00e4", "no domain\u00e4"),
        ("", "", ""),
    ],
)
def test_a_domain_is_known_by_what_goes_onto_the_wire(address: str, domain: str, known_by: str) -> None:
    assert domain_of(address) == domain
    assert folded(address) == known_by


@given(
    st.from_regex(r"[a-zA-Z.!+\-]{1,4}@[a-zA-Z0-9.\-]{1,8}", fullmatch=True)
    | st.from_regex(r"[a-z]{1,66}@[a-z0-9-]{1,66}", fullmatch=True)
    | st.from_regex(r"[a-zя.]{1,3}@(xn-|я|.)?[a-z.\-\n]{1,5}", fullmatch=True)
    | st.text(max_size=8)
)
def test_what_is_taken_at_a_glance_goes_onto_the_wire_as_it_is_written(text: str) -> None:
    if all_as_written([text]):
        address = parse_address(text)
        assert address.wire == text
        assert not address.needs_smtputf8


@pytest.mark.parametrize(
    ("texts", "taken"),
    [
        ([], True),
        (["ann@example.org", "o'brien+tag@mail-1.example.org", "root@localhost", "a.b@1.c"], True),
        (["x" * 61 + "@b.c"], True),
        (["x" * 62 + "@b.c"], False),
        (["a@" + "b" * 63], True),
        (["a@" + "b" * 64], False),
        (["ann@example.org", "ann@Example.org"], False),
        (["a@xn--e1afmkfd.xn--p1ai"], False),
        (["a@b.c\nd@e.f"], False),
        (["a@b.c\n"], False),
        (["я@b.c"], False),
        (["a@b.c", ""], False),
        (["a.@b.c"], False),
        (["a@b.c-"], False),
    ],
)
def test_a_glance_is_enough_for_short_plain_addresses(texts: list[str], taken: bool) -> None:
    assert all_as_written(texts) is taken


@given(st.lists(st.from_regex(r"[a-z.]{0,2}@?[a-zB.\-\n]{0,3}", fullmatch=True), max_size=3))
def test_a_glance_at_many_is_a_glance_at_each(texts: list[str]) -> None:
    assert all_as_written(texts) is all(all_as_written([text]) for text in texts)
