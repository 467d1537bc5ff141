"""Teachers that belong together: which they are, and several of them as one. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from guard.config.common import ComputeConfig, ModelConfig
from guard.config.labels import OWN, CommitteeConfig
from guard.config.regularizers import RegularizerConfig
from guard.config.shared import Shared
from guard.stages import Committee, Squeeze, Trained

SEEDS_APART = 1_000_000
"""Between the seeds of members that differ in nothing else."""


def members(shared: Shared, named: CommitteeConfig) -> list[Squeeze]:
    """Regularizer by regularizer, network by network, seed by seed."""
    found: list[Squeeze] = []
    for penalty in named.teachers:
        for network in named.networks:
            for number in range(named.seeds):
                seed = shared.seed + SEEDS_APART * number
                asked = replace(shared, regularizer=_penalty(shared, penalty), seed=seed)
                found.append(Squeeze.of(asked, network_of(shared, network)))
    return found


def _penalty(shared: Shared, name: str) -> RegularizerConfig:
    return shared.regularizer if name == OWN else RegularizerConfig.named(name)


def network_of(shared: Shared, name: str) -> ModelConfig:
    """The trial's model under a name of a committee. Raises ConfigError where its other fields do
    not go with that."""
    return shared.model if name == OWN else replace(shared.model, name=name)


def together(teachers: Sequence[Trained], compute: ComputeConfig) -> Trained:
    """The mean of their logits; one alone is itself."""
    if len(teachers) == 1:
        return teachers[0]
    return Committee(teachers=tuple(teachers), compute=compute)
