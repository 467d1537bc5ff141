"""Where a study runs."""

from __future__ import annotations

import os
from dataclasses import dataclass

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
