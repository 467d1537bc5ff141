"""What is judged side by side, and how: sets and networks of others, and methods of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from guard.artifacts import ArtifactStore
from guard.config import ModelConfig
from guard.config.training import PORTABLE, TAUGHT
from guard.data.given import content_of
from guard.pipeline import local_runner
from guard.robustness.measures import CLEAN, ROBUST, Measure, worst_cases
from guard.robustness.stages import chain
from guard.robustness.verdicts import Verdicts, right
from guard.stage import waves
from guard.stages import Loaded, Trained
from guard.trial import TrialConfig
from guard.trial_stages import TrialStages
from studies.driver.sets import with_sets
from tune.results.comparison import Values, columns, gain
from tune.results.records import SEEDS
from tune.results.statistics import Estimate, estimate
from tune.results.tables import (
    all_together,
    as_markdown,
    by_chance,
    emphasized,
    holding,
    level,
    percent,
)

Say = Callable[[str], object]
CONTROL = "random"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row of the table."""

    title: str
    labels: str
    """Of the student."""
    ipc: int | None
    """None where no set is trained on."""
    network_of: Callable[[TrialConfig], Trained]
    """What is attacked, of a trial with the seeds of a run."""
    config: TrialConfig | None = None
    """Of a method of ours, whose seeds are its own."""
    runs: int | None = None
    """At most; None: as many as there are seeds."""
    notes: Sequence[str] = ()

    @property
    def is_control(self) -> bool:
        """Whether it is the random subset of ours."""
        return self.config is not None and self.config.method == CONTROL

    @classmethod
    def of_set(cls, title: str, config: TrialConfig, *, as_trial: bool) -> Entry:
        """A set. as_trial: its labels are those of the trial `config`, a teacher's among them; else
        its own, or its classes. Raises ConfigError or DataError."""
        told, wanted = with_sets(config, [title]), config.student.labels
        facts = told.given.known[-1]
        if as_trial and wanted == "auto" and config.is_taught:
            wanted = "soft"
        if wanted in PORTABLE and wanted == facts.labels:
            wanted = "own"
        chosen = {"method": "given", "given.path": title, "student.labels": wanted}
        if wanted not in TAUGHT:
            chosen["regularizer"] = "none"
        trial = told.override(chosen)
        return cls(
            title=title,
            labels=facts.labels if wanted in ("auto", "own") else wanted,
            ipc=trial.ipc,
            config=trial,
            network_of=lambda seeded: TrialStages.of(seeded).student,
            notes=facts.notes,
        )

    @classmethod
    def of_network(cls, path: Path, title: str, model: ModelConfig) -> Entry:
        """A network that somebody trained. Raises DataError."""
        sha256 = content_of(path)

        def network(seeded: TrialConfig) -> Loaded:
            return Loaded(
                path=str(path),
                sha256=sha256,
                model=model,
                data=seeded.data,
                compute=seeded.compute,
            )

        return cls(title=f"{title} ({model.name})", labels="", ipc=None, network_of=network, runs=1)

    @classmethod
    def of_trial(cls, config: TrialConfig) -> Entry:
        """One of our methods."""
        labels = config.student.labels
        if labels == "auto":
            labels = "soft" if config.is_taught else "hard"
        return cls(
            title=config.method,
            labels=labels if config.distils else "",
            ipc=config.ipc if config.distils else None,
            network_of=lambda seeded: TrialStages.of(seeded).student,
            config=config,
        )


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a row has come to: by measure, of each run whether each image was right."""

    entry: Entry
    values: Mapping[Measure, Values]


def judged(
    config: TrialConfig, store: ArtifactStore, entry: Entry, seeds: int, say: Say
) -> Found | None:
    """Train and attack; None, and a line, if a stage diverged."""
    run, evaluation = local_runner(store), config.evaluation
    values: dict[Measure, dict[tuple[int, int], Any]] = {
        measure: {} for measure in (CLEAN, *worst_cases(evaluation))
    }
    for number in range(min(seeds, entry.runs or seeds)):
        own = seeded(entry.config or config, number)
        links = chain(entry.network_of(own), own.data, own.evaluation, "test")
        for wave in waves(links[-1]):
            for artifact in run(*wave):
                if "diverged" in artifact.summary:
                    say(f"{entry.title}: {artifact.summary['diverged']}")
                    return None
        verdicts = Verdicts.load(store.read(links[-1]).path / "verdicts.safetensors")
        for measure, found in values.items():
            found[number, number] = right(verdicts, measure, evaluation).numpy().astype(np.float64)
        shares = [
            f"{m.heading} {100 * float(v[number, number].mean()):.1f}" for m, v in values.items()
        ]
        say(f"{entry.title}, run {number + 1}: {', '.join(shares)}")
    return Found(entry=entry, values=values)


def seeded(config: TrialConfig, number: int) -> TrialConfig:
    """With every seed that only repeats a trial so much larger."""
    flat = config.flat()
    return config.override({path: flat[path] + number for path in SEEDS})


def table_of(rows: Sequence[Found]) -> tuple[str, list[dict[str, Any]]]:
    """As Markdown, in percent, and as rows of a table in [0, 1]; with the paired differences to the
    random subset where that is among them."""
    control = next((row for row in rows if row.entry.is_control), None)
    measures = list(rows[0].values) if rows else []
    shown = [CLEAN, ROBUST, *(m for m in measures if m not in (CLEAN, ROBUST))]
    gains = [[_gain(row, control, measure) for measure in shown] for row in rows]
    every = [found for own in gains for found in own if found is not None]
    family, lines, values = holding(every), [], []
    for row, own in zip(rows, gains, strict=True):
        found = [estimate(row.values[measure]) for measure in shown]
        entry = row.entry
        facts = [entry.title, str(entry.ipc or ""), entry.labels, str(found[0].num_distillations)]
        differences = [emphasized(one, family) for one in own] if control else []
        lines.append([*facts, *map(percent, found), *differences])
        plain: dict[str, Any] = {"set": entry.title, "ipc": entry.ipc, "labels": entry.labels}
        for measure, one, other in zip(shown, found, own, strict=True):
            plain |= columns(measure.name, one)
            plain |= columns(f"{measure.name}_gain", other)
        values.append({**plain, "runs": found[0].num_distillations})
    titles = [measure.heading for measure in shown]
    heads = ["set", "IPC", "labels", "runs", *titles, *(f"Δ {t}" for t in titles if control)]
    return as_markdown((heads, lines)) + f"\n{_legend(every)}\n", values


def _gain(row: Found, control: Found | None, measure: Measure) -> Estimate | None:
    if control is None or row is control:
        return None
    return gain(row.values[measure], control.values[measure])


def _legend(gains: Sequence[Estimate]) -> str:
    runs = "A set that is given is one set: its runs differ in the student and the attacks alone."
    if not gains:
        return runs
    reading = f"Δ: paired difference to random real images, {level(gains)}; bold where it is clear."
    return f"{reading} {by_chance(len(gains))}{all_together(gains)} {runs}"
