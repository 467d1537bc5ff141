"""What --dry-run says: data, fields, stages, work."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from guard.config import ComputeConfig
from guard.config.schema import paths
from guard.data.datasets import load_data
from guard.data.images import Splits
from guard.device import has_bfloat16, has_compiler, is_here
from guard.trial import TrialConfig
from guard.trial_stages import plan as plan_stages
from studies.driver.estimate import estimate, seconds_per_pass
from studies.reporting.console import Terminal
from studies.reporting.progress import duration
from tune.uris import redacted

COLOURS = {1: "grey", 3: "in colour"}


def print_notes(console: Terminal, splits: Splits, compute: ComputeConfig) -> None:
    """What the user should know of how the data was read, and of how this machine computes."""
    for note in (*splits.notes, *rounding_notes(compute)):
        console.print(f"  {note}")


def rounding_notes(compute: ComputeConfig) -> Iterator[str]:
    """Where this machine cannot compute as it is asked to."""
    device = compute.device
    if compute.mode == "fast" and is_here(device) and not has_bfloat16(device):
        yield f"the {device} of this machine has no bfloat16: fast mode takes float32"
    if compute.compile and is_here(device) and not has_compiler(device):
        yield f"this machine has no compiler for its {device}: nothing is compiled"


def print_fields(
    console: Terminal,
    base: TrialConfig,
    varied: Mapping[str, str],
    options: Mapping[str, Any],
) -> Splits:
    """The data, and every field with its value or with how it varies; then the options."""
    splits = load_data(base.data)
    spec = splits.spec
    console.print(
        f"data: {len(splits.train)} training, {len(splits.validation)} validation, "
        f"{len(splits.test)} test images of {spec.image_size} px, {spec.num_classes} classes, "
        f"{COLOURS.get(spec.channels, f'{spec.channels} channels')}"
    )
    print_notes(console, splits, base.compute)
    console.print("\nfields (those that vary say how):")
    flat = base.flat()
    for path in paths(TrialConfig):
        if path in varied:
            console.print(f"  {path} ~ {varied[path]}")
        elif path in flat:
            console.print(f"  {path} = {json.dumps(flat[path])}")
    console.print("\nbeside the fields of a trial:")
    for path, value in options.items():
        console.print(f"  {path} = {redacted(json.dumps(value))}")
    return splits


def print_work(console: Terminal, config: TrialConfig, splits: Splits, num_trials: int) -> None:
    """The stages of one trial and an estimate of its work."""
    console.print("\nstages of one trial and their keys:")
    for stage in plan_stages(config):
        console.print(f"  {stage.name:<10} {stage.key}")
    work = estimate(config, splits)
    shares = ", ".join(f"{name} {passes:.3g}" for name, passes in work.passes.items())
    console.print(f"\nwork of one trial, in image passes: {shares}; {work.total:.3g} in all")
    if not is_here(config.compute.device):
        console.print(f"this machine has no {config.compute.device} to measure a pass on")
        return
    speed = seconds_per_pass(config, splits)
    seconds = work.total * speed
    console.print(
        f"at {1e6 * speed:.1f} µs a pass measured here: about {duration(seconds)} a trial, "
        f"{duration(seconds * num_trials)} of one worker for {num_trials} trials, "
        "less what trials share"
    )


def print_sharing(console: Terminal, configs: Iterable[TrialConfig]) -> None:
    """How many stages all trials together have, each counted once."""
    planned = [stage for config in configs for stage in plan_stages(config)]
    once = Counter(address.split("/")[0] for address in {stage.address for stage in planned})
    counts = ", ".join(f"{count} {name}" for name, count in sorted(once.items()))
    console.print(f"\nstages of all trials: {once.total()} of {len(planned)} named: {counts}")
