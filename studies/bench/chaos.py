"""Does a study under faults come to what an undisturbed one comes to?

A small study runs on a cluster of two machines with an MLflow server, again and again. Each time
faults strike at random: the driver, stages, coordinators, the desk, a machine, the head or the
server are killed, stored results are changed or cut off, the disk is full for a while. The same
command goes on until the study is finished. Then its table, the bytes of its results and its runs
in MLflow must be those of the undisturbed study; exit code 1 if any is not. The full disk needs
root, for a small file system of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from guard.artifacts import ArtifactStore, Damaged, parsed_record
from guard.errors import StudyError
from studies.bench.arena import STUDY, Arena, arena_in
from studies.bench.faults import strike
from studies.driver import flags
from studies.reporting.console import Terminal
from tune.places import typed, usable_folder

PAUSE_S, LOOK_S = (0.5, 8.0), 0.2
"""Between two faults; until a command that was started is seen to compute."""
MAX_STARTS = 60
"""Of the command, before a study counts as one that never ends."""


def disturbed(arena: Arena, num_faults: int, console: Terminal) -> Counter[str]:
    """A study until it is finished, and the faults that it has met, at most so many. Raises
    StudyError for one that never is."""
    met: Counter[str] = Counter()
    for _ in range(MAX_STARTS):
        arena.start()
        code, is_at_work = None, False
        while code is None:
            code = arena.ended(arena.draws.uniform(*PAUSE_S) if is_at_work else LOOK_S)
            is_at_work = is_at_work or bool(arena.cluster.running("ray::stage"))
            if is_at_work and code is None and met.total() < num_faults:
                name, struck = strike(arena)
                met[name] += 1
                console.print(f"  {name}: {struck}")
        if code == 0:
            return met
    last = "\n".join(arena.said[-3:])
    raise StudyError(f"the study is not finished after {MAX_STARTS} starts; the last said:\n{last}")


def table(study: Path) -> list[dict[str, str]]:
    """Of results.csv in a study's folder what does not depend on a clock."""
    with (study / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]


def stored_sums(output: Path) -> dict[str, object]:
    """Of every whole result its summary and the sums of its files, by address."""
    store = ArtifactStore(output / "artifacts")
    found: dict[str, object] = {}
    for folder in store.folders():
        with contextlib.suppress(Damaged):
            record = parsed_record(folder, store.record(folder))
            address = folder.relative_to(store.root).as_posix()
            found[address] = record["summary"], record["files"]
    return found


def known_as_damaged(output: Path) -> set[str]:
    """Addresses of results that were struck after their last reader, so that nobody has computed
    them again."""
    store = ArtifactStore(output / "artifacts")
    return {Path(fault.place).relative_to(store.root).as_posix() for fault in store.faults()}


def runs(uri: str) -> list[str]:
    """Of the study in MLflow: which trial each is of, and how it ended."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    every = [e.experiment_id for e in client.search_experiments()]
    found = client.search_runs(every, f"tags.`guard.study` = '{STUDY}'", max_results=1000)
    return sorted(f"{run.data.tags['guard.trial']} {run.info.status}" for run in found)


def differences(calm: Path, calm_runs: list[str], arena: Arena) -> list[str]:
    """In words, between an undisturbed study and one that met faults."""
    found = []
    if table(arena.output / STUDY) != table(calm / STUDY):
        found.append("results.csv is another one")
    expected, made = stored_sums(calm), stored_sums(arena.output)
    for address in sorted((expected.keys() | made.keys()) - known_as_damaged(arena.output)):
        if expected.get(address) != made.get(address):
            found.append(f"{address} is another one")
    if runs(arena.tracking.uri) != calm_runs:
        found.append(f"MLflow has {runs(arena.tracking.uri)}, not {calm_runs}")
    return found


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies.bench.chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=20, metavar="N", help="default: 20")
    parser.add_argument("--each", type=int, default=12, metavar="N", help="of one study at most")
    parser.add_argument("--seed", type=int, default=0, metavar="SEED", help="default: 0")
    parser.add_argument("--output", metavar="DIR", help="default: a temporary folder")
    return parser


def main(argv: Sequence[str]) -> int:
    """0 if every disturbed study is like the undisturbed one. Raises StudyError."""
    args = parser().parse_args(argv)
    console, bad = Terminal(), 0
    with tempfile.TemporaryDirectory() as scratch:
        root = usable_folder("--output", typed("--output", args.output or scratch))
        with arena_in(root / "calm", 0) as arena:
            console.print("undisturbed")
            disturbed(arena, 0, console)
            calm = root / "calm-runs"
            subprocess.run(["cp", "-a", str(arena.output), str(calm)], check=True)
            calm_runs = runs(arena.tracking.uri)
        met: Counter[str] = Counter()
        while met.total() < args.faults:
            seed = args.seed + len(list(root.glob("seed-*")))
            console.print(f"seed {seed}")
            with arena_in(root / f"seed-{seed}", seed) as arena:
                met += disturbed(arena, min(args.each, args.faults - met.total()), console)
                found = differences(calm, calm_runs, arena)
            bad += len(found)
            for line in found or ["  as undisturbed"]:
                console.print(line)
    for name, count in met.most_common():
        console.print(f"{count:>4}  {name}")
    console.print(f"{met.total()} faults, {bad} differences")
    return 1 if bad else 0


if __name__ == "__main__":
    flags.run(main)
