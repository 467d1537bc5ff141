"""What a sweep tells: the front that its search found, and what its confirmation says."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from guard.trial import TrialConfig
from studies.design.study import Results, Story, gains_in_words
from studies.reporting.figures import eps_figure, pareto_figure
from studies.reporting.progress import describe
from tune.results.records import Record


def chosen(results: Results) -> Record | None:
    """The trial of best.json."""
    path = results.folder.path / "best.json"
    if not path.is_file():
        return None
    fingerprint = TrialConfig.from_json(path.read_text()).fingerprint()
    return next((r for r in results.records if r.fingerprint == fingerprint), None)


def figures(results: Results) -> Mapping[str, Figure]:
    searched = [record for record in results.records if record.is_search]
    found = (
        {"pareto": pareto_figure(searched, chosen(results), results.comparisons)}
        if searched
        else {}
    )
    over_eps = eps_figure(results.comparisons, results.caption) if results.comparisons else None
    return found | ({"eps": over_eps} if over_eps else {})


def answer(results: Results) -> str:
    if results.comparisons:
        return gains_in_words(results)
    best = chosen(results)
    if best is None:
        return "Nothing can be said before a baseline is complete."
    clean, robust = best.objectives
    return (
        f"Chosen by the search, not confirmed: {describe(best)}, clean {clean:.3f}, robust "
        f"{robust:.3f} on validation images."
    )


STORY = Story(
    name="sweep",
    question="Which penalty, step, images per class and method make robust students?",
    source="",
    figures=figures,
    answer=answer,
)
