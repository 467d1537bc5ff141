"""How much of a student's robustness comes from the images, the labels, and their teacher?

Every combination of a few images, kinds of labels and trainings of the teacher, and a committee
beside them. `--set 'method=choice(random, kcenter, rded, sre2l, dc)'` takes other images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from guard.config.labels import OWN
from guard.trial import TrialConfig
from studies.design.design import Design
from studies.design.differences import Pair, differences
from studies.design.study import Study, Table, confirmed
from studies.driver.trials_job import run_command
from studies.presets import Preset
from tune.results.comparison import Comparison, versus
from tune.results.findings import Results
from tune.results.statistics import Estimate
from tune.results.tables import by_chance, level, percent, signed_percent, verdict
from tune.results.wording import joined, penalty, told_apart

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES = ("random", "rded", "sre2l")
"""The first are what others are held against."""
HARD, EPOCH = "hard", "soft"
LABELS = (HARD, "fixed", "budget", EPOCH)
ADVERSARIAL = ("pgd-at", "trades")
COMMITTEE = (OWN, "pgd-at")


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a student learns from."""

    images: str
    """The method."""
    labels: str
    teacher: str
    """How it was trained, in words: "none" for no regularizer. Of hard labels, the teacher of the
    images."""
    rest: str = ""
    """What else sets it apart."""
    maker: str = field(default="none", compare=False)
    """How the teacher of the images was trained; "none" where they have none."""

    @classmethod
    def of(cls, config: TrialConfig, rest: str) -> Sources:
        own = config.regularizer
        members = config.labels.teachers if config.is_taught else (OWN,)
        names = [penalty(own) if member == OWN else member for member in members]
        return cls(
            images=config.method,
            labels=config.student.labels,
            teacher=" + ".join(names),
            rest=rest,
            maker=penalty(own) if config.own.takes_regularizer else "none",
        )

    @property
    def place(self) -> str:
        return joined(self.images, self.rest)


Arms = Mapping[Sources, Comparison]
SAID = ("student.labels", "labels", "regularizer")
"""What sources say, beside the method."""


def design(preset: Preset) -> Design:
    committee = {"student.labels": EPOCH, "labels.teachers": list(COMMITTEE)}
    return Design(
        axes={"method": IMAGES, "student.labels": LABELS},
        variants=[{}, *({"regularizer": name} for name in ADVERSARIAL)],
        single=[{"method": name, **committee} for name in IMAGES],
        settings=confirmed(preset),
    )


def arms(results: Results) -> Arms:
    configs = [own.arm.config for own in results.comparisons]
    ipcs = {config.ipc for config in configs}
    others = told_apart(configs, SAID)
    found = {}
    for own, config, rest in zip(results.comparisons, configs, others, strict=True):
        ipc = f"IPC {config.ipc}" if len(ipcs) > 1 else ""
        found[Sources.of(config, joined(ipc, rest))] = own
    return found


def teachers(found: Arms) -> list[str]:
    """The unregularized one first, a committee last."""
    names = list(dict.fromkeys(own.teacher for own in found))
    return sorted(names, key=lambda name: (name != "none", " + " in name))


SOURCES = ("teacher", "labels", "images")
"""Fields of what a student learns from, each of which is changed alone."""


def pairs_of(found: Arms, source: str) -> Iterator[Pair]:
    """Arms with labels of every epoch, and the same ones with one source as plain as it can be."""
    first = next(iter(found)).images
    for own, ours in found.items():
        plain = {
            "teacher": replace(own, teacher="none"),
            "labels": replace(own, labels=HARD, teacher=own.maker),  # of the very same images
            "images": replace(own, images=first),
        }[source]
        theirs = found.get(plain)
        if own.labels == EPOCH and plain != own and theirs is not None:
            change = f"{source}: {getattr(own, source)} for {getattr(plain, source)}"
            yield (change, own.place, own.teacher), ours, theirs


def grid(found: Arms) -> Table:
    """Images and labels by teachers."""
    names = teachers(found)
    places = dict.fromkeys((own.place, own.labels) for own in found)
    rows = []
    for images, labels in places:
        own = {k.teacher: v for k, v in found.items() if (k.place, k.labels) == (images, labels)}
        cells = [f"{percent(c.clean)}, {percent(c.robust)}" for c in own.values()]
        row = dict(zip(own, cells, strict=True))
        rows.append([images, labels, *(row.get(name, "") for name in names)])
    return Table(
        anchor="sources",
        title="Images, labels and teachers",
        caption="Clean and robust accuracy in percent. hard: the class alone, and the teacher that "
        "the images were made with; fixed: one label an image; budget: a pool of batches drawn "
        "beforehand; soft: a label for each picture of each epoch.",
        columns=["images", "labels", *names],
        rows=rows,
    )


def tables(results: Results) -> list[Table]:
    found = arms(results)
    if not found:
        return []
    pairs = [pair for source in SOURCES for pair in pairs_of(found, source)]
    columns = ("what changes", "images", "teacher")
    shown = differences("contributions", "What each of them brings", columns, pairs)
    return [grid(found), *shown]


def figures(results: Results) -> Mapping[str, Figure]:
    """Robust accuracy by labels, a line for each teacher, side by side for the images."""
    from matplotlib.figure import Figure

    from studies.reporting.figures import draw_line, entitle

    found = arms(results)
    images = list(dict.fromkeys(own.place for own in found))
    kinds = list(dict.fromkeys(own.labels for own in found))
    figure = Figure(figsize=(1.2 + 2.6 * len(images), 4.2), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(images), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, images, strict=True):
        for number, teacher in enumerate(teachers(found)):
            own = {k.labels: v for k, v in found.items() if (k.place, k.teacher) == (name, teacher)}
            at = [kinds.index(kind) for kind in own]
            estimates = [comparison.robust for comparison in own.values()]
            draw_line(axes, at, estimates, number, "--" if teacher == "none" else "-", teacher)
        axes.set_xticks(range(len(kinds)), kinds)
        axes.set_title(name, fontsize=9)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("robust accuracy, 95 % interval")
    handles, titles = panels[-1].get_legend_handles_labels()
    figure.legend(handles, titles, loc="outside lower center", ncols=2, fontsize=8)
    entitle(figure, results.caption)
    return {"sources": figure}


def answer(results: Results) -> str:
    """The range of what each source brings, and in how many comparisons clearly."""
    found, parts = arms(results), []
    every: list[Estimate] = []
    for source in SOURCES if found else ():
        pairs = pairs_of(found, source)
        gains = [gain for _, ours, theirs in pairs if (gain := versus(ours, theirs))]
        if not gains:
            continue
        every += gains
        low, high = (end(gains, key=lambda gain: gain.mean) for end in (min, max))
        clear = sum(gain.is_clear for gain in gains)
        parts.append(
            f"the {source}: from {signed_percent(low)} ({verdict(low)}) to {signed_percent(high)} "
            f"({verdict(high)}), {clear} of {len(gains)} clear"
        )
    if not parts:
        return "Nothing can be compared yet."
    what = f"Robust accuracy, in points, {level(every)}"
    return f"{what}, by what is changed alone. {'; '.join(parts)}. {by_chance(len(every))}"


STUDY = Study(
    name="labels",
    question="How much of a student's robustness comes from the images, the labels, the teacher?",
    source="",
    design=design,
    figures=figures,
    answer=answer,
    tables=tables,
)


if __name__ == "__main__":
    run_command(STUDY)
