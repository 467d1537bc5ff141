"""Tensors that are written and read piece by piece."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from guard import tensors
from guard.tensors import all_finite, pieces, write_rows
from helpers import draws


@pytest.fixture
def rows() -> dict[str, list[Tensor]]:
    generator = draws()
    images = [torch.rand(n, 3, 4, 4, generator=generator) for n in (5, 1, 3)]
    soft = [torch.rand(n, 7, generator=generator) for n in (4, 5)]
    return {"images": images, "labels": [torch.arange(9)], "soft_labels": soft}


@pytest.mark.parametrize("piece_bytes", [1, 200, 2**26])
def test_a_file_is_the_one_that_safetensors_writes(
    rows: dict[str, list[Tensor]],
    piece_bytes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tensors, "PIECE_BYTES", piece_bytes)
    write_rows(tmp_path / "ours", rows)
    whole = {name: torch.cat(parts) for name, parts in rows.items()}
    save_file(whole, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    read = load_file(tmp_path / "ours")
    assert all(torch.equal(read[name], tensor) for name, tensor in whole.items())


def test_rows_that_do_not_lie_in_order_are_written_in_order(tmp_path: Path) -> None:
    x = torch.rand(4, 6, generator=draws())
    write_rows(tmp_path / "file", {"x": [x.T, x[:, :4]]})
    assert torch.equal(load_file(tmp_path / "file")["x"], torch.cat([x.T, x[:, :4]]))


def test_pieces_are_all_rows_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.arange(20.0).view(10, 2)
    monkeypatch.setattr(tensors, "PIECE_BYTES", 24)
    assert [len(piece) for piece in pieces(x)] == [3, 3, 3, 1]
    assert [len(piece) for piece in pieces(x, 2)] == [2] * 5
    assert [len(piece) for piece in pieces(x, 5)] == [3, 3, 3, 1]
    assert torch.equal(torch.cat(list(pieces(x))), x)
    assert all_finite(x)
    x[9, 1] = float("nan")
    assert not all_finite(x)
