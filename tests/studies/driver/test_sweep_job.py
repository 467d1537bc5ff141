from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builders import configured, record
from studies import sweep
from studies.driver.flags import parsed
from studies.driver.request import settled
from studies.driver.settings import search_space
from studies.driver.sweep_job import SweepJob, planned_job
from tune.results.front import Controls
from tune.settling import is_control, state_of
from tune.space import configured as configured_in


def job_of(output: Path, *argv: str) -> SweepJob:
    """A sweep of digits whose data is not read."""
    request = settled(parsed(sweep.parser(), ["--output", str(output), "--name", "s", *argv]))
    space = search_space(request.preset, request.settings, request.data)
    request.folder.path.mkdir(parents=True, exist_ok=True)
    return planned_job(sweep.STORY, request, space)


def fill(job: SweepJob, count: int) -> None:
    """Tell the study of so many finished trials, controls first."""
    for number in range(count):
        trial = job.study.ask()
        job.plan.space.suggest(trial)
        control = is_control(trial)
        robust = 0.3 if control else 0.5 + 0.01 * number
        made = record(trial.number, 0.9, robust, configured(control=control))
        job.request.folder.write(made)
        job.standing.add([made])
        job.study.tell(trial, made.objectives)


@pytest.mark.parametrize(
    ("argv", "trials"),
    [
        ([], 24),
        (["--num-trials", "3"], 3),
        (["--set", "ipc=choice(1, 2, 3, 4, 5, 6, 7)"], 28),
        (["--sampler", "grid"], 40),
    ],
    ids=["the preset's", "asked for", "as many as are queued", "the grid"],
)
def test_a_sweep_has_as_many_trials_as(argv: list[str], trials: int, tmp_path: Path) -> None:
    assert job_of(tmp_path, *argv).plan.num_trials == trials


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], ""),
        (["--sampler", "grid", "--num-trials", "3"], ""),
        (["--num-trials", "12"], ""),
        (["--num-trials", "10"], "4 baselines .* and 4 trials .* proposes 2 of 10 trials"),
        (["--num-trials", "3"], "proposes 0 of 3 trials"),
        (
            ["--set", "seed=choice(0, 1, 2, 3, 4)"],
            "20 baselines .* and 20 trials .* proposes 0 of 40 trials",
        ),
    ],
)
def test_a_search_that_leaves_next_to_nothing_to_its_sampler_says_so(
    argv: list[str], told: str, tmp_path: Path
) -> None:
    found = job_of(tmp_path, *argv).cautions
    assert bool(found) == bool(told)
    assert all(re.search(told, line) for line in found)


def test_a_grid_runs_every_trial_whole(tmp_path: Path) -> None:
    assert job_of(tmp_path).plan.reduction == 2
    assert job_of(tmp_path, "--sampler", "grid").plan.reduction == 1


def test_a_short_search_ends_no_trial_early_unless_it_is_told_to(tmp_path: Path) -> None:
    assert job_of(tmp_path, "--num-trials", "12").plan.reduction == 1
    told = ("--num-trials", "12", "--set", "search.reduction=3")
    assert job_of(tmp_path, *told).plan.reduction == 3
    assert job_of(tmp_path, "--set", "search.reduction=1").plan.reduction == 1


def test_the_sampler_has_the_seed_of_the_search(tmp_path: Path) -> None:
    plan = job_of(tmp_path, "--set", "search.seed=5", "--sampler", "random").plan
    assert (plan.seed, plan.sampler) == (5, "random")


def test_what_varies_is_said_in_words(tmp_path: Path) -> None:
    varied = job_of(tmp_path, "--set", "regularizer.h=0.1").varied
    assert varied == {
        "search method": "choice(sre2l, cda)",
        "search ipc": "choice(1, 10)",
        "search regularizer.weight": "loguniform(0.001, 100)",
    }


def test_trials_are_missing_then_their_confirmation(tmp_path: Path) -> None:
    job = job_of(tmp_path, "--num-trials", "9")
    assert job.counted() == (0, 9) and job.unfinished() == "9 trials"
    fill(job, 7)
    assert job.counted() == (7, 9) and job.unfinished() == "2 trials"
    fill(job, 2)
    assert job.counted() == (9, 9)
    assert job.unfinished() == "6 runs of the confirmation"
    again = job_of(tmp_path, "--num-trials", "9", "--set", "confirm.seeds=5")
    assert again.unfinished() == "10 runs of the confirmation"
    alone = job_of(tmp_path, "--num-trials", "9", "--set", "confirm.seeds=0")
    assert alone.unfinished() == ""


RECIPES = ("--set", "student.train.lr=loguniform(1e-3, 1e-2)", "--set", "sre2l.lr=choice(0.1, 0.2)")


def test_what_is_confirmed_gets_a_baseline_of_its_own_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the choice, which it may change, has none."""
    job = job_of(tmp_path, "--num-trials", "11", "--set", "confirm.configurations=1", *RECIPES)
    searched: list[int] = []

    def search(self: SweepJob, session: object, budget: int) -> None:
        """Each trial is more robust than the one before."""
        searched.append(budget)
        for _ in range(budget):
            trial = self.study.ask()
            params, control = self.plan.space.suggest(trial), is_control(trial)
            config = configured_in(self.plan.space.base, params, control=control)
            robust = 0.0 if control else trial.number / 100
            made = record(trial.number, 0.9, robust, config, params=params, control=control)
            self.request.folder.write(made)
            self.standing.add([made])
            self.study.tell(
                trial, state=state_of(made), values=None if control else made.objectives
            )

    monkeypatch.setattr(SweepJob, "search", search)
    progress = SimpleNamespace(begin=lambda *of: None, say=lambda line: None)
    session: Any = SimpleNamespace(progress=progress, run=lambda runs: None)
    job.work(session)
    assert searched == [11, 1]
    best = job.best()
    assert best is not None and not best.control
    own = Controls(job.standing.records).of(best)
    assert own is not None and own.unregularized == best.unregularized
    assert job.unfinished() == "6 runs of the confirmation"


def test_the_choice_depends_on_the_clean_accuracy_that_may_be_lost(tmp_path: Path) -> None:
    for made in (
        record(0, 0.95, 0.3, configured(control=True)),
        record(1, 0.94, 0.4),
        record(2, 0.85, 0.6),
    ):
        job_of(tmp_path).request.folder.write(made)
    chosen = {
        share: job_of(tmp_path, "--set", f"search.max_clean_drop={share}").best()
        for share in ("0", "0.03", "0.2")
    }
    assert {share: best and best.trial for share, best in chosen.items()} == {
        "0": 0,
        "0.03": 1,
        "0.2": 2,
    }
