"""The distilled images side by side: without the penalty and with it, class by class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from guard.distilled import DistilledSet
from guard.pictures import to_picture
from studies.design.design import Design
from studies.design.study import Study, confirmed
from studies.driver.trials_job import run_command
from studies.presets import Preset
from tune.results.comparison import Arm
from tune.results.findings import Results, gains_in_words
from tune.results.wording import joined

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CLASSES, MAX_IMAGES = 10, 3
CELL_INCHES = 0.62


def design(preset: Preset) -> Design:
    return Design(
        axes={"method": ("sre2l",), "ipc": (1, preset.config.ipc)}, settings=confirmed(preset)
    )


def figures(results: Results) -> Mapping[str, Figure]:
    """A figure for each method and IPC: a column a class, rows of images of each arm."""
    found: dict[str, Figure] = {}
    groups: dict[tuple[str, int], list[Arm]] = {}
    for comparison in results.comparisons:
        config = comparison.arm.config
        groups.setdefault((config.method, config.ipc), []).append(comparison.arm)
    for (method, ipc), arms in groups.items():
        shown = [arm for arm in arms if "distilled" in first_record(arm)]
        if shown:
            found[f"{method}-ipc-{ipc}"] = side_by_side(shown)
    return found


def first_record(arm: Arm) -> Mapping[str, str]:
    """Paths of the arm's first seed."""
    return arm.records[min(arm.records)].paths


def side_by_side(arms: list[Arm]) -> Figure:
    from matplotlib.figure import Figure

    sets = [DistilledSet.load(Path(first_record(arm)["distilled"])) for arm in arms]
    spec, rows = sets[0].spec, min(sets[0].ipc, MAX_IMAGES)
    columns = min(spec.num_classes, MAX_CLASSES)
    size = (CELL_INCHES * columns + 0.4, (CELL_INCHES * rows + 0.35) * len(arms) + 0.3)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    for part, arm, distilled in zip(
        figure.subfigures(len(arms), 1, squeeze=False)[:, 0], arms, sets, strict=True
    ):
        part.suptitle(joined(arm.penalty, arm.settings), fontsize=9)
        cells = part.subplots(rows, columns, squeeze=False)
        for row in range(rows):
            for column in range(columns):
                image = to_picture(distilled.images[row * spec.num_classes + column])
                cells[row, column].imshow(image, cmap="gray", vmin=0, vmax=255)
                cells[row, column].set_axis_off()
                if row == 0:
                    head(cells[row, column], spec.class_names[column][:9], column)
    return figure


def head(axes: Axes, name: str, number: int) -> None:
    """The class's name over its column, or its number where no font has the name."""
    from studies.reporting.fonts import families

    usable = families(name)
    axes.set_title(
        name if usable else f"class {number}",
        fontsize=6,
        pad=2,
        fontfamily=usable or None,
        parse_math=False,
    )


STUDY = Study(
    name="gallery",
    question="What do the distilled images look like, without GUARD's penalty and with it?",
    source="GUARD, Figures 1 and 3",
    design=design,
    figures=figures,
    answer=gains_in_words,
    seeds=1,
)


if __name__ == "__main__":
    run_command(STUDY)
