"""What `--set` reaches beside the fields of a trial: how it is searched, confirmed and run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from guard.config.rules import at_least
from guard.config.schema import Config, field_names
from guard.errors import ConfigError
from studies.driver.settings import overridden
from studies.presets import Preset
from tune.confirmation import Confirmation
from tune.options import SearchConfig
from tune.tracking.options import TrackingConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """How trials are run."""

    concurrent: Annotated[int, at_least(0, at_most=10_000)] = 0
    """Trials at a time; 0: one more than the stages that fit."""
    stage_limit: Annotated[float, at_least(0)] = 0.0
    """Seconds that a stage may be computed before it is ended; 0: as long as it takes."""
    verbose: bool = False
    """Show what Ray logs."""

    @property
    def stage_limit_s(self) -> float:
        """`stage_limit`, infinite for none."""
        return self.stage_limit or math.inf


@dataclass(frozen=True, kw_only=True)
class Options(Config):
    """What is no part of a trial, so that a study may be continued with another."""

    search: SearchConfig = field(default_factory=SearchConfig)
    confirm: Confirmation = field(default_factory=Confirmation)
    run: RunConfig = field(default_factory=RunConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def listed(self, sections: Iterable[str]) -> dict[str, Any]:
        """Each field of the sections by its path."""
        paths = tuple(f"{section}." for section in sections)
        return {path: value for path, value in self.flat().items() if path.startswith(paths)}


SECTIONS = tuple(field_names(Options))
"""Of a study that searches."""
TRIALS_ONLY = ("run", "tracking")
"""Sections of a study whose trials are known."""
MEANING: Mapping[str, str] = {
    "search.seed": "of the sampler",
    "search.storage": "Optuna's: postgresql://…, mysql+pymysql://…, grpc://HOST:PORT, "
    "journal:///FILE (default: sqlite in the study's folder)",
    "search.max_clean_drop": "clean validation accuracy that the choice may lose to its baseline",
    "search.reduction": "of so many trials at a rung one goes on, 1: none is stopped early "
    "(default: 2, and 1 below 20 trials)",
    "search.max_failures": "trials in a row that may fail before the search ends, 0: any number",
    "confirm.seeds": "new seeds of each configuration, 0: the search alone",
    "confirm.configurations": "of the Pareto front at most so many, the chosen one first",
    "confirm.attacks": "attacks or suites, a,b,…",
    "run.concurrent": "trials at a time, 0: one more than the stages that fit",
    "run.stage_limit": "seconds after which a stage is ended and its trial fails, 0: never",
    "run.verbose": "true: show what Ray logs",
    "tracking.experiment": "of MLflow (default: MLFLOW_EXPERIMENT_NAME, or the study's before)",
    "tracking.largest_set": "MiB up to which a distilled set's images are an MLflow artifact",
}
"""What `--help` says of each field."""
MISSING: Mapping[str, str] = {
    "search": "nothing is searched here",
    "confirm": "nothing is searched here that could be confirmed",
    "run": "no trials are run here",
    "tracking": "nothing is tracked here",
}


def section(path: str) -> str:
    return path.partition(".")[0]


def chosen(preset: Preset, settings: Mapping[str, Any], sections: Sequence[str]) -> Options:
    """The preset's options with those of the settings that are options.

    Raises ConfigError for a value that breaks a rule, for a distribution, and for a section that
    the command does not have.
    """
    from optuna.distributions import BaseDistribution

    own = {path: value for path, value in settings.items() if section(path) in SECTIONS}
    for path, value in own.items():
        if section(path) not in sections:
            raise ConfigError(path, MISSING[section(path)])
        if isinstance(value, BaseDistribution):
            raise ConfigError(path, "takes a plain value; it is no field of a trial")
        if path in SECTIONS:
            fields = ", ".join(Options().listed([path]))
            raise ConfigError(path, f"is set field by field; there are: {fields}")
    return overridden(Options(confirm=preset.confirm), own)
