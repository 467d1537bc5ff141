"""What MLflow gets of a study in the end."""

from __future__ import annotations

from studies.design.study import Story, conclusion
from studies.reporting.console import Terminal
from tune.results.findings import Results
from tune.tracking.tracker import Tracker


def deliver(
    console: Terminal,
    tracker: Tracker,
    story: Story,
    results: Results,
    *,
    done: bool | None = True,
) -> bool:
    """What MLflow has not got of a study yet, and its answer. done: whether the study is finished;
    None: as MLflow has it. False, and a line, if MLflow does not take it."""
    status = None if done is None else "FINISHED" if done else "KILLED"
    answer = conclusion(story, results)
    tracker.close(list(results.records), status, answer, console.print)
    if tracker.trouble:
        console.warn(tracker.trouble)
    return not tracker.trouble
