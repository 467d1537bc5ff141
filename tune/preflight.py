"""What every machine of a cluster must have before the first trial: the versions, the device, the
data, the output folder."""

from __future__ import annotations

import contextlib
import platform
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from guard.config import DataConfig
from guard.errors import StudyError, UserError
from tune.results.folder import StudyFolder

PACKAGES = ("torch", "torchvision", "torchattacks", "numpy", "scipy", "safetensors", "ray")
"""Whose versions decide what a stage writes, or whether workers understand each other."""
TIMEOUT_S = 600.0
SLIVER = 0.001
"""Of a GPU: enough to be shown it, and none that is busy has less left."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a study needs on every machine."""

    data: DataConfig
    device: str
    output: str
    """As `StudyFolder.at` takes it."""
    study: str
    token: str
    """Name of a file that the driver has written into the study's folder."""
    secret: str
    """What it holds."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What one machine says."""

    versions: Mapping[str, str]
    """By package, and of Python; "" for what is not there."""
    problems: tuple[str, ...]


def versions() -> dict[str, str]:
    """Of this process."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


def facts(wanted: Wanted, *, sees_device: bool) -> Facts:
    """Of this machine. sees_device: whether the device should be there."""
    found, problems = versions(), []
    folder = StudyFolder.at(wanted.output, wanted.study)
    try:
        content = _read(folder, wanted.token).decode()
    except OSError as error:
        content = f"{error.strerror or error}"
    if content != wanted.secret:
        problems.append(f"--output: {folder} is not the driver's folder ({content})")
    if found["torch"]:
        problems += torch_problems(wanted, sees_device=sees_device)
    return Facts(versions=found, problems=tuple(problems))


def _read(folder: StudyFolder, name: str) -> bytes:
    return folder.objects.read(name) if folder.objects else (folder.path / name).read_bytes()


def torch_problems(wanted: Wanted, *, sees_device: bool) -> list[str]:
    from guard.data.datasets import load_data
    from guard.device import available_device

    problems = []
    try:
        if sees_device:
            available_device(wanted.device)
    except ValueError as error:
        problems.append(f"--device: {error}")
    try:
        load_data(wanted.data)
    except (UserError, OSError, MemoryError) as error:
        problems.append(f"--data: {error}")
    return problems


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """A line for each package of another version."""
    return [
        f"{name} {theirs[name]}, the driver has {own}" if theirs[name] else f"has no {name}"
        for name, own in ours.items()
        if theirs[name] != own
    ]


def check(folder: StudyFolder, data: DataConfig, device: str) -> None:
    """Ask every machine of the running cluster. Raises StudyError with every problem of each, a
    line each."""
    token, secret = f".shared-{uuid.uuid4().hex}", uuid.uuid4().hex
    wanted = Wanted(
        data=data,
        device=device,
        output=folder.place,
        study=folder.name,
        token=token,
        secret=secret,
    )
    with written(folder, token, secret):
        problems = list(asked(wanted))
    if problems:
        lines = "\n  ".join(problems)
        raise StudyError(f"--address: the cluster cannot run this study:\n  {lines}")


@contextlib.contextmanager
def written(folder: StudyFolder, name: str, text: str) -> Iterator[None]:
    """A file in the study's folder, or in its object store, for as long as this lasts."""
    path, there = folder.path / name, folder.objects
    if there:
        there.write(name, text.encode())
    else:
        path.write_text(text, encoding="utf-8")
    try:
        yield
    finally:
        if there:
            there.remove(name)
        else:
            path.unlink()


def asked(wanted: Wanted) -> Iterable[str]:
    """The problems of every machine that computes."""
    remote: Any = ray.remote(num_cpus=0, max_retries=1)
    task = remote(facts)
    waiting = {}
    for node in ray.nodes():
        gpus = node["Resources"].get("GPU", 0.0)
        sees_device = wanted.device != "cuda" or gpus > 0
        if not node["Alive"] or not (node["Resources"].get("CPU", 0.0) or gpus):
            continue
        options = {
            "num_gpus": SLIVER if gpus and wanted.device == "cuda" else 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            "name": "preflight",
        }
        answer = task.options(**options).remote(wanted, sees_device=sees_device)
        waiting[answer] = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    ray.wait(list(waiting), num_returns=len(waiting), timeout=TIMEOUT_S)
    ours = versions()
    for answer, name in waiting.items():
        try:
            found = ray.get(answer, timeout=0)
        except ray.exceptions.GetTimeoutError:
            yield f"{name}: did not answer within {TIMEOUT_S:g} s"
        except ray.exceptions.RayError as error:
            yield f"{name}: {str(error).strip().splitlines()[-1]}"
        else:
            told = (*differences(ours, found.versions), *found.problems)
            yield from (f"{name}: {problem}" for problem in told)
