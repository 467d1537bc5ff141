"""Where a study runs."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass

from guard.errors import ConfigError
from guard.trial import TrialConfig
from studies.driver.checks import PROCESSES, on_device, parse_resources
from studies.driver.options import RunConfig
from studies.driver.request import Request
from tune.resources import StageResources


@dataclass(frozen=True, kw_only=True)
class Place:
    """A Ray, and how it is used."""

    address: str | None
    """Of a Ray cluster; None: a local Ray."""
    resources: StageResources
    run: RunConfig


def settled_place(request: Request, resources: StageResources) -> Place:
    """Where the request wants its study. Raises StudyError for a place that is not there, or too
    small."""
    if request.address:
        from tune.cluster import check_address  # imports Ray

        check_address(request.address)
    else:
        import torch

        resources.check([(os.cpu_count() or 1, torch.cuda.device_count())])
    return Place(address=request.address, resources=resources, run=request.options.run)


def placed(config: TrialConfig, request: Request, varied: Collection[str]) -> TrialConfig:
    """The config for the device that is asked for, and for the GPUs that `--resources` gives its
    squeeze. varied: what differs between the trials. Raises StudyError or ConfigError."""
    if PROCESSES in varied:
        raise ConfigError(PROCESSES, "is the same in all trials of a study")
    found = on_device(config, request.device, request.address)
    gpus = parse_resources(request.resources, found).of("squeeze").gpus
    if found.compute.device != "cuda" or gpus <= 1:
        return found
    return found.override({PROCESSES: int(gpus)})
