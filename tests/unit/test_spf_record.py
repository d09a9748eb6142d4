"""SPF records, right and wrong; many of the cases are those of the test suite of RFC 7208."""

from __future__ import annotations

from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsender.check.spf_record import MAX_LOOKUPS, Spf, check_spf_records, read_spf
from mailsender.check.txt import BadRecord

RIGHT = [
    "v=spf1",
    "v=spf1 -all",
    "V=sPf1 +ALL",
    "v=spf1 a  -all",
    "v=spf1 moo.cow-far_out=man:dog/cat ip4:1.2.3.4 -all",
    "v=spf1 all -all",
    "v=spf1 ?all",
    "v=spf1 ptr:example.Com -all",
    "v=spf1 a/0 -all",
    "v=spf1 a//0 -all",
    "v=spf1 a//33 -all",
    "v=spf1 mx/24//64 -all",
    "v=spf1 a:foo.example.com/24",
    "v=spf1 a:foo:bar/baz.example.com",
    "v=spf1 a:mail.example...com -all",
    "v=spf1 a:%{H}.bar -all",
    "v=spf1 a:foo.example.xn--zckzah -all",
    "v=spf1 a:foo.example.com. -all",
    "v=spf1 ip4:1.1.1.1/0 -all",
    "v=spf1 -ip4:1.2.3.4 ip6:::FFFF:1.2.3.4",
    "v=spf1 ip6:::1.1.1.1/0",
    "v=spf1 ip6:Cafe:Babe:8000::/33",
    "v=spf1 redirect=t5.example.com ~all",
    "v=spf1 exp=e13msg.example.com -all",
    "v=spf1 default=pass",
    "v=spf1 default=+",
    "v=spf1 a=1 all=2 -all",
    "v=spf1 exists:%{i}.%{l1r-+}._spf.%{d2} -all",
    "v=spf1 include:_spf.%{d}",
    "v=spf1 exists:%{d}%%%_%-.example.com ~all",
]
WRONG = [
    "v=spf1 ip4:1.2.3.4 -all moo",
    "v=spf1 moo.cow/far_out=man:dog/cat ip4:1.2.3.4 -all",
    "v=spf1 moo.cow:far_out=man:dog/cat ip4:1.2.3.4 -all",
    "v=spf1 ip4:1.2.3.4 redirect:t2.example.com",
    "v=spf1 -redirect=t2.example.com",
    "v=spf1 a:ctrl.example.com\rptr -all",
    "v=spf1 a:example.com\n-all",
    "v=spf1 a:foo-bar -all",
    "v=spf1 -all.",
    "v=spf1 -all:foobar",
    "v=spf1 -all/8",
    "v=spf1 ptr/0 -all",
    "v=spf1 ptr:",
    "v=spf1 a:foo.example.com\0",
    "v=spf1 a:111.222.33.44",
    "v=spf1 a:abc.123",
    "v=spf1 a:museum",
    "v=spf1 a:museum.",
    "v=spf1 a/33 -all",
    "v=spf1 mx//129 -all",
    "v=spf1 a/24/64 -all",
    "v=spf1 a:example.com:8080",
    "v=spf1 a:example.-com",
    "v=spf1 a:",
    "v=spf1 mx: -all",
    "v=spf1 include +all",
    "v=spf1 include: -all",
    "v=spf1 include:ip5.example.com/24 -all",
    "v=spf1 exists",
    "v=spf1 exists:",
    "v=spf1 exists:mail.example.com/24",
    "v=spf1 ip4:1.2.3.4/33 -all",
    "v=spf1 ip4:1.2.3.4/032 -all",
    "v=spf1 ip4",
    "v=spf1 ip4:1.2.3.4//32",
    "v=spf1 ip4:1.2.3.4:8080",
    "v=spf1 ip4:1.2.3",
    "v=spf1 ip4:1.2.3.0/255.255.255.0",
    "v=spf1 -all ip6",
    "v=spf1 ip6:::1.1.1.1/129",
    "v=spf1 ip6:::1.1.1.1//33",
    "v=spf1 ip6::CAFE::BABE",
    "v=spf1 ip6:fe80::1%eth0",
    "v=spf1 1up=foo",
    "v=spf1 =all",
    "v=spf1 -all foo=%abc",
    "v=spf1 exp= -all",
    "v=spf1 exp=e13msg.example.com -all exp=e11msg.example.com",
    "v=spf1 redirect=e12.example.com -all redirect=e12.example.com",
    "v=spf1 exp=-all",
    "v=spf1 redirect=-all ?all",
    "v=spf1 ?all redirect=",
    "v=spf1 a:%{c}.example.com",
    "v=spf1 exists:%a.example.com",
    "v=spf1 exists:foo%.example.com",
    "v=spf1 exists:example.com%",
    "v=spf1 a:%{a}.example.com",
    "v=spf1 -all,",
    "v=spf1 ip4:1.2.3.4, -all",
    "v=spf1 --all",
    'v=spf1 -all"',
]


@pytest.mark.parametrize("text", RIGHT)
def test_what_follows_the_grammar_is_read(text: str) -> None:
    assert isinstance(read_spf(text), Spf)
    assert not any(
        "take the whole record" in finding.text for finding in check_spf_records("d.example", [text.encode()])
    )


@pytest.mark.parametrize("text", WRONG)
def test_a_fault_anywhere_is_found(text: str) -> None:
    with pytest.raises(BadRecord):
        read_spf(text)
    [finding] = check_spf_records("d.example", [text.encode()])
    assert (finding.part, finding.level) == ("SPF d.example", "error")
    assert finding.text.startswith("the record has ")
    assert finding.text.endswith("; receivers take the whole record for an error")
    assert finding.text.isprintable()


def test_the_faulty_word_is_named() -> None:
    with pytest.raises(BadRecord, match=r'has "ip4:1\.2\.3\.4,", which is no address or network of ip4'):
        read_spf("v=spf1 ip4:1.2.3.4, -all")


@pytest.mark.parametrize(
    ("text", "lookups", "follows", "rest"),
    [
        ("v=spf1 -all", 0, (), "-"),
        ("v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 ~all", 0, (), "~"),
        ("v=spf1 a mx ptr exists:%{i}.example.com include:a.example ?all", 5, ("a.example",), "?"),
        (
            "v=spf1 include:a.example -include:b.example redirect=c.example",
            3,
            ("a.example", "b.example", "c.example"),
            "",
        ),
        ("v=spf1 mx -all redirect=c.example a", 1, (), "-"),
        ("v=spf1 mx all", 1, (), "+"),
        ("v=spf1 exp=e.example other=x.example a", 1, (), "?"),
    ],
)
def test_what_a_record_says(text: str, lookups: int, follows: tuple[str, ...], rest: str) -> None:
    spf = read_spf(text)
    assert (spf.lookups, spf.follows, spf.rest) == (lookups, follows, rest)


@pytest.mark.parametrize(
    ("records", "level", "reason"),
    [
        ([], "warning", "DNS has no SPF record"),
        ([b"google-site-verification=x", b"\x80"], "warning", "DNS has no SPF record"),
        ([b"v=spf10 -all"], "warning", 'it has to begin with "v=spf1 "'),
        ([b'"v=spf1 -all"'], "warning", "is none to receivers"),
        ([b"v=spf1;-all"], "warning", "is none to receivers"),
        ([b"v=spf2.0/pra -all"], "warning", "is none to receivers"),
        ([b"v=spf1 -all", b"V=SPF1 -all"], "error", "DNS has 2 SPF records"),
        ([b"v=spf1 a:\xef\xbb\xbfgarbage.example.net -all"], "error", "holds characters beyond ASCII"),
        ([b"v=spf1 " + b"a " * 2100 + b"-all"], "error", "no more than 4096 are read"),
        ([b"v=spf1 +all"], "error", "lets everybody send"),
        ([b"v=spf1 mx all"], "error", "lets everybody send"),
        ([b"v=spf1 ip4:0.0.0.0/0 -all"], "warning", "lets a large part of the Internet send"),
        ([b"v=spf1 +ip4:128.0.0.0/1 -all"], "warning", "lets a large part of the Internet send"),
        ([b"v=spf1 ip6:::/0 -all"], "warning", "lets a large part of the Internet send"),
        ([b"v=spf1 ptr -all"], "warning", '"ptr" is slow and unsafe'),
        ([b"v=spf1 mx ?all"], "warning", "says nothing about all others"),
        ([b"v=spf1 mx"], "warning", "says nothing about all others"),
        ([b"v=spf1 -all mx"], "warning", "counts for nothing"),
        ([b"v=spf1 -all redirect=a.example"], "warning", "counts for nothing"),
        ([b"v=spf1 " + b" ".join([b"ip4:192.0.2.1"] * 40) + b" -all"], "warning", "has 571 characters"),
        ([b"v=spf1 " + b"a " * 11 + b"-all"], "error", f"needs 11 lookups in DNS, and over {MAX_LOOKUPS}"),
        ([b"v=spf1 " + b"a " * 10 + b"redirect=b.example"], "error", "needs 11 lookups"),
        ([b"v=spf1 " + b"a " * 10 + b"-all", b"other"], "ok", "needs 10 of 10 lookups"),
        ([b"v=spf1 -ip4:0.0.0.0/0 ip4:10.0.0.0/8 -all"], "ok", "needs 0 of 10 lookups"),
        ([b"v=spf1 include:a.example -all"], "ok", "needs 1 of 10 lookups, and those of a.example"),
    ],
)
def test_what_is_found(records: list[bytes], level: str, reason: str) -> None:
    [finding] = check_spf_records("d.example", records)
    assert finding.level == level
    assert reason in finding.text


PARTS = [
    "v=spf1",
    " ",
    "a",
    "mx",
    "ip4:",
    "1.2.3.4",
    "/24",
    "include:",
    "a.example",
    "%{i}",
    "%",
    "all",
    "-",
    "=",
    "\n",
]


@given(st.one_of(st.binary(max_size=80), st.lists(st.sampled_from(PARTS)).map(lambda p: "".join(p).encode())))
def test_any_octets_have_findings_that_can_be_printed(octets: bytes) -> None:
    for record in (octets, b"v=spf1 " + octets):
        findings = check_spf_records("d.example", [record])
        assert findings
        assert all(finding.text.isprintable() for finding in findings)


@pytest.mark.parametrize("part", ["a.", "%{d}", "a:b.", ".", "-a", "%%", "0/", "::", "%{i0000"])
def test_no_record_takes_long(part: str) -> None:
    long = (part * 4096)[:4080]
    before = perf_counter()
    for term in (f"a:{long}!", f"exists:{long}", f"x={long}%", f"ip6:{long}", f"include:{long}.com%"):
        check_spf_records("d.example", [f"v=spf1 {term}".encode()[:4096]])
    assert perf_counter() - before < 2
