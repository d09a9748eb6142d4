"""What the experiments found, each by the input that shows it.

What is not mended yet is marked so, strictly (`xfail`): the test fails as soon as it is, and the mark goes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import mailsender
from proof.fuzz.sockets import http_judge
from proof.fuzz.targets import REQUIRED, settings_judge
from proof.mutants import MUTANTS, Mutant


@pytest.mark.parametrize(
    "body",
    [
        b'[{"Addresses":["a@b.c"],"Other":"\\ud800"}]',
        b'[{"Addresses":["a@b.c"],"Body":"\\ud800","BODY":"fine"}]',
        b'[{"Addresses":["a@b.c"],"\\udfff":1}]',
    ],
)
def test_half_a_surrogate_pair_in_an_ignored_key(body: bytes) -> None:
    with http_judge() as judge:
        assert judge(body) in {"200", "400"}


def test_a_complaint_about_settings_is_one_line() -> None:
    with settings_judge() as judge:
        assert judge({**REQUIRED, "HTTP_HOST": "a\nb\x1b[2J\u2028"}) == "refused"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_still_fits_the_service(mutant: Mutant) -> None:
    """One that does not would be left out, and prove nothing."""
    source = Path(mailsender.__file__).parent / mutant.file
    assert source.read_text("utf-8").count(mutant.old) == 1
