"""What a process takes, measured by itself."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from tune import usage
from tune.usage import CONTEXT_MIB, MIB, held_by_gpu, measured, resident_mib


def test_memory_that_was_held_for_a_moment_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    held, asked = 100.0, threading.Event()

    def resident() -> float:
        if held == 900.0:
            asked.set()
        return held

    monkeypatch.setattr(usage, "resident_mib", resident)
    monkeypatch.setattr(usage, "SAMPLE_S", 0.001)
    with measured() as found:
        held = 900.0
        assert asked.wait(60)
        held = 110.0
    assert found.memory_mib == 900.0


def test_a_busy_process_takes_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = {"process_time": iter([1.0, 4.0]), "perf_counter": iter([10.0, 12.0])}
    for name, values in clocks.items():
        monkeypatch.setattr(usage.time, name, values.__next__)
    with measured() as found:
        pass
    assert found.cpu_percent == 150.0 and found.gpu_memory_mib == 0.0


def test_what_raises_is_measured_too() -> None:
    with pytest.raises(ValueError), measured() as found:
        raise ValueError
    assert found.memory_mib > 0


def test_memory_is_in_mebibytes(monkeypatch: pytest.MonkeyPatch) -> None:
    block = bytearray(b"x" * (64 * MIB))
    before = resident_mib()
    del block
    assert 40 < before - resident_mib() < 90

    def unknown(path: Path, encoding: str) -> str:
        raise OSError

    monkeypatch.setattr(Path, "read_text", unknown)
    assert resident_mib() > 40


def test_a_gpus_memory_is_what_pytorch_has_held(monkeypatch: pytest.MonkeyPatch) -> None:
    resets: list[int] = []
    emptied: list[bool] = []
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        device_count=lambda: 2,
        reset_peak_memory_stats=resets.append,
        max_memory_reserved=lambda device: (1 + device) * MIB,
        empty_cache=lambda: emptied.append(True),
        get_device_properties=lambda device: SimpleNamespace(total_memory=10 * CONTEXT_MIB * MIB),
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    with measured() as found:
        pass
    assert found.gpu_memory_mib == 3.0 and resets == [0, 1] and emptied == [True]
    assert found.gpu_share == pytest.approx(0.1 + 2 / (10 * CONTEXT_MIB))
    cuda.is_initialized = lambda: False
    assert held_by_gpu() == []
