"""Sets that somebody made, from the command line to the trials of a study."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from guard.artifacts import ArtifactStore
from guard.distilled import DistilledSet
from guard.errors import UserError
from guard.pipeline import local_runner
from guard.trial import TrialConfig
from guard.trial_stages import TrialStages
from helpers import draws
from studies import compare, sweep
from studies.driver import flags
from studies.driver.request import settled
from studies.driver.sets import keep_sets, with_sets
from studies.driver.trials_job import TrialsJob, parser, prepared
from tune.results.wording import title

METHODS = "method=choice(given, random, whole)"


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a.npz has one digit a class, and b.pt two, of pixels in -1..1."""
    monkeypatch.chdir(tmp_path)
    x = torch.rand(20, 1, 8, 8, generator=draws())
    np.savez("a.npz", images=(255 * x[:10, 0]).byte().numpy(), labels=np.arange(10))
    torch.save((2 * x - 1, torch.arange(20) % 10), "b.pt")
    return tmp_path


def job(place: Path, *settings: str) -> TrialsJob:
    told = [part for text in ("regularizer=none", *settings) for part in ("--set", text)]
    argv = ["--output", str(place / "runs"), "--seeds", "2", *told]
    study = compare.STUDY
    return prepared(study, settled(flags.parsed(parser(study), argv)))


def test_given_sets_are_arms_beside_ours(sets: Path) -> None:
    runs = job(sets, METHODS, "given.path=choice(a.npz, b.pt)", "ipc=choice(2, 5)").runs
    plain = [run for run in runs if run.control and run.config.seed == 0]
    assert [title(run.config, run.params) for run in plain] == [
        "given a.npz, IPC 1, none, seed = 0",
        "given b.pt, IPC 2, none, seed = 0",
        "random, IPC 2, none, seed = 0",
        "random, IPC 5, none, seed = 0",
        "whole, none, seed = 0",
    ]
    assert [run.params.get("ipc") for run in plain] == [None, None, 2, 5, None]
    assert len({run.config.fingerprint() for run in runs}) == len(runs)
    assert all(Path(own.place).is_absolute() for own in plain[0].config.given.known)
    assert any(
        "taken as -1..1" in note for note in plain[1].config.own.cautions(plain[1].config.shared)
    )


def test_a_search_takes_them_as_choices(sets: Path) -> None:
    told = ["method=choice(given, sre2l)", "given.path=choice(a.npz, b.pt)", "ipc=choice(2, 5)"]
    argv = [part for text in told for part in ("--set", text)]
    argv += ["--output", str(sets / "runs")]
    space = sweep.space(settled(flags.parsed(sweep.parser(), argv)))
    controls = [
        (params, config.ipc)
        for params, config in zip(space.controls(), space.control_configs(), strict=True)
    ]
    assert controls == [
        ({"method": "given", "given.path": "a.npz"}, 1),
        ({"method": "given", "given.path": "b.pt"}, 2),
        ({"method": "sre2l", "ipc": 2}, 2),
        ({"method": "sre2l", "ipc": 5}, 5),
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["method=given"], "given.path: must name a set: a folder, an .npz or a .pt file; got ''"),
        (["method=given", "given.path=c.npz"], "c.npz: does not exist"),
        (["method=given", "given.path=s3://x/y"], "given.path: must be a path in a file system"),
        (["method=given", "given.path=bad.npz"], "given.path: bad.npz: not an .npz file"),
        (["method=given", "given.path=choice(a.npz, bad.npz)"], "bad.npz: not an .npz file"),
        (["method=given", "given.path=7"], "given.path: must be text, got 7"),
        (["method=given", "given.path=a.npz", "given.pth=b"], "no such field (did you mean"),
        (
            ["method=given", "given.path=a.npz", "student.labels=own"],
            "student.labels: own: given learns no labels here",
        ),
        (
            ["method=given", "given.path=a.npz", "student.learned_lr=true"],
            "student.learned_lr: given learns no learning rate",
        ),
    ],
)
def test_what_is_no_set_is_told_in_one_line(settings: list[str], message: str, sets: Path) -> None:
    (sets / "bad.npz").write_text("nothing")
    with pytest.raises(UserError) as caught:
        job(sets, *settings)
    assert message in str(caught.value).replace(f"{sets}/", "") and "\n" not in str(caught.value)
    assert not (sets / "runs").exists()


def test_no_other_machine_needs_the_file(sets: Path) -> None:
    config = with_sets(TrialConfig().override({"method": "given", "regularizer": "none"}), ["b.pt"])
    config = config.override({"given.path": "b.pt"})
    store = ArtifactStore(sets / "store")
    keep_sets(store, [config, TrialConfig()])
    (sets / "b.pt").unlink()
    (made,) = local_runner(store)(TrialStages.of(config).distilled)
    assert DistilledSet.load(made.path).ipc == config.ipc == 2
    assert [folder.parent.name for folder in store.folders()] == ["given", "distilled"]


def test_a_config_that_was_kept_finds_its_set_from_anywhere(
    sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = job(sets, "method=given", "given.path=a.npz").runs[0].config
    again = TrialConfig.from_json(config.to_json())
    (sets / "elsewhere").mkdir()
    monkeypatch.chdir(sets / "elsewhere")
    assert with_sets(again, ()) == config
    np.savez(sets / "a.npz", images=np.zeros((10, 8, 8), np.uint8), labels=np.arange(10))
    with pytest.raises(UserError, match=r"^given\.path: .*a\.npz holds .*…, the configuration was"):
        with_sets(again, ())
