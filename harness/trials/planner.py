"""The order of a run: randomised complete blocks. Pure: the same scenario and seed give the same plan anywhere.

In every block each runtime starts once, in a random order of its own, so that slow drift of the host (heat, page cache,
neighbours) falls on all runtimes alike. More samples do not repair a sequential order; they make it worse.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.model.records import TrialSpec

if TYPE_CHECKING:
    from harness.model.scenario import AnyScenario


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run may do. `runtimes` are (name, backend) in the scenario's order, of a study (arm, `study:KIND`).

    Blocks count from 0, warm-up blocks first: `warmup_blocks` of them, then between `min_blocks` and `max_blocks` that
    count. The adaptive stop takes one block after the other with `block_trials`.
    """

    scenario: str
    seed: int
    control: str
    runtimes: tuple[tuple[str, str], ...]
    warmup_blocks: int
    min_blocks: int
    max_blocks: int

    @property
    def block_count(self) -> int:
        """Blocks at most, warm-up included."""
        return self.warmup_blocks + self.max_blocks

    @property
    def trials(self) -> tuple[TrialSpec, ...]:
        """Every trial of a run that goes to `max_blocks`, in order."""
        return tuple(trial for block in range(self.block_count) for trial in self.block_trials(block))

    def block_trials(self, block: int) -> tuple[TrialSpec, ...]:
        """Return one block's trials in their order. It depends on the seed and the block's number alone.

        Raises: IndexError for a block that is not in the plan.
        """
        if not 0 <= block < self.block_count:
            raise IndexError(f"block {block}: the plan has {self.block_count}")
        order = list(self.runtimes)
        # Seeding with a string and shuffle() give the same order in every Python since 3.2 (random.seed, version 2).
        random.Random(f"{self.seed}:{block}").shuffle(order)
        warmup = block < self.warmup_blocks
        return tuple(
            TrialSpec(f"{'w' if warmup else 'b'}{block:02d}-{runtime}", block, place, runtime, backend, warmup)
            for place, (runtime, backend) in enumerate(order)
        )


def plan(scenario: AnyScenario, seed: int) -> Plan:
    """Return the plan of a scenario; `seed` is the scenario's own or one from `choose_seed`."""
    return Plan(
        scenario=scenario.name,
        seed=seed,
        control=scenario.control,
        runtimes=tuple(scenario.contenders.items()),
        warmup_blocks=scenario.trials.warmup,
        min_blocks=scenario.trials.blocks.min,
        max_blocks=scenario.trials.blocks.max,
    )


def choose_seed() -> int:
    """Return a fresh seed, short enough to be typed again."""
    return random.SystemRandom().randrange(1_000_000)
