"""One step of the proof: what it runs, about how long that takes, and which steps a cache holds already."""

from __future__ import annotations

import ast
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import blake2b
from pathlib import Path

from proof.stage import Stage
from proof.table import Row

HARNESS = Path(__file__).parent
SIMULATION = HARNESS.parent / "simulation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says. `runs` of None: as many as the part finds right.

    `rate`, in letters a second, and `form` are for kills alone: those at that rate, or in that form, only.
    `jobs` steps run beside each other.
    """

    seed: int
    runs: int | None = None
    short: bool = False
    rate: int | None = None
    form: str = ""
    jobs: int = 1

    def count(self, full: int, short: int) -> int:
        """How many blows or inputs."""
        return self.runs or (short if self.short else full)

    @property
    def full(self) -> bool:
        """Whether this is the proof as it is published, and no quick look."""
        return self.runs is None and not self.short and self.rate is None and not self.form


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One row of the table to be. `name` tells it from all others; `seconds` is what it took once.

    `cores` are those that it keeps busy, on average, with all its parts; a `quiet` one judges times that
    others may spoil.
    """

    name: str
    seconds: float
    make: Callable[[Stage], Row]
    cores: float = 0.0
    quiet: bool = False

    def row(self, stage: Stage, options: Options) -> Row:
        """Run it. What breaks the harness itself is told as a row, so that the steps behind it still run."""
        began = time.monotonic()
        try:
            made = self.make(stage)
        except Exception as error:  # noqa: BLE001  any error of an experiment is told, and ends no night's work
            what = f"{type(error).__name__}: {error}"
            made = Row(
                experiment=self.name,
                seed=options.seed,
                runs=0,
                verdict="BROKEN: the experiment failed",
                details=(" ".join(what.split()),),
                seconds=time.monotonic() - began,
            )
        return replace(made, step=self.name, tree=digest(stage.tree) if options.full else "")


def digest(tree: Path) -> str:
    """Names what is tried and what tries it, so that a row is not taken for that of another state of them.

    It is made of what runs: another comment or docstring makes no other state, and a night's rows last.
    """
    state = blake2b(digest_size=8)
    for root in (tree / "mailsender", HARNESS, SIMULATION):
        for path in sorted(root.rglob("*.py")):
            state.update(f"{path.relative_to(root)}\0".encode() + _what_runs(path.read_bytes()))
    return state.hexdigest()


@cache
def _what_runs(source: bytes) -> bytes:
    """Names a module's syntax tree without its docstrings. Kept: to read all modules takes two seconds."""
    module = ast.parse(source)
    for node in ast.walk(module):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            ast.get_docstring(node, clean=False) is not None
        ):
            del node.body[0]
    return blake2b(ast.dump(module).encode()).digest()


def left(steps: Sequence[Step], rows: Iterable[Row], tree: Path) -> list[Step]:
    """The steps of which no row of the full proof of this very state is there yet."""
    now = digest(tree)
    there = {each.step for each in rows if each.tree == now}
    return [each for each in steps if each.name not in there]
