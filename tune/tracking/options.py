"""What a user may say of MLflow. Nothing here imports it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from guard.config.rules import at_least
from guard.config.schema import Config
from guard.errors import ConfigError

MAX_NAME = 500
"""Characters of an experiment's name."""


@dataclass(frozen=True, kw_only=True)
class TrackingConfig(Config):
    """How a study is tracked."""

    experiment: str = ""
    """Its name; it is made if it is not there. "": the one that the study was in before, or the
    lab's (`tune.tracking.identity`)."""
    largest_set: Annotated[int, at_least(0)] = 256
    """MiB up to which the images of a distilled set are an artifact of its trial's run."""

    def check(self) -> None:
        if len(self.experiment) > MAX_NAME or self.experiment != self.experiment.strip():
            raise ConfigError(
                "experiment",
                f"must have at most {MAX_NAME} characters, no space at its ends, got "
                f"{self.experiment!r:.60}",
            )
