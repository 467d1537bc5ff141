from __future__ import annotations

import pytest
import torch

from guard.config import ComputeConfig
from guard.device import available_device, setup, threads


@pytest.mark.parametrize("has_cuda", [True, False])
def test_auto_takes_cuda_where_it_is(has_cuda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    assert available_device("auto") == ("cuda" if has_cuda else "cpu")
    assert available_device("cpu") == "cpu"


@pytest.mark.parametrize("wanted", ["cuda", "tpu"])
def test_a_device_that_is_not_there_is_refused(
    wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=rf"no device '{wanted}' on this machine; there are: cpu"):
        available_device(wanted)


def test_a_stage_sets_its_own_number_of_threads() -> None:
    threads = torch.get_num_threads()
    try:
        assert setup(ComputeConfig(num_threads=2)) == torch.device("cpu")
        assert torch.get_num_threads() == 2
        assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    finally:
        torch.set_num_threads(threads)


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
