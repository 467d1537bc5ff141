"""Tensors larger than memory: written to a file piece by piece, read from it as they are used.

`safetensors.torch.load_file` maps a file into memory, so its tensors take none until they are
touched, and give it back when it is needed; its writer copies every tensor whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

NAMES = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}
ALIGNMENT = 8
PIECE_BYTES = 2**26
"""Read and held at a time."""


def pieces(tensor: Tensor, most: int | None = None) -> Iterator[Tensor]:
    """Rows of a tensor (N, …), some 64 MiB and at most so many rows at a time."""
    row = max(tensor[:1].numel() * tensor.element_size(), 1)
    count = max(PIECE_BYTES // row, 1)
    yield from tensor.split(count if most is None else min(count, most))


def write_rows(path: Path, tensors: Mapping[str, Sequence[Tensor]]) -> None:
    """What `safetensors.torch.save_file` writes, byte for byte, of tensors that are given as rows
    (n, …), one part after another."""
    order = sorted(tensors, key=lambda name: (-tensors[name][0].element_size(), name))
    header, end = {}, 0
    for name in order:
        first, start = tensors[name][0], end
        end += sum(part.numel() * part.element_size() for part in tensors[name])
        shape = [sum(map(len, tensors[name])), *first.shape[1:]]
        header[name] = {"dtype": NAMES[first.dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            for piece in (piece for part in tensors[name] for piece in pieces(part)):
                file.write(piece.cpu().contiguous().numpy().data)


def all_finite(tensor: Tensor) -> bool:
    """Of a tensor (N, …) on the CPU."""
    return all(bool(piece.isfinite().all()) for piece in pieces(tensor))
