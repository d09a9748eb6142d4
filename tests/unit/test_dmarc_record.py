"""DMARC records, and whether letters are aligned; the examples are those of RFC 9989 where it has some."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsender.check.dmarc_record import (
    Dmarc,
    check_dmarc,
    dmarc_domains,
    organizational_domain,
    read_dmarc,
)
from mailsender.check.findings import Finding, worst
from mailsender.check.txt import BadRecord


def read(text: str) -> Dmarc:
    record = read_dmarc([text.encode()])
    assert record is not None
    return record


def found(
    records: Mapping[str, str],
    *,
    domain: str = "example.com",
    signing: tuple[str, ...] = ("example.com",),
    reverse_path: str = "example.com",
) -> list[Finding]:
    findings = check_dmarc(
        domain,
        {each: [text.encode()] for each, text in records.items()},
        signing=signing,
        reverse_path=reverse_path,
    )
    assert {finding.part for finding in findings} == {f"DMARC {domain}"}
    return findings


# --- reading -------------------------------------------------------------------------------------


def test_defaults() -> None:
    assert read("v=DMARC1; p=reject") == Dmarc(
        policy="reject",
        subdomains="reject",
        strict_dkim=False,
        strict_spf=False,
        psd="u",
        reports=(),
        remarks=(),
    )


def test_everything_said() -> None:
    text = (
        "v = DMARC1 ; p=Quarantine; sp=NONE; np=reject; adkim=S; aspf=s; psd=n; fo=1:d; unknown=x;"
        " rua=mailto:a@example.com!10m , mailto:b%2Bc@example.org?subject=x ; ruf=mailto:f@example.com;"
    )
    assert read(text) == Dmarc(
        policy="quarantine",
        subdomains="none",
        strict_dkim=True,
        strict_spf=True,
        psd="n",
        reports=("a@example.com", "b+c@example.org"),
        remarks=(),
    )


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        ("v=DMARC1; rua=mailto:a@b.example", "has no p=: receivers take it for p=none"),
        ("v=DMARC1; p=deny; rua=mailto:a@b.example", "a p= that nobody knows: receivers take it for p=none"),
        ("v=DMARC1; p=reject; sp=all; rua=mailto:a@b.example", "a sp= that nobody knows"),
        ("v=DMARC1; p=reject; np=; rua=mailto:a@b.example", "a np= that nobody knows"),
        ("v=DMARC1; p=none; adkim=strict", 'adkim= is "strict", which nobody knows; write r or s'),
        ("v=DMARC1; p=none; aspf=", 'aspf= is "", which nobody knows'),
        ("v=DMARC1; p=none; psd=x", "psd= is"),
        ("v=DMARC1; p=reject; t=y", "says t=y: a policy one step milder"),
        ("v=DMARC1; p=reject; pct=50", "pct= counts no longer"),
        ("v=DMARC1; p=none; rua=a@example.com", '"a@example.com" in rua= is no URI; write mailto:'),
        ("v=DMARC1; p=none; rua=a", "is no URI"),
        ("v=DMARC1; p=none; rua=https://example.com/x", "in rua= is no mailto:"),
        ("v=DMARC1; p=none; rua=mailto:nobody", "in rua= names no address: it has no @"),
        ("v=DMARC1; p=none; rua=mailto:a@b.example,", '"" in rua= is no URI'),
        ("v=DMARC1; p=none; ruf=mailto:a b@c.example", "in ruf= names no address: it holds a space"),
    ],
)
def test_what_receivers_take_otherwise_is_remarked(text: str, remark: str) -> None:
    [said] = read(text).remarks
    assert remark in said


def test_a_policy_that_nobody_knows_counts_as_none() -> None:
    record = read("v=DMARC1; p=reject; sp=all; rua=mailto:a@b.example")
    assert (record.policy, record.subdomains) == ("none", "none")


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([b"v=DMARC1; p=none", b"v=DMARC1; p=none"], "is there more than once"),
        ([b"v=DMARC1; sp=none"], "has no p=, and no rua=: receivers ignore it"),
        ([b"v=DMARC1; p=deny"], "has a p= that nobody knows, and no rua=: receivers ignore it"),
        ([b"v=DMARC1; p=deny; rua=a@example.com"], "has a p= that nobody knows, and no rua="),
        ([b"v=DMARC1; p=none; p=reject"], 'has its tag "p" twice'),
        ([b"v=DMARC1; none"], 'has "none" where a tag should be'),
        ([b"p=none; v=DMARC1"], 'it has to begin with "v=DMARC1;"'),
        ([b"v=dmarc1; p=none"], "is none to receivers"),
        ([b"v=DMARC1 p=none"], "is none to receivers"),
        ([b'"v=DMARC1; p=none"'], "is none to receivers"),
        ([b"v=DMARC1; p=none; x=\xff"], "holds characters beyond ASCII"),
        ([b"v=DMARC1; p=none; x=" + b"x" * 4096], "no more than 4096 are read"),
    ],
)
def test_what_receivers_ignore_is_refused(records: list[bytes], reason: str) -> None:
    with pytest.raises(BadRecord) as refused:
        read_dmarc(records)
    assert reason in str(refused.value)


def test_other_texts_are_none() -> None:
    assert read_dmarc([]) is None
    assert read_dmarc([b"v=spf1 -all", b"\xff", b"x" * 10_000]) is None


# --- alignment -----------------------------------------------------------------------------------


def test_the_walk_up_the_tree() -> None:
    assert dmarc_domains("a.b.c.d.e.f.g.h.i.j.mail.example.com") == (
        "a.b.c.d.e.f.g.h.i.j.mail.example.com",
        "g.h.i.j.mail.example.com",
        "h.i.j.mail.example.com",
        "i.j.mail.example.com",
        "j.mail.example.com",
        "mail.example.com",
        "example.com",
        "com",
    )
    assert dmarc_domains("a.example.com") == ("a.example.com", "example.com", "com")
    assert len(dmarc_domains("1.2.3.4.5.6.7.8")) == len(dmarc_domains("1.2.3.4.5.6.7.8.9")) == 8
    assert dmarc_domains("localhost") == ("localhost",)


NONE, OWN, SUFFIX = (f"v=DMARC1; p=none{psd}" for psd in ("", "; psd=n", "; psd=y"))


@pytest.mark.parametrize(
    ("records", "organization"),
    [
        ({"mail.example.com": NONE, "example.com": NONE}, "example.com"),
        ({"mail.example.com": OWN, "example.com": NONE}, "mail.example.com"),
        ({"com": SUFFIX}, "example.com"),
        ({"example.com": SUFFIX}, "mail.example.com"),
        ({"a.mail.example.com": SUFFIX, "example.com": NONE}, "example.com"),
        ({"mail.example.com": NONE}, "mail.example.com"),
        ({"other.example": NONE}, "a.mail.example.com"),
        ({}, "a.mail.example.com"),
    ],
)
def test_the_organizational_domain(records: dict[str, str], organization: str) -> None:
    read_records = {domain: read(text) for domain, text in records.items()}
    assert organizational_domain("a.mail.example.com", read_records) == organization


def test_a_signature_of_the_very_domain_is_aligned() -> None:
    for mode in ("", "; adkim=s; aspf=s"):
        [finding] = found({"example.com": f"v=DMARC1; p=reject{mode}"})
        assert finding.level == "ok"
        assert (
            finding.text == "the policy of _dmarc.example.com is reject; letters are aligned by DKIM and SPF"
        )


def test_a_domain_below_takes_its_policy_from_above() -> None:
    [finding] = found({"example.com": "v=DMARC1; p=reject; sp=quarantine"}, domain="news.example.com")
    assert finding.level == "ok"
    assert "is quarantine; letters are aligned by DKIM and SPF" in finding.text


@pytest.mark.parametrize(
    ("records", "signing", "reverse_path", "level", "said"),
    [
        # relaxed: above, below and beside
        ({"example.com": "p=reject"}, ("example.com",), "x.example", "ok", "aligned by DKIM"),
        ({"example.com": "p=reject"}, ("a.news.example.com",), "x.example", "ok", "aligned by DKIM"),
        ({"example.com": "p=reject"}, ("shop.example.com",), "x.example", "ok", "aligned by DKIM"),
        ({"example.com": "p=reject"}, (), "bounce.example.com", "warning", "by SPF alone"),
        ({"example.com": "p=reject"}, (), "x.example", "error", "neither by DKIM nor by SPF"),
        ({"example.com": "p=none"}, (), "x.example", "warning", "neither by DKIM nor by SPF"),
        ({"example.com": "p=reject; sp=none"}, (), "x.example", "warning", "is none"),
        ({"example.com": "p=reject"}, ("notexample.com",), "x.example", "error", "sign with a key of"),
        # strict
        (
            {"example.com": "p=reject; adkim=s"},
            ("example.com",),
            "x.example",
            "error",
            "adkim=s wants a key of",
        ),
        ({"example.com": "p=reject; adkim=s"}, ("news.example.com",), "x.example", "ok", "by DKIM"),
        ({"example.com": "p=reject; aspf=s"}, (), "example.com", "error", "neither"),
        # no record above: the two are not of one organization
        (
            {"news.example.com": "p=reject"},
            ("example.com",),
            "x.example",
            "error",
            "a record of _dmarc.example.com",
        ),
        ({"news.example.com": "p=reject"}, ("example.com",), "news.example.com", "warning", "by SPF alone"),
        # a public suffix between
        ({"example.com": "p=none; psd=y"}, ("example.com",), "x.example", "warning", "neither"),
    ],
)
def test_alignment(
    records: dict[str, str], signing: tuple[str, ...], reverse_path: str, level: str, said: str
) -> None:
    texts = {domain: f"v=DMARC1; {text}" for domain, text in records.items()}
    [finding] = found(texts, domain="news.example.com", signing=signing, reverse_path=reverse_path)
    assert (finding.level, said in finding.text) == (level, True), finding.text


def test_no_record_is_a_warning() -> None:
    [finding] = found({}, domain="news.example.com")
    assert finding.level == "warning"
    assert "DNS has no valid record" in finding.text


def test_a_bad_record_is_an_error_and_remarks_are_warnings() -> None:
    [finding] = found({"example.com": "v=DMARC1; p=deny"})
    assert finding.level == "error"
    assert finding.text.startswith("the record of _dmarc.example.com has a p= that nobody knows")
    findings = found({"example.com": "v=DMARC1; p=reject; t=y; rua=x"})
    assert [finding.level for finding in findings] == ["warning", "warning", "ok"]


def test_bad_records_of_others_are_not_told() -> None:
    findings = found({"example.com": NONE, "x.example": "v=DMARC1; p=deny"}, reverse_path="x.example")
    assert worst(findings) == "ok"


PARTS = [
    "v=DMARC1",
    ";",
    " ",
    "p=",
    "none",
    "rua=",
    "mailto:",
    "a@b.example",
    ",",
    "psd=y",
    "sp=",
    "\n",
    "\x1b",
    "é",
]
OCTETS = st.one_of(
    st.binary(max_size=80), st.lists(st.sampled_from(PARTS)).map(lambda p: "".join(p).encode())
)


@given(st.dictionaries(st.sampled_from(dmarc_domains("a.example.com")), st.lists(OCTETS, max_size=2)))
def test_any_octets_have_findings_that_can_be_printed(records: dict[str, list[bytes]]) -> None:
    with_version = {
        domain: [b"v=DMARC1;" + text if len(text) % 2 else text for text in texts]
        for domain, texts in records.items()
    }
    findings = check_dmarc(
        "a.example.com", with_version, signing=["example.com"], reverse_path="b.example.com"
    )
    assert findings
    assert all(finding.text.isprintable() for finding in findings)
