"""What a user asks of a command, once its flags are read."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from guard.errors import ConfigError, StudyError
from studies.driver.checks import load_preset, output_folder, study_folder
from studies.driver.options import SECTIONS, Options, chosen, section
from studies.driver.settings import parse_settings
from studies.presets import Preset
from tune.options import SamplerName
from tune.results.folder import StudyFolder
from tune.uris import check_storage_url, check_tracking_uri, from_anywhere

MAX_SEEDS = 1000
EXPERIMENT_NAME = "MLFLOW_EXPERIMENT_NAME"
REFUSED: Mapping[str, str] = {
    "MLFLOW_RUN_ID": "a study has a run of its own, and one for each trial; unset it",
    "MLFLOW_EXPERIMENT_ID": "experiments are named here: --set tracking.experiment=NAME; unset it",
}
"""Variables of MLflow's users that mean nothing here."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a command is asked for. What it has no flag for has the flag's default."""

    command: str
    """To ask for the same again."""
    folder: StudyFolder
    preset: Preset
    data: str | None
    settings: Mapping[str, Any]
    """`--set` values of a trial's fields by path: distributions or plain values."""
    options: Options
    device: str
    num_trials: int | None
    """Of a search, finished in the end; None: the preset's."""
    sampler: SamplerName
    known: tuple[StudyFolder, ...]
    """Other studies, whose trials the sampler is told of."""
    seeds: int
    """Of a study whose trials are known."""
    address: str | None
    """Of a Ray cluster; None: a local Ray."""
    resources: tuple[str, ...]
    """STAGE=CPUS[,GPUS] each."""
    tracking: str | None
    """A URI of MLflow; None: the output folder's database."""
    dry_run: bool

    @property
    def tracking_uri(self) -> str:
        """Of MLflow; by default in the output folder."""
        return self.tracking or self.folder.tracking_uri


def settled(args: argparse.Namespace) -> Request:
    """The request that the flags make (`flags.parsed`); the only reader of them.

    Raises StudyError or ConfigError for a flag that is not as it must be.
    """
    if args.num_trials is not None and args.num_trials < 1:
        raise StudyError(f"--num-trials: must be at least 1, got {args.num_trials}")
    if not 1 <= args.seeds <= MAX_SEEDS:
        raise StudyError(f"--seeds: must be at least 1 and at most {MAX_SEEDS}, got {args.seeds}")
    preset = load_preset(args.preset)
    settings = parse_settings(args.settings)
    options = followed(chosen(preset, settings, args.sections))
    if options.search.storage:
        check_storage_url(options.search.storage)
        storage = from_anywhere(options.search.storage)
        options = options.override({"search.storage": storage})
    return Request(
        command=args.command,
        folder=output_folder(args.output, args.name or args.preset),
        preset=preset,
        data=args.data,
        settings={k: v for k, v in settings.items() if section(k) not in SECTIONS},
        options=options,
        device=args.device,
        num_trials=args.num_trials,
        sampler=args.sampler,
        known=tuple(study_folder("--from", place) for place in args.known),
        seeds=args.seeds,
        address=args.address,
        resources=tuple(args.resources),
        tracking=tracking_uri(args.tracking_uri),
        dry_run=args.dry_run,
    )


def followed(options: Options) -> Options:
    """The options with what the environment says of MLflow and they do not. Raises StudyError for a
    variable that cannot be followed."""
    for variable, why in REFUSED.items():
        if os.environ.get(variable):
            raise StudyError(f"{variable}: {why}")
    name = os.environ.get(EXPERIMENT_NAME)
    if not name or options.tracking.experiment:
        return options
    try:
        return options.override({"tracking.experiment": name})
    except ConfigError as error:
        raise StudyError(f"{EXPERIMENT_NAME}: {error.rule}") from None


def tracking_uri(flag: str | None) -> str | None:
    """The flag's, or else of the environment, where a password is not seen by others. Raises
    StudyError for what is no URI of MLflow's."""
    variable = "MLFLOW_TRACKING_URI"
    uri = flag or os.environ.get(variable)
    if uri:
        check_tracking_uri(uri, "--tracking-uri" if flag else variable)
    return uri or None
