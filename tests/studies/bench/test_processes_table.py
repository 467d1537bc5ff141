"""The table of what several processes bring."""

from __future__ import annotations

import pytest

from guard.config import ComputeConfig
from guard.errors import StudyError
from guard.group import ALONE
from studies.bench import processes
from studies.bench.epochs import Case, measured


def test_a_row_says_what_was_measured_and_how_the_times_relate() -> None:
    case = Case(
        preset="digits",
        penalised=True,
        batchnorm="synchronized",
        steps=1,
        rounds=1,
        compute=ComputeConfig(),
    )
    ((preset, loss, batchnorm, by_one, by_all, times),) = measured([case], ALONE)
    assert (preset, loss, batchnorm) == ("digits", "with the penalty", "synchronized")
    assert float(times) == pytest.approx(float(by_one) / float(by_all), rel=0.2, abs=0.1)


def test_the_presets_penalties_are_measured_with_either_batchnorm() -> None:
    presets = processes.parser().parse_args([]).presets
    found = list(processes.cases(presets, 10, 7, ComputeConfig()))
    assert {case.preset for case in found} == {"digits", "cifar10-small"}
    assert {case.batchnorm for case in found if case.penalised} == {"synchronized", "local"}


def test_numbers_below_one_are_refused() -> None:
    with pytest.raises(StudyError, match="at least 1"):
        processes.main(["--rounds", "0"])


def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(StudyError, match="--device: no device 'tpu'"):
        processes.main(["--device", "tpu"])
