"""What it takes to distil: seconds and memory of a study's stages, by what they are for."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from guard.stage import Stage, closure
from guard.stages import Trained
from guard.trial import TrialConfig
from guard.trial_stages import TrialStages
from studies.design.study import Table
from tune import timeline
from tune.results.comparison import short_titles
from tune.results.findings import Results
from tune.results.records import Record

UNKNOWN = "–"


@dataclass(frozen=True, kw_only=True)
class Purposes:
    """Stages of a trial up to its student, by address."""

    networks: frozenset[str]
    """Of which the set is distilled."""
    images: frozenset[str]
    after: frozenset[str]
    """The labels of batches, their teacher where the images have none, and the student."""

    @classmethod
    def of(cls, config: TrialConfig) -> Purposes:
        stages = TrialStages.of(config)
        made = list(closure(*stages.parts))
        networks = _addresses(stage for stage in made if isinstance(stage, Trained))
        images = _addresses(made) - networks
        if stages.distilled is not None:
            images |= {stages.distilled.address}
        return cls(
            networks=networks,
            images=images,
            after=_addresses(closure(stages.student)) - networks - images,
        )

    @property
    def in_order(self) -> tuple[frozenset[str], ...]:
        return self.networks, self.images, self.after


def _addresses(stages: Iterable[Stage]) -> frozenset[str]:
    return frozenset(stage.address for stage in stages)


def distilling(results: Results) -> list[Table]:
    """A row for each arm that distils; none where none does."""
    peaks = {
        f"{span.stage}/{span.key}": span.memory_mib
        for span in timeline.read(results.folder.path)
        if span.memory_mib
    }
    titled = zip(short_titles(results.comparisons), results.comparisons, strict=True)
    rows = [
        [title, *cells(list(comparison.arm.records.values()), peaks)]
        for title, comparison in titled
        if comparison.arm.config.distils
    ]
    if not rows:
        return []
    return [
        Table(
            anchor="distilling",
            title="What distilling takes",
            caption="Seconds of one worker, mean over seeds: of the networks that a set is "
            "distilled from, of the set, and of its labels and the student. What arms share counts "
            "in each of them. MiB: the most that a worker held in these stages, PyTorch included; "
            f"{UNKNOWN}: other studies computed them.",
            columns=["configuration", "networks, s", "set, s", "labels and student, s", "MiB"],
            rows=rows,
        )
    ]


def cells(records: Iterable[Record], peaks: Mapping[str, float]) -> list[str]:
    """Of the runs of one arm."""
    taken: list[list[float]] = []
    held: list[float] = []
    for record in records:
        purposes = Purposes.of(TrialConfig.from_dict(record.config)).in_order
        seconds = record.seconds_of_stages
        taken.append([sum(seconds.get(address, 0.0) for address in own) for own in purposes])
        held += [peaks[address] for address in frozenset().union(*purposes) if address in peaks]
    means = [statistics.mean(column) for column in zip(*taken, strict=True)]
    return [*(f"{mean:.1f}" for mean in means), f"{max(held):.0f}" if held else UNKNOWN]
