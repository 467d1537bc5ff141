from __future__ import annotations

import dataclasses
import gzip
import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets as tv
from written import arrays, as_set, npz, pixels, tree_config, write_tree

from guard.config import ComputeConfig, DataConfig
from guard.config.data import DATASETS
from guard.data.datasets import load_data, read_splits, resolve
from guard.data.images import Splits
from guard.errors import ConfigError, DataError
from guard.stages import Whitening


def test_every_name_of_the_config_is_a_row() -> None:
    assert [DataConfig(name=name).name for name in DATASETS] == list(DATASETS)
    with pytest.raises(ConfigError, match=f"must be one of {', '.join(DATASETS)}; got 'mnist'"):
        DataConfig(name="mnist")


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_data(DataConfig(name="digits", validation_fraction=0.2))


def test_digits_are_all_there_in_disjoint_splits(digits: Splits) -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    parts = [digits.train, digits.validation, digits.test]
    assert sum(map(len, parts)) == 1797
    expected = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    pairs = sorted(zip([i.tobytes() for i in expected], bunch.target.tolist(), strict=True))
    found = sorted(
        (image.numpy().tobytes(), label)
        for part in parts
        for image, label in zip(part.x, part.y.tolist(), strict=True)
    )
    assert found == pairs
    assert digits.spec.num_values == 64
    assert (digits.spec.channels, digits.spec.image_size, digits.spec.num_classes) == (1, 8, 10)
    assert digits.spec.class_names == tuple("0123456789")


def test_digits_are_split_within_each_class(digits: Splits) -> None:
    counts = [torch.bincount(p.y) for p in (digits.train, digits.validation, digits.test)]
    total = sum(counts)
    assert torch.equal(counts[2], (total * 0.2).round().long())
    assert torch.equal(counts[1], ((total - counts[2]) * 0.2).round().long())


def test_digits_statistics_are_those_of_the_training_images(digits: Splits) -> None:
    official = torch.cat([digits.train.x, digits.validation.x]).double() / 255
    assert digits.spec.mean == pytest.approx((float(official.mean()),))
    assert digits.spec.std == pytest.approx((float(official.std(correction=0)),))


def test_a_split_seed_moves_validation_and_leaves_test_alone(digits: Splits) -> None:
    config = DataConfig(name="digits", validation_fraction=0.2)
    other = load_data(dataclasses.replace(config, split_seed=1))
    read_splits.cache_clear()
    again = load_data(config)
    assert torch.equal(other.test.x, digits.test.x)
    assert not torch.equal(other.validation.x, digits.validation.x)
    assert as_set(torch.cat([other.train.x, other.validation.x])) == as_set(
        torch.cat([digits.train.x, digits.validation.x])
    )
    for split in ("train", "validation", "test"):
        assert torch.equal(again.named(split).x, digits.named(split).x)
        assert torch.equal(again.named(split).y, digits.named(split).y)
    assert again.sha256 == other.sha256 == digits.sha256


@pytest.mark.parametrize("name", ["npz", "folder", "cifar10", "digits"])
def test_a_path_that_does_not_exist_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "nowhere.npz"
    with pytest.raises(DataError, match=rf"^data\.path: {path} does not exist"):
        load_data(DataConfig(name=name, path=str(path)))


@pytest.mark.parametrize("name", ["folder", "npz", "tiny-imagenet"])
def test_a_data_set_without_a_source_needs_a_path(
    name: str,
) -> None:
    with pytest.raises(
        DataError, match=rf"^data\.path: must be an \.npz .*no path, and {name} has"
    ):
        load_data(DataConfig(name=name))


def test_other_content_than_the_configured_is_refused(tmp_path: Path) -> None:
    config = resolve(npz(tmp_path))
    assert len(config.sha256) == 64
    assert load_data(config).sha256 == config.sha256
    changed = arrays()["x_test"].copy()
    changed[0, 0, 0] ^= 1
    (tmp_path / "other").mkdir()
    other = npz(tmp_path / "other", x_test=changed)
    with pytest.raises(DataError, match=rf"^data\.sha256: .*{config.sha256[:12]}"):
        load_data(dataclasses.replace(other, sha256=config.sha256))


def test_the_content_is_the_same_wherever_it_lies(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert resolve(npz(tmp_path)).sha256 == resolve(npz(tmp_path / "other")).sha256
    trees = [tmp_path / "a", tmp_path / "b"]
    for limit in (1.2, 0):
        for root in trees:
            write_tree(root)
        first, second = (resolve(tree_config(root, max_tensor_gib=limit)) for root in trees)
        assert first.sha256 == second.sha256


@pytest.mark.parametrize(
    "changes",
    [
        {"x_train": pixels(8, 12, 6, 6)},
        {"y_train": (np.arange(12) + 1) % 3},
        {"y_test": (np.arange(6) + 1) % 3},
    ],
)
def test_any_change_of_the_arrays_changes_the_content(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    assert resolve(npz(tmp_path)).sha256 != resolve(npz(tmp_path / "other", **changes)).sha256


def test_a_stage_reads_the_data_from_its_place(tmp_path: Path) -> None:
    config = resolve(npz(tmp_path))
    stage = Whitening(data=config, compute=ComputeConfig())
    assert stage.config["data"]["path"] == ""
    assert stage.data.path == str(tmp_path / "data.npz")
    assert load_data(stage.data).sha256 == config.sha256
    unresolved = Whitening(data=npz(tmp_path), compute=ComputeConfig())
    assert load_data(unresolved.data).sha256 == config.sha256


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim])
    return head + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def test_fashion_mnist_is_read_by_torchvision(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    x, y = pixels(4, 20, 28, 28), (np.arange(20) % 10).astype(np.uint8)
    for part in ("train", "t10k"):
        for name, array in (("images-idx3", x), ("labels-idx1", y)):
            (raw / f"{part}-{name}-ubyte").write_bytes(idx(array))
            (raw / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    splits = load_data(DataConfig(name="fashion-mnist", path=str(tmp_path)))
    assert torch.equal(splits.test.x[:, 0], torch.from_numpy(x))
    assert splits.test.y.tolist() == y.tolist()
    assert (splits.spec.channels, splits.spec.image_size) == (1, 28)
    assert splits.spec.mean == (0.2861,)
    assert splits.spec.class_names[0] == "T-shirt/top"


def test_cifar10_is_read_by_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    x, y = pixels(5, 20, 3, 32, 32), (np.arange(20) % 10).tolist()
    contents = {
        "data_batch_1": {"data": x.reshape(20, -1), "labels": y},
        "test_batch": {"data": x[::-1].reshape(20, -1), "labels": y[::-1]},
        "batches.meta": {"label_names": [f"class {label}" for label in range(10)]},
    }
    md5 = {}
    for name, content in contents.items():
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        md5[name] = hashlib.md5(data).hexdigest()
    monkeypatch.setattr(tv.CIFAR10, "train_list", [["data_batch_1", md5["data_batch_1"]]])
    monkeypatch.setattr(tv.CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]}
    monkeypatch.setattr(tv.CIFAR10, "meta", meta)
    splits = load_data(DataConfig(name="cifar10", path=str(tmp_path)))
    assert torch.equal(splits.test.x, torch.from_numpy(x[::-1].copy()))
    assert splits.test.y.tolist() == y[::-1]
    assert splits.spec.class_names == tuple(f"class {label}" for label in range(10))


def test_imagenet_without_its_archives_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"^data\.path: cannot get imagenet in {tmp_path} \("):
        load_data(DataConfig(name="imagenet", path=str(tmp_path)))


@pytest.mark.parametrize("error", [OSError("no\nroute"), RuntimeError("no\ndisk")])
def test_a_failed_download_is_told_in_one_line(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(source: str, root: Path) -> Path:
        assert (source, root) == (DATASETS["cifar10"].source, tmp_path)
        raise error

    monkeypatch.setattr("guard.data.datasets.fetch", fetch)
    with pytest.raises(DataError, match=r"^data\.path: cannot get cifar10 in .* \(no\)$"):
        load_data(DataConfig(name="cifar10", path=str(tmp_path)))
