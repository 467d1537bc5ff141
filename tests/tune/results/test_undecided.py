"""What a study has not found, and how many seeds would say."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import stdtrit

from builders import estimated, judged, planned, record
from guard.trial import TrialConfig
from tune.results.findings import Results
from tune.results.folder import StudyFolder
from tune.results.records import CONFIRMATION, Record
from tune.results.statistics import deciding_seeds, estimate
from tune.results.undecided import Undecided, in_words, nearby, undecided, undecided_grid


def test_so_many_seeds_find_the_difference_in_four_of_five_studies() -> None:
    """Simulated with the numbers that it was told; for Δ/s = 0.75 tables of the paired t-test say
    16."""
    gain, sd, draws = 0.03, 0.04, np.random.default_rng(0)
    reach = float(stdtrit(2, 0.975)) * sd / math.sqrt(3)
    told = replace(estimated(gain, gain - reach, gain + reach), distillation_std=sd)

    def clear(seeds: int) -> float:
        values = gain + sd * draws.normal(size=(20_000, seeds))
        errors = values.std(axis=1, ddof=1) / math.sqrt(seeds)
        return float((values.mean(axis=1) > stdtrit(seeds - 1, 0.975) * errors).mean())

    assert deciding_seeds(told) == 16
    assert clear(15) < 0.8 + 0.005 and clear(16) > 0.8 - 0.005


def test_a_difference_within_the_images_noise_takes_more_images() -> None:
    draws = np.random.default_rng(0)
    images = draws.normal(0, 1, 30)
    runs = {(seed, 0): images - images.mean() + 0.01 + 0.001 * seed for seed in range(3)}
    found = estimate(runs, signed=True)
    assert deciding_seeds(found) is None
    text = Undecided(what="x", found=found).seeds
    assert text == "more than 1000, or more test images"


@pytest.mark.parametrize("mean", [0.0, math.ulp(0.0)])
def test_no_difference_is_never_decided(mean: float) -> None:
    assert deciding_seeds(estimated(mean)) is None


def test_one_seed_says_nothing_of_others() -> None:
    alone = replace(estimated(0.01), num_distillations=1, distillation_std=math.nan)
    assert deciding_seeds(alone) is None
    row = Undecided(what="x", found=alone).row
    assert row == ["x", "+1.0 [-4.0, +6.0]", "", "1", "one seed does not say"]


def searched(folder: StudyFolder, trial: int, robust: float, penalty: float | None) -> Record:
    changes = {} if penalty is None else {"regularizer.weight": penalty}
    config = TrialConfig().override(changes)
    config = config if changes else config.unregularized()
    run = planned(trial, config, params=changes)
    splits = ("validation", "test")
    made = judged(folder.output / "searched", run, 0.9, robust, splits=splits)
    folder.write(made)
    return made


def confirmed(folder: StudyFolder, of: Record, seed: int, robust: float) -> None:
    fields = {"seed": seed, "student.seed": seed}
    config = TrialConfig.from_dict(of.config).override(fields)
    run = planned(of.trial, config, params=of.params, phase=CONFIRMATION)
    folder.write(judged(folder.output / "confirmed" / str(seed), run, 0.9, robust))


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    """Trial 2 is chosen; trial 3 is as robust, 1 less; new seeds tell 2 and 3 from the control, but
    not from one another."""
    folder = StudyFolder(tmp_path, "s")
    robust = {0: (0.3, None), 1: (0.4, 0.1), 2: (0.6, 0.2), 3: (0.6, 0.3)}
    made = {number: searched(folder, number, *values) for number, values in robust.items()}
    for seed in (1, 2, 3):
        confirmed(folder, made[0], seed, 0.3)
        confirmed(folder, made[2], seed, 0.6)
        confirmed(folder, made[3], seed, 0.6 + (-0.05, 0.03, 0.05)[seed - 1])
    folder.write_tables(made.values(), made[2])
    return folder


def test_a_search_says_what_it_cannot_tell_from_its_choice(folder: StudyFolder) -> None:
    results = Results.read(folder)
    assert [record.trial for record in nearby(results)] == [3]
    (found,) = undecided(results)
    assert found.what == "curvature (λ = 0.2, h = 0.1) against curvature (λ = 0.3, h = 0.1)"
    assert found.found.mean == pytest.approx(-0.01)
    columns, rows = undecided_grid(results)
    assert len(columns) == len(rows[0])
    text = in_words(results, rows)
    assert text.startswith("Within noise of the search's choice, trial 2, by the validation images")
    assert "one seed each: 3. In points" in text and "s²/n" in text


def test_trials_of_other_attacks_are_not_held_against_it(folder: StudyFolder) -> None:
    config = TrialConfig().override({"regularizer.weight": 0.4, "evaluation.eps": 0.5})
    folder.write(
        judged(folder.output / "other", planned(4, config), 0.9, 0.6, splits=("validation",))
    )
    assert [record.trial for record in nearby(Results.read(folder))] == [3]


def test_verdicts_that_are_gone_leave_a_trial_out(folder: StudyFolder) -> None:
    for place in (folder.output / "searched" / "3").rglob("verdicts.safetensors"):
        place.unlink()
    assert nearby(Results.read(folder)) == []


def test_a_study_in_which_all_is_clear_says_so(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    for trial, (robust, weight) in enumerate([(0.2, None), (0.8, 0.1)]):
        config = TrialConfig().override({"regularizer.weight": weight} if weight else {})
        config = config if weight else config.unregularized()
        folder.write(judged(tmp_path / "v", planned(trial, config), 0.9, robust))
    results = Results.read(folder)
    assert undecided(results) == []
    told = in_words(results, [])
    assert told.startswith("Every compared difference in robust accuracy is clear by itself.")
    assert " Taken together (Holm" in told
    empty = Results.read(StudyFolder(tmp_path, "none"))
    assert in_words(empty, []) == "" and record().is_search
