"""The order of a run: randomised complete blocks. Pure: the same scenario and seed give the same plan anywhere.

In every block each runtime starts once, in a random order of its own, so that slow drift of the host (heat, page cache,
neighbours) falls on all runtimes alike. More samples do not repair a sequential order; they make it worse.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.model.records import TrialSpec, base_name

if TYPE_CHECKING:
    from harness.model.scenario import AnyScenario

EXTRA_SHARE = 5
"""One extra block for each noisy one, up to a fifth of the blocks: beyond that noise is what this host is like."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run may do. `runtimes` are (name, backend) in the scenario's order, of a study (arm, `study:KIND`).

    Blocks count from 0, warm-up blocks first: `warmup_blocks` of them, then between `min_blocks` and `max_blocks` that
    count, and up to `extra_blocks` for blocks that the host disturbed. The adaptive stop takes one block after the
    other with `block_trials`. `bases` pairs each runtime with the same one at the base revision, where there is one.
    """

    scenario: str
    seed: int
    control: str
    runtimes: tuple[tuple[str, str], ...]
    warmup_blocks: int
    min_blocks: int
    max_blocks: int
    extra_blocks: int = 0
    bases: tuple[tuple[str, str], ...] = ()

    @property
    def contrasts(self) -> tuple[tuple[str, str], ...]:
        """What is compared with what, and decides when enough is known: with its base revision, else the control."""
        return self.bases or tuple((name, self.control) for name, _backend in self.runtimes if name != self.control)

    @property
    def block_count(self) -> int:
        """Blocks at most on a quiet host, warm-up included."""
        return self.warmup_blocks + self.max_blocks

    @property
    def trials(self) -> tuple[TrialSpec, ...]:
        """Every trial of a run that goes to `max_blocks`, in order."""
        return tuple(trial for block in range(self.block_count) for trial in self.block_trials(block))

    def block_trials(self, block: int) -> tuple[TrialSpec, ...]:
        """Return one block's trials in their order. It depends on the seed and the block's number alone.

        Raises: IndexError for a block that is not in the plan.
        """
        most = self.block_count + self.extra_blocks
        if not 0 <= block < most:
            raise IndexError(f"block {block}: the plan has {most}")
        order = list(self.runtimes)
        # Seeding with a string and shuffle() give the same order in every Python since 3.2 (random.seed, version 2).
        random.Random(f"{self.seed}:{block}").shuffle(order)
        warmup = block < self.warmup_blocks
        return tuple(
            TrialSpec(f"{'w' if warmup else 'b'}{block:02d}-{runtime}", block, place, runtime, backend, warmup)
            for place, (runtime, backend) in enumerate(order)
        )


def plan(scenario: AnyScenario, seed: int, base: Mapping[str, str] | None = None) -> Plan:
    """Return the plan of a scenario; `seed` is the scenario's own or one from `choose_seed`.

    `base` are the runtimes of the base revision with their backends, named by `base_name`: they run in the same blocks.
    """
    own, blocks = scenario.contenders, scenario.trials.blocks
    base = base or {}
    return Plan(
        scenario=scenario.name,
        seed=seed,
        control=scenario.control,
        runtimes=(*own.items(), *base.items()),
        warmup_blocks=scenario.trials.warmup,
        min_blocks=blocks.min,
        max_blocks=blocks.max,
        extra_blocks=blocks.max // EXTRA_SHARE if blocks.extra is None else blocks.extra,
        bases=tuple((name, base_name(name)) for name in own if base_name(name) in base),
    )


def choose_seed() -> int:
    """Return a fresh seed, short enough to be typed again."""
    return random.SystemRandom().randrange(1_000_000)
