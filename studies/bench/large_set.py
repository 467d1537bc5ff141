"""How much memory a distilled set of ImageNet's size takes: put together, labelled, trained on.

    python -m studies.bench.large_set --classes 1000 --ipc 5

On images of noise, by an untrained network that is as small as it can be: memory does not depend on
what images show. They lie on the disk twice, as parts and as the set.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from guard.artifacts import ArtifactStore
from guard.config import ComputeConfig, ModelConfig, StudentConfig, TrainConfig
from guard.distilled import save_part
from guard.errors import StudyError
from guard.models.networks import build_model
from guard.models.saving import save_model
from guard.stage import Stage
from guard.stages import Distilled, Part, Relabel, Student, Trained
from studies.bench.noise import spec_of
from studies.driver import flags
from studies.reporting.console import Terminal
from tune.results.tables import as_markdown

COMPUTE = ComputeConfig()
MODEL = ModelConfig(name="bn-convnet", width=4, depth=6)
GIB = 2**30
COLUMNS = ("work", "seconds", "GiB of its own", "GiB of files in memory")


@dataclass(frozen=True, kw_only=True)
class Noise(Part):
    """An image a class."""

    name, version, work = "noise", 1, "studies.bench.large_set:draw"
    classes: int
    side: int
    number: int
    compute: ComputeConfig = COMPUTE


@dataclass(frozen=True, kw_only=True)
class Untrained(Trained):
    """A network as it is made."""

    name, version, work = "untrained", 1, "studies.bench.large_set:make"
    classes: int
    side: int
    compute: ComputeConfig = COMPUTE


def draw(stage: Noise, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    draws = torch.Generator().manual_seed(stage.number)
    images = torch.rand(1, stage.classes, 3, stage.side, stage.side, generator=draws)
    save_part(folder, images, spec_of(3, stage.side, stage.classes))
    return {"metrics": {}}


def make(stage: Untrained, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    own = spec_of(3, stage.side, stage.classes)
    save_model(build_model(MODEL, own), MODEL, own, folder)
    return {"metrics": {}, "history": []}


@dataclass
class Memory:
    """The most that this process has held at once, in bytes."""

    own: int = 0
    files: int = 0
    """Of files that are mapped: the system takes it back where it is needed."""

    def look(self) -> None:
        text = Path("/proc/self/status").read_text(encoding="ascii")
        held = dict(line.split(":", 1) for line in text.splitlines())
        self.own = max(self.own, 1024 * int(held["RssAnon"].split()[0]))
        self.files = max(self.files, 1024 * int(held["RssFile"].split()[0]))


def watched(work: Callable[[], object]) -> Memory:
    """What it held while the work was done."""
    memory, done = Memory(), threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            memory.look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    memory.look()
    return memory


def stages(classes: int, ipc: int, side: int) -> Iterator[tuple[str, Sequence[Stage]]]:
    """What is done, in this order."""
    parts = tuple(Noise(classes=classes, side=side, number=number) for number in range(ipc))
    teacher = Untrained(classes=classes, side=side)
    config = StudentConfig(train=TrainConfig(epochs=1, batch_size=100))
    distilled = Distilled(teacher=teacher, parts=parts, method="noise", ipc=ipc, compute=COMPUTE)
    (labels,) = Relabel.of(teacher, distilled, config, None)
    student = Student(
        distilled=distilled,
        whitening=None,
        labels=labels,
        model=MODEL,
        student=config,
        compute=COMPUTE,
    )
    yield "parts and network", (*parts, teacher)
    yield "put together", [distilled]
    yield "an epoch labelled", [labels]
    yield "an epoch trained on", [student]


def rows(classes: int, ipc: int, side: int, root: Path) -> Iterator[list[str]]:
    store = ArtifactStore(root)
    for name, own in stages(classes, ipc, side):
        seconds = 0.0

        def work(own: Sequence[Stage] = own) -> None:
            nonlocal seconds
            seconds = sum(store.get_or_build(stage).seconds for stage in own)

        memory = watched(work)
        yield [name, f"{seconds:.0f}", f"{memory.own / GIB:.2f}", f"{memory.files / GIB:.2f}"]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies.bench.large_set", description=__doc__)
    parser.add_argument("--classes", type=int, default=1000, metavar="N", help="default: 1000")
    parser.add_argument("--ipc", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--image-size", type=int, default=224, metavar="SIDE", help="default: 224")
    return parser


def main(argv: Sequence[str]) -> int:
    """Print what each stage held. Raises StudyError."""
    args = parser().parse_args(argv)
    if min(args.classes, args.ipc) < 1 or args.image_size < 8:
        raise StudyError("--classes and --ipc must be at least 1, --image-size at least 8")
    size = 12 * args.classes * args.ipc * args.image_size**2
    console = Terminal()
    with tempfile.TemporaryDirectory() as root:
        found = list(rows(args.classes, args.ipc, args.image_size, Path(root)))
    console.print(as_markdown((list(COLUMNS), found)))
    console.print(f"The set: {args.classes * args.ipc:,} images, {size / GIB:.1f} GiB as float32.")
    return 0


if __name__ == "__main__":
    flags.run(main)
