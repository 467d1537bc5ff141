"""Does decoding keep up with training? An epoch of a teacher's training on photos, and how much of
it the training waits for them.

    python -m studies.bench.decoding                       # JPEGs of noise, 500 x 375 px
    python -m studies.bench.decoding --photos FOLDER       # those of a tree

Epochs with more and more processes that decode; in each the photos alone first, then the training
without a regularizer, which is what a decoder has most to do to keep up with.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from guard.checkpoint import NOWHERE
from guard.data.decode import SUFFIXES
from guard.data.images import FileImages
from guard.errors import StudyError
from guard.trial import TrialConfig
from studies.bench.epochs import training
from studies.bench.measuring import timed
from studies.bench.noise import CLASSES, spec_of
from studies.driver import flags
from studies.driver.checks import on_device
from studies.presets import PRESETS
from studies.reporting.console import Terminal
from tune.results.tables import as_markdown

COLUMNS = ("processes", "decoded alone, images/s", "trained, images/s", "waiting")
WIDTH, HEIGHT, QUALITY = 500, 375, 90
"""Of a JPEG of noise: about what ImageNet's are."""


@dataclass(frozen=True, kw_only=True)
class Timed(FileImages):
    """Photos that say how long one waits for them."""

    waited: list[float] = field(default_factory=lambda: [0.0])
    """Seconds so far."""

    def batches(
        self,
        batch_size: int,
        device: torch.device,
        shuffle: torch.Generator | None = None,
        crop_scale: float | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """As of `FileImages.batches`."""
        found = super().batches(batch_size, device, shuffle, crop_scale)
        while True:
            start = time.perf_counter()
            batch = next(found, None)
            self.waited[0] += time.perf_counter() - start
            if batch is None:
                return
            yield batch


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies.bench.decoding", description=__doc__)
    parser.add_argument("--preset", default="imagenette", choices=PRESETS, metavar="NAME")
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="default: of noise")
    parser.add_argument("--images", type=int, default=256, metavar="N", help="default: 256")
    parser.add_argument("--device", default="auto", metavar="NAME", help="default: auto")
    parser.add_argument(
        "--processes", type=int, nargs="+", metavar="N", help="default: 1, 2, 4, … to the cores"
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """Print the table. Raises StudyError."""
    args = parser().parse_args(argv)
    counts = args.processes or powers(os.cpu_count() or 1)
    if min(args.images, *counts) < 1:
        raise StudyError("--images and --processes must be at least 1")
    config = on_device(PRESETS[args.preset]().config.unregularized(), args.device)
    with tempfile.TemporaryDirectory(prefix="photos-") as made:
        folder = args.photos or of_noise(Path(made), args.images)
        files = sorted(str(p) for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not files:
            raise StudyError(f"--photos: {folder} holds no images")
        rows = [row(config, files[: args.images], count) for count in counts]
    Terminal().print(as_markdown((COLUMNS, rows)).rstrip())
    return 0


def row(config: TrialConfig, files: Sequence[str], processes: int) -> list[str]:
    """What so many processes bring."""
    side = config.data.side
    photos = Timed(
        files=tuple(files),
        y=torch.arange(len(files)) % CLASSES,
        channels=3,
        image_size=side,
        num_workers=processes,
    )
    cpu, batch_size = torch.device("cpu"), config.squeeze.batch_size
    draws = torch.Generator().manual_seed(0)
    crop = config.squeeze.crop_scale if "resized-crop" in config.squeeze.augment else None
    alone = timed(lambda: [None for _ in photos.batches(batch_size, cpu, draws, crop)], cpu)
    made = training(config, spec_of(3, side), photos)
    photos.waited[0] = 0.0
    together = timed(lambda: made.run(NOWHERE), made.device)
    rates = (f"{len(files) / seconds:.0f}" for seconds in (alone, together))
    return [str(processes), *rates, f"{100 * photos.waited[0] / together:.0f} %"]


def of_noise(folder: Path, count: int) -> Path:
    """So many JPEGs in a folder, each smooth with a little grain, as photos are."""
    draws = torch.Generator().manual_seed(0)
    for number in range(count):
        coarse = torch.rand(1, 3, 9, 12, generator=draws)
        size = (HEIGHT, WIDTH)
        smooth = torch.nn.functional.interpolate(coarse, size, mode="bicubic", antialias=True)
        grain = 0.06 * torch.randn(1, 3, *size, generator=draws)
        pixels = (255 * (smooth + grain).clamp(0, 1))[0].byte().permute(1, 2, 0)
        Image.fromarray(pixels.numpy()).save(folder / f"{number:05d}.jpg", quality=QUALITY)
    return folder


def powers(most: int) -> list[int]:
    """1, 2, 4, … and the most."""
    return sorted({most, *(2**n for n in range(most.bit_length()) if 2**n <= most)})


if __name__ == "__main__":
    flags.run(main)
