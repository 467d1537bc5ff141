"""Windows of RandomResizedCrop, and what is cut out of images in memory and on disk.

torchvision's own draws one window at a time from the global generator, so it is the reference for
the distribution, and for what a window is resized to.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as F

from guard.config import TrainConfig
from guard.data.augment import Augmenter, crop_windows, resized_crop
from guard.data.images import FileImages, TensorImages, in_memory, open_image, to_square
from guard.models.input_layer import Normalize
from guard.seeding import fenced
from helpers import CPU, draws

SIZES = [(224, 224), (375, 500), (500, 375), (100, 400), (8, 8)]
PHOTO = (75, 100)
"""Height and width."""


def published(count: int, min_scale: float, size: tuple[int, int]) -> Tensor:
    """Windows that torchvision draws, (count, 4)."""
    image = torch.zeros(1, *size)
    with fenced(0, "published"):
        found = [
            RandomResizedCrop.get_params(image, [min_scale, 1.0], [3 / 4, 4 / 3])
            for _ in range(count)
        ]
    return torch.tensor(found)


def described(windows: Tensor, size: tuple[int, int]) -> Tensor:
    """Area, log of width / height, and places of the corner, each in [0, 1] of what there is:
    means, and tenths of the distribution, (4, 6)."""
    top, left, height, width = windows.double().T
    rows, columns = (size[0] - height).clamp(min=1), (size[1] - width).clamp(min=1)
    facts = [height * width / (size[0] * size[1]), (width / height).log(), top / rows]
    values = torch.stack([*facts, left / columns])
    tenths = values.quantile(torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]).double(), dim=1)
    return torch.cat([values.mean(dim=1, keepdim=True), tenths.T], dim=1)


@pytest.mark.parametrize("min_scale", [0.08, 0.5])
@pytest.mark.parametrize("size", SIZES)
def test_windows_are_distributed_as_torchvisions(size: tuple[int, int], min_scale: float) -> None:
    ours = described(crop_windows(8000, min_scale, size, draws()), size)
    theirs = described(published(2000, min_scale, size), size)
    torch.testing.assert_close(ours[:, 0], theirs[:, 0], rtol=0, atol=0.03)
    if min(size) > 10:  # in fewer pixels tenths jump
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0.06)


@pytest.mark.parametrize(
    ("size", "area", "ratio"), [((224, 224), 0.480, 1.014), ((375, 500), 0.434, 1.046)]
)
def test_windows_have_the_published_area_and_ratio(
    size: tuple[int, int], area: float, ratio: float
) -> None:
    windows = crop_windows(60_000, 0.08, size, draws(1)).double()
    shares = windows[:, 2] * windows[:, 3] / (size[0] * size[1])
    assert float(shares.mean()) == pytest.approx(area, abs=0.004)
    assert float((windows[:, 3] / windows[:, 2]).mean()) == pytest.approx(ratio, abs=0.004)


@pytest.mark.parametrize("min_scale", [0.08, 0.9, 1.0])
@pytest.mark.parametrize("size", [*SIZES, (3, 1)])
def test_windows_are_whole_pixels_of_the_image(size: tuple[int, int], min_scale: float) -> None:
    windows = crop_windows(3000, min_scale, size, draws())
    top, left, height, width = windows.T
    assert windows.dtype == torch.int64 and windows.shape == (3000, 4)
    assert min(top.min(), left.min()) >= 0 and min(height.min(), width.min()) >= 1
    assert (top + height).max() <= size[0] and (left + width).max() <= size[1]


@pytest.mark.parametrize(
    ("size", "middle"), [((90, 400), [0, 140, 90, 120]), ((401, 90), [140, 0, 120, 90])]
)
def test_where_no_window_fits_it_is_the_middle(size: tuple[int, int], middle: list[int]) -> None:
    windows = crop_windows(200, 0.9, size, draws())
    assert windows.unique(dim=0).tolist() == [middle]
    assert published(5, 0.9, size).unique(dim=0).tolist() == [middle]


@pytest.mark.parametrize("count", [1, 6])
def test_the_whole_window_is_the_image(count: int) -> None:
    x = torch.rand(6, 3, 8, 8, generator=draws()).double()
    torch.testing.assert_close(resized_crop(x, torch.tensor([[0, 0, 8, 8]]).expand(count, 4)), x)


def test_a_window_is_resized_as_torchvision_does_it() -> None:
    x = torch.rand(40, 3, 13, 13, generator=draws()).double()
    windows = crop_windows(40, 0.05, (13, 13), draws(1))
    for image, window, got in zip(x, windows, resized_crop(x, windows), strict=True):
        torch.testing.assert_close(
            got, F.resized_crop(image, *window.tolist(), [13, 13]), rtol=0, atol=1e-6
        )


def test_one_window_serves_the_whole_batch() -> None:
    x = torch.rand(1, 3, 8, 8, generator=draws()).expand(5, -1, -1, -1)
    y = resized_crop(x, torch.tensor([[2, 1, 4, 5]]))
    torch.testing.assert_close(y, y[:1].expand_as(y))


def test_the_augmentation_draws_a_window_an_image() -> None:
    x = torch.rand(6, 3, 8, 8, generator=draws())
    config = TrainConfig(augment=("resized-crop",), crop_scale=0.2)
    cropped = Augmenter.of(config, Normalize((0.0,) * 3, (1.0,) * 3))(x, draws(1))
    assert torch.equal(cropped, resized_crop(x, crop_windows(6, 0.2, (8, 8), draws(1))))


@pytest.fixture
def photos(tmp_path: Path) -> FileImages:
    """Photos whose red grows from 0 to 200 to the right and whose green does downwards: the colours
    of a crop say where it was cut."""
    rows, columns = (np.linspace(0, 200, side) for side in PHOTO)
    ramps = np.stack([*np.broadcast_arrays(columns[None], rows[:, None], 0 * columns)], axis=-1)
    path = tmp_path / "ramp.png"
    Image.fromarray(ramps.round().astype(np.uint8)).save(path)
    files = (str(path),) * 250
    y = torch.zeros(250, dtype=torch.long)
    return FileImages(files=files, y=y, channels=3, image_size=24, num_workers=0)


def sides(crops: Tensor) -> Tensor:
    """Height and width of what crops of ramps show, as shares of the photo, (2, N)."""
    shown = crops * 255 / 200
    right = shown[:, 0, :, -1].mean(dim=1) - shown[:, 0, :, 0].mean(dim=1)
    down = shown[:, 1, -1].mean(dim=1) - shown[:, 1, 0].mean(dim=1)
    return torch.stack([down, right]) * 24 / 23


@pytest.mark.parametrize("memory", [False, True])
def test_crops_of_photos_keep_their_aspect_in_memory_and_streamed(
    photos: FileImages, memory: bool
) -> None:
    images = in_memory(photos) if memory else photos
    ((x, _),) = images.batches(250, CPU, draws(2), 0.08)
    height, width = sides(x)
    windows = published(3000, 0.08, PHOTO).double()
    area = windows[:, 2] * windows[:, 3] / (PHOTO[0] * PHOTO[1])
    assert float((height * width).mean()) == pytest.approx(float(area.mean()), abs=0.04)
    ratio = (width * PHOTO[1]) / (height * PHOTO[0])
    wanted = (windows[:, 3] / windows[:, 2]).log()
    assert float(ratio.log().mean()) == pytest.approx(float(wanted.mean()), abs=0.03)
    assert float(ratio.max()) < 1.45 and float(ratio.min()) > 0.69


def test_memory_cuts_what_a_stream_cuts(photos: FileImages) -> None:
    part = torch.arange(9)
    ((streamed, _),) = photos.subset(part).batches(9, CPU, draws(2), 0.08)
    ((kept, _),) = in_memory(photos).subset(part).batches(9, CPU, draws(2), 0.08)
    assert torch.equal(kept, streamed)


def test_squares_of_the_wanted_size_need_no_files(photos: FileImages, tmp_path: Path) -> None:
    square = open_image(Path(photos.files[0]), 3).crop((0, 0, 24, 24))
    square.save(tmp_path / "square.png")
    files = FileImages(
        files=(str(tmp_path / "square.png"),) * 3, y=torch.arange(3), channels=3, image_size=24
    )
    assert in_memory(files).originals is None
    assert in_memory(photos.subset(torch.arange(2))).originals is not None
    kept = in_memory(files)
    assert isinstance(kept, TensorImages) and torch.equal(kept.x[0], to_square(square, 24))


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (333, 500), (256, 256), (500, 281)])
def test_a_photo_is_tested_as_imagenet_is(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    photo = Image.fromarray(pixels)
    for side, short, share in ((224, 256, 0.875), (224, 224, 1.0), (64, 64, 1.0)):
        wanted = F.pil_to_tensor(F.center_crop(F.resize(photo, short), [side, side]))
        assert torch.equal(to_square(photo, side, share), wanted)
