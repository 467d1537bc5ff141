"""Labels of a teacher that lie in a distilled set's folder: whoever has the folder can train as if
the teacher were there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from guard.config import StudentConfig
from guard.config.training import PORTABLE, Labels
from guard.data.names import shown
from guard.data.spec import ImageSpec
from guard.errors import ConfigError, DataError
from guard.models.input_layer import InputLayer, Normalize, Zca
from guard.training.recipe import Recipe, pool_order, replayed

FILE = "labels.safetensors"
CARD = "labels"
"""The entry of the card that says what they are."""
WHITENING = ("mean", "weight")
"""Tensors of a first layer that whitens (`Zca`)."""


@dataclass(frozen=True, kw_only=True)
class PortableLabels:
    """A teacher's logits: one row an image (fixed), or of a pool of augmented batches (budget)."""

    student: StudentConfig
    """Kind, and what the batches of a pool depend on (`StudentConfig.portable_only`)."""
    logits: Tensor
    """float16 (N, K) in the order of the images; or (R, K), batch after batch."""
    rows: Tensor | None = None
    """int64 (R,): the image that each row's is augmented from; None for fixed ones."""
    seeds: Tensor | None = None
    """int64 (B,): what each batch is augmented and mixed by."""
    whitening: Mapping[str, Tensor] = field(default_factory=dict)
    """Of the student's first layer, where augmentation depends on it."""

    @property
    def kind(self) -> Labels:
        """fixed or budget."""
        return self.student.labels

    @classmethod
    def fixed(cls, student: StudentConfig, teacher: nn.Module, images: Tensor) -> PortableLabels:
        """Of images (N, C, H, W) as they are; a teacher that looks at batches sees so many at a
        time as a student would."""
        device = next(teacher.parameters()).device
        batches = images.split(student.train.batch_size)
        logits = torch.cat([teacher(x.to(device)).half().cpu() for x in batches])
        return cls(student=student, logits=logits)

    @classmethod
    def pooled(
        cls, student: StudentConfig, teacher: nn.Module, images: Tensor, layer: InputLayer
    ) -> PortableLabels:
        """Of `student.budget` batches of images (N, C, H, W). layer: the student's first."""
        device = next(teacher.parameters()).device
        recipe = Recipe.of(student, layer)
        rows, seeds = recipe.pool(len(images), student.budget)
        nobody = torch.zeros(len(images), 1, device=device)
        logits = [
            teacher(replayed(recipe, images, nobody, own, seed)[0]).half().cpu()
            for own, seed in zip(rows, seeds, strict=True)
        ]
        whitened = isinstance(layer, Zca)
        return cls(
            student=student,
            logits=torch.cat(logits),
            rows=torch.cat(rows),
            seeds=torch.tensor(seeds),
            whitening={k: v.cpu() for k, v in layer.state_dict().items()} if whitened else {},
        )

    def batches(
        self, images: Tensor, targets: Tensor, spec: ImageSpec, epoch: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """An epoch of a pool's batches: images (b, C, H, W), the teacher's logits (b, K) and, mixed
        like the images, the distributions of `targets` (N, K), on the device of `targets`. An epoch
        has as many as show every image once. Raises ValueError for fixed labels."""
        if self.rows is None or self.seeds is None:
            raise ValueError("fixed labels are of images, not of batches")
        size, device = self.student.train.batch_size, targets.device
        recipe = Recipe.of(self.student, self._layer(spec).to(device))
        rows, logits = self._split(self.rows, len(images)), self._split(self.logits, len(images))
        per_epoch = -(-len(images) // size)
        for number in pool_order(recipe.seed, len(self.seeds), per_epoch, epoch):
            seed = int(self.seeds[number])
            x, target = replayed(recipe, images, targets, rows[number], seed)
            yield x, logits[number].float().to(device), target

    def _split(self, tensor: Tensor, count: int) -> list[Tensor]:
        """By batch: full ones, and one that is not at the end of every pass over the images."""
        return list(tensor.split(_sizes(self.student, count)))

    def _layer(self, spec: ImageSpec) -> InputLayer:
        if not self.whitening:
            return Normalize(spec.mean, spec.std)
        layer = Zca(spec)
        layer.load_state_dict(dict(self.whitening))
        return layer

    def save(self, folder: Path | str) -> dict[str, Any]:
        """Write `labels.safetensors`, and say what the card says of it."""
        found = {"rows": self.rows, "seeds": self.seeds, **self.whitening}
        tensors = {name: value for name, value in found.items() if value is not None}
        path = Path(folder) / FILE
        save_file({"logits": self.logits, **tensors}, path)
        facts = {"kind": self.kind, "bytes": path.stat().st_size, "rows": len(self.logits)}
        batches = {} if self.seeds is None else {"batches": len(self.seeds)}
        return {**facts, **batches, "student": self.student.to_dict()}

    @classmethod
    def load(
        cls, folder: Path | str, card: Mapping[str, Any], spec: ImageSpec, count: int
    ) -> PortableLabels | None:
        """Of a set of `count` images; None where its card names none. Raises DataError, which names
        the file and the rule, for what are no labels of it."""
        if CARD not in card:
            return None
        path = Path(folder) / FILE
        try:
            student = StudentConfig.from_dict(card[CARD]["student"])
            tensors = load_file(path)
            _check(tensors, student, spec, count)
        except OSError as error:
            raise DataError(f"{shown(path)}: cannot be read ({error.strerror or error})") from None
        except SafetensorError as error:
            raise DataError(f"{shown(path)}: damaged ({shown(str(error))})") from None
        except (ConfigError, KeyError, TypeError) as error:
            raise DataError(
                f"{shown(Path(folder) / 'card.json')}: its labels are not described "
                f"({shown(str(error))})"
            ) from None
        except ValueError as error:
            raise DataError(f"{shown(path)}: {error}") from None
        pool = tensors if student.labels == "budget" else {}
        return cls(
            student=student,
            logits=tensors["logits"],
            rows=pool.get("rows"),
            seeds=pool.get("seeds"),
            whitening={name: pool[name] for name in WHITENING if name in pool},
        )


def _check(
    tensors: Mapping[str, Tensor], student: StudentConfig, spec: ImageSpec, count: int
) -> None:
    """Raises ValueError, which says the rule, for what are no labels of `count` images."""
    logits = tensors.get("logits")
    if logits is None:
        raise ValueError("has no logits")
    if student.labels not in PORTABLE:
        raise ValueError(f"must hold {' or '.join(PORTABLE)} labels, got {student.labels}")
    if student.labels == "fixed":
        _check_tensor(tensors, "logits", torch.float16, (count, spec.num_classes))
        return
    _check_tensor(tensors, "seeds", torch.int64, (student.budget,))
    total = sum(_sizes(student, count))
    _check_tensor(tensors, "logits", torch.float16, (total, spec.num_classes))
    _check_tensor(tensors, "rows", torch.int64, (total,))
    if any(name in tensors for name in WHITENING):
        side = spec.num_values
        for name, shape in zip(WHITENING, ((side,), (side, side)), strict=True):
            _check_tensor(tensors, name, torch.float32, shape)
    rows = tensors["rows"]
    if not (0 <= int(rows.min()) and int(rows.max()) < count):
        raise ValueError(
            f"rows must be in 0..{count - 1}, got {int(rows.min())}..{int(rows.max())}"
        )


def _sizes(student: StudentConfig, count: int) -> list[int]:
    """Of the batches of a pool of `count` images."""
    once = [len(own) for own in torch.arange(count).split(student.train.batch_size)]
    return (once * -(-student.budget // len(once)))[: student.budget]


def _check_tensor(
    tensors: Mapping[str, Tensor], name: str, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    """Raises ValueError for one that is not there, of another kind or shape, or not finite."""
    tensor = tensors.get(name)
    if tensor is None or tensor.dtype != dtype or tuple(tensor.shape) != shape:
        got = None if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"
        raise ValueError(f"{name} must be {dtype} {shape}, got {got}")
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} must be finite")
