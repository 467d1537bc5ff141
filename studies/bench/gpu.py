"""What a GPU does with the lab, in one run of some eight minutes, as one Markdown table.

    python -m studies.bench.gpu DATA.npz

Takes the library alone (torch 2.11 or newer, torchvision, safetensors, torchattacks; no Ray, Optuna
or MLflow): the tests that are marked for a GPU, what a step costs in each mode, MTT's memory, DC's
vectorised matching, and a cell of GUARD's Table 5, SRe2L with the penalty and without. DATA.npz:
CIFAR-10 as arrays, 25,000 training images or more. Without it the cell is left out.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from guard.artifacts import ArtifactStore
from guard.config import radius_text
from guard.data.datasets import load_data
from guard.device import available_device, has_bfloat16, has_compiler, setup
from guard.errors import UserError
from guard.models.compiling import compiled
from guard.pipeline import TrialResult, local_runner, run_trial
from guard.robustness.measures import CLEAN, ROBUST
from guard.trial import TrialConfig
from studies.bench.distilling_steps import trajectories
from studies.bench.measuring import Computation, cuda_peak, measure
from studies.bench.training_steps import PRESETS_OWN, Bench

Row = tuple[str, str, str]
"""Part, what, figure."""
MARKED = ("tests/guard/test_gpu.py", "tests/guard/data/test_dsa.py")
STEPS = (
    "plain",
    PRESETS_OWN,
    "curvature",
    "curvature, frozen-batch",
    "curvature, train",
    "pgd-at",
    "pgd-at, 10 steps",
    "pgd-at, ls-pgd",
)
PENALTY = {
    "kind": "curvature",
    "weight": 0.3,
    "h": 0.25,
    "fraction": 0.25,
    "bn": "train",
    "weight_warmup_epochs": 3,
}
ATTACKED: tuple[Mapping[str, Any], ...] = (
    {"evaluation.eps": 1 / 255, "evaluation.attacks": ["standard"]},
    {"evaluation.eps": 2 / 255, "evaluation.attacks": ["pgd20"]},
)
"""AutoAttack, and PGD at twice the radius."""


SECONDS = {
    "marked": 90,
    "matching": 30,
    "exact steps": 60,
    "none": 150,
    "curvature": 210,
    "fast steps": 120,
    "compiled steps": 90,
}
"""What each part takes of an H100-class GPU at most, by our guess of before it was run there: a
part that would not be over in time is left out."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is done."""

    model: Mapping[str, Any]
    batch_size: int
    rounds: int
    matched: Mapping[str, Any]
    """The network that DC and MTT match on."""
    walks: tuple[int, int]
    """Student steps of MTT's short walk and of its long one."""
    cell: Mapping[str, Any]
    """Of a trial."""


SCALES: Mapping[str, Scale] = {
    "full": Scale(
        model={"name": "resnet18"},
        batch_size=128,
        rounds=10,
        matched={"name": "convnet", "width": 128, "depth": 3},
        walks=(5, 50),
        cell={
            "ipc": 10,
            "sre2l.chunk": 10,
            "squeeze.epochs": 8,
            "evaluation.max_samples": 500,
        },
    ),
    "tiny": Scale(
        model={"name": "bn-convnet", "width": 4, "depth": 2},
        batch_size=8,
        rounds=1,
        matched={"name": "convnet", "width": 4, "depth": 2},
        walks=(1, 2),
        cell={
            "ipc": 1,
            "sre2l.chunk": 1,
            "sre2l.iterations": 3,
            "squeeze.epochs": 3,
            "squeeze.batch_size": 16,
            "student.train.epochs": 2,
            "evaluation.max_samples": 20,
        },
    ),
}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies.bench.gpu", description=__doc__)
    parser.add_argument("data", nargs="?", metavar="DATA.npz", help="CIFAR-10 as arrays")
    parser.add_argument("--device", default="cuda", help="default: cuda")
    parser.add_argument("--scale", choices=SCALES, default="full", help="tiny: on a CPU, to try it")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="of the cell, as fit")
    parser.add_argument("--minutes", type=float, default=8, metavar="N", help="default: 8")
    return parser


def main(argv: Sequence[str]) -> int:
    """Print the table, row after row. 2 for bad input."""
    args = parser().parse_args(argv)
    ends = time.perf_counter() + 60 * args.minutes
    try:
        config = trial(args.data, available_device(args.device), SCALES[args.scale])
        setup(config.compute)
        if args.data:
            load_data(config.data)
        print("| part | what | figure |\n|---|---|---|", flush=True)
        for row in rows(config, SCALES[args.scale], args.seeds if args.data else 0, ends):
            print("| " + " | ".join(row) + " |", flush=True)
    except (UserError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def trial(data: str | None, device: str, scale: Scale) -> TrialConfig:
    """The cell's configuration, in fast mode. Raises ConfigError."""
    settings = {
        "data": {"name": "cifar10", "path": str(Path(data).absolute()) if data else ""},
        "model": scale.model,
        "method": "sre2l",
        "sre2l": "cifar",
        "student": "sre2l-cifar",
        "squeeze": {"batch_size": 128, "lr": 0.1, "augment": ["crop", "flip"]},
        "regularizer": PENALTY,
        "evaluation": {"splits": ["test"], "diagnose": False},
        "compute": {"device": device, "mode": "fast"},
        **{f"{method}.model": scale.matched for method in ("dc", "mtt")},
    }
    return TrialConfig().override(settings).override(dict(scale.cell))


def rows(config: TrialConfig, scale: Scale, seeds: int, ends: float) -> Iterator[Row]:
    """Each as soon as it is known, what matters most first, and what would not be over by `ends`
    left out."""
    device = torch.device(config.compute.device)
    yield "machine", "device", card(device)
    yield "machine", "torch", f"{torch.__version__}, Python {platform.python_version()}"
    yield "machine", "bfloat16", "yes" if has_bfloat16(device.type) else "no: float32 instead"
    yield from in_time("marked", lambda: [("tests", "marked gpu", marked(device))], ends)
    yield from in_time("matching", lambda: matching_rows(config, scale, device), ends)
    yield from in_time("exact steps", lambda: step_rows(config, scale, "exact"), ends)
    if seeds:
        yield from cell_rows(config, 1, ends)
    yield from in_time("fast steps", lambda: step_rows(config, scale, "fast"), ends)
    yield from in_time("compiled steps", lambda: compiled_rows(config, scale), ends)
    if seeds > 1:
        yield from cell_rows(config, seeds, ends, first=1)


def in_time(part: str, rows: Callable[[], Iterable[Row]], ends: float) -> Iterator[Row]:
    """The rows of a part, or one that says that there is no time for it."""
    if time.perf_counter() + SECONDS[part] > ends:
        yield part, "left out", f"no time: it takes up to {SECONDS[part]} s"
        return
    yield from rows()


def card(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def marked(device: torch.device) -> str:
    """pytest's last line."""
    if device.type != "cuda":
        return "not run: no GPU"
    options = ["-q", "-m", "gpu", "-o", "addopts=", "--noconftest", *MARKED]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options], capture_output=True, text=True, check=False
    )
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines()
    return lines[-1].strip("= ") if lines else f"exit code {done.returncode}"


def step_rows(config: TrialConfig, scale: Scale, mode: str) -> Iterator[Row]:
    """Training steps of a mode in turn, beside a plain exact one."""
    device = torch.device(config.compute.device)
    steps: dict[str, Computation] = {}
    for one, names in (("exact", STEPS[:1]), (mode, STEPS)):
        own = config.override({"compute.mode": one})
        made = Bench(own, 32, scale.batch_size).training()
        steps |= {f"{name}: {one}": switched(own, made[name]) for name in names}
    for name, cost in measure(steps, scale.rounds, device).items():
        figure = f"{1000 * cost.seconds:.2f} ms, {cost.ratio:.2f}x plain exact"
        yield step_title(config, scale), name, figure


def compiled_rows(config: TrialConfig, scale: Scale) -> Iterator[Row]:
    """A plain step of each mode, compiled."""
    for mode in ("exact", "fast"):
        own = config.override({"compute.mode": mode, "compute.compile": True})
        yield step_title(config, scale), f"plain: {mode}, compiled", compiled_step(own, scale)


def step_title(config: TrialConfig, scale: Scale) -> str:
    return f"step at 32 px, batch {scale.batch_size}, {config.model.name}"


def switched(config: TrialConfig, compute: Computation) -> Computation:
    """The computation under the switches of the configuration's own mode."""

    def both() -> None:
        setup(config.compute)
        compute()

    return both


def compiled_step(config: TrialConfig, scale: Scale) -> str:
    """What compiling makes of a plain step, or why it does not."""
    compute, device = config.compute, torch.device(config.compute.device)
    if not has_compiler(compute.device):
        return "not compiled: no compiler"
    eager = Bench(config, 32, scale.batch_size).plain_step(lambda model: model)
    quick = Bench(config, 32, scale.batch_size).plain_step(lambda model: compiled(model, compute))
    start = time.perf_counter()
    try:
        quick()
    except Exception as error:  # of a compiler that is not there, or of the network's code
        return f"not compiled: {type(error).__name__}"
    warm = time.perf_counter() - start
    cost = measure({"eager": eager, "compiled": switched(config, quick)}, scale.rounds, device)
    seconds, ratio = cost["compiled"].seconds, cost["compiled"].ratio
    return f"{1000 * seconds:.2f} ms, {ratio:.2f}x eager; {warm:.0f} s to compile"


def matching_rows(config: TrialConfig, scale: Scale, device: torch.device) -> Iterator[Row]:
    """DC's step both ways, and the memory of MTT's two walks."""
    exact = config.override({"compute.mode": "exact"})
    setup(exact.compute)
    bench = Bench(exact, 32, scale.batch_size)
    title = f"DC's matching step, batch {scale.batch_size}"
    for name, cost in measure(bench.gradient_matching(), scale.rounds, device).items():
        yield title, name, f"{1000 * cost.seconds:.1f} ms, {cost.ratio:.2f}x"
    for name, compute in trajectories(bench, *scale.walks).items():
        if not name.startswith("adjoint, "):
            continue
        start = time.perf_counter()
        compute()
        seconds = time.perf_counter() - start
        peak = cuda_peak(compute, device) / 2**20 if device.type == "cuda" else float("nan")
        yield "MTT's gradient", name, f"{seconds:.1f} s, {peak:.0f} MiB"


def cell_rows(config: TrialConfig, seeds: int, ends: float, first: int = 0) -> Iterator[Row]:
    """SRe2L without the penalty and with it, seed by seed from the first."""
    arms = {"none": config.unregularized(), "curvature": config}
    for seed in range(first, seeds):
        for name, own in arms.items():
            seeded = replace(own, seed=seed)
            yield from in_time(name, partial(cell_row, seeded, name), ends)


def cell_row(config: TrialConfig, name: str) -> Iterator[Row]:
    """One arm with one seed."""
    trials = [config.override(dict(at)) for at in ATTACKED]
    with tempfile.TemporaryDirectory() as folder:
        run_stage = local_runner(ArtifactStore(Path(folder)))
        results = [run_trial(trial, run_stage) for trial in trials]
    yield "cell: SRe2L", f"{name}, seed {config.seed}", told(trials, results)


def told(trials: Sequence[TrialConfig], results: Sequence[TrialResult]) -> str:
    """Accuracies on test images, and the seconds of each kind of stage."""
    if any(result.status != "complete" for result in results):
        return "; ".join(result.reason for result in results)
    seconds: dict[str, float] = {}
    for stage in (stage for result in results for stage in result.stages if stage.built):
        seconds[stage.name] = seconds.get(stage.name, 0.0) + stage.seconds
    clean = f"clean {100 * results[0].metrics[CLEAN.on('test')]:.1f} %"
    robust = [
        f"{'+'.join(trial.evaluation.attacks)} at {radius_text(trial.evaluation.eps)} "
        f"{100 * result.metrics[ROBUST.on('test')]:.1f} %"
        for trial, result in zip(trials, results, strict=True)
    ]
    times = [f"{name} {value:.0f} s" for name, value in seconds.items() if value >= 0.5]
    return ", ".join([clean, *robust, *times])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
