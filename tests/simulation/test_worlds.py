"""A few worlds of each kind keep all promises, a seed has one history, and the judge sees what is broken.

`python -m simulation KIND --seed N` tries others; `make proof` a million letters.
"""

from __future__ import annotations

import pytest

from simulation.judge import shown
from simulation.mutants import MUTANTS, attempt
from simulation.worlds import KINDS, run_seed

HOURS = 4.0


WORLDS = [(name, 1) for name in KINDS if name not in {"mass", "metered"}]
# In the others something happened once. Here letters waited for a relay that refuses everybody, the store of
# slots went away, and senders asked again and again without a pause.
FOUND = [("several", 4)]


@pytest.mark.parametrize(("name", "seed"), [*WORLDS, *FOUND])
def test_promises_are_kept(name: str, seed: int) -> None:
    outcome = run_seed(KINDS[name], seed, HOURS).run(HOURS)
    lines = shown(outcome.faults)
    assert not lines, "\n".join([f"python -m simulation {name} --seed {seed} --hours {HOURS:g}", *lines])
    assert outcome.letters > 20
    assert outcome.transactions >= outcome.letters * 0.8


def test_a_seed_has_one_history() -> None:
    first, second = (run_seed(KINDS["dying"], 2, 2.0).run(2.0) for _ in range(2))
    assert first.digest == second.digest
    assert first.transactions > 100


def test_mutants_have_their_places_and_names() -> None:
    assert [each.name for each in MUTANTS if not each.fits()] == []
    assert len({each.name for each in MUTANTS}) == len(MUTANTS)
    assert {each.kind for each in MUTANTS} <= KINDS.keys()


@pytest.mark.parametrize("name", ["some reports are never made", "slots lie closer together than they may"])
def test_a_mutant_is_found_out(name: str) -> None:
    mutant = next(each for each in MUTANTS if each.name == name)
    assert attempt(mutant)
