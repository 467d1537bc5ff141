from __future__ import annotations

import io

import pytest
from matplotlib.figure import Figure

from builders import configured, estimated
from guard.robustness.measures import CLEAN, ROBUST, Measure
from studies.reporting.figures import entitle, eps_figure, ipc_figure
from tune.results.comparison import Arm, Comparison, named
from tune.results.tables import markdown, shared_worst_cases


@pytest.mark.parametrize(
    ("title", "lines"),
    [
        ("", [""]),
        ("short", ["short"]),
        (
            "two words and a third " * 3,
            ["two words and a third two words", "and a third two words and a third"],
        ),
        ("x" * 60, ["x" * 30, "x" * 30]),
    ],
)
def test_a_title_is_broken_into_even_lines(title: str, lines: list[str]) -> None:
    figure = Figure(figsize=(4, 3))
    entitle(figure, title)
    assert figure.get_suptitle().split("\n") == lines


def test_robust_accuracy_stands_at_the_radii_that_were_measured_and_is_seen_in_full() -> None:
    radii = {"evaluation.eps": 1 / 255, "evaluation.more_eps": [2 / 255]}
    elsewhere = Measure(kind="robust", eps=2 / 255)
    means = {CLEAN: 0.4, ROBUST: 0.3, elsewhere: 0.2}
    found = {measure: estimated(mean) for measure, mean in means.items()}
    arm = Arm(config=configured(radii))
    drawn = eps_figure([Comparison(arm=arm, found=found, gains={})], "title")
    assert drawn is not None
    (axes,) = drawn.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1/255", "2/255"]
    low, high = axes.get_ylim()
    assert low == 0 and 0.45 <= high < 0.6


def test_one_radius_makes_no_curve() -> None:
    found = dict.fromkeys((CLEAN, ROBUST), estimated(0.5))
    arm = Arm(config=configured())
    assert eps_figure([Comparison(arm=arm, found=found, gains={})], "title") is None


def test_images_per_class_have_a_line_for_all_that_is_else_the_same() -> None:
    """Two sets and two networks are no one line, and what distils nothing has no place."""
    nets = ("bn-convnet", "resnet18")
    own = [{"ipc": ipc, "student.model.name": net} for net in nets for ipc in (1, 10)]
    sets = [{"method": "given", "given.path": path} for path in ("a$5$.npz", "b")]
    plain = [{**fields, "regularizer": "none"} for fields in (*own, *sets, {"method": "whole"})]
    arms = named([Arm(config=configured(fields)) for fields in plain])
    found = dict.fromkeys((CLEAN, ROBUST), estimated(0.5))
    figure = ipc_figure([Comparison(arm=arm, found=found, gains={}) for arm in arms], "$x$")
    (axes,) = figure.axes
    lines = {str(c.get_label()): len(c.lines[0].get_xdata()) for c in axes.containers}
    assert sorted(lines.values()) == [1, 1, 2, 2]
    assert any(label.startswith(r"given a\$5\$.npz") for label in lines)
    figure.savefig(io.BytesIO())


def test_arms_at_other_radii_have_no_figure_of_them() -> None:
    arms = [Arm(config=configured({"evaluation.more_eps": [eps]})) for eps in (0.1, 0.2)]
    found = [
        {
            CLEAN: estimated(0.9),
            ROBUST: estimated(0.5),
            Measure(kind="robust", eps=eps): estimated(0.4),
        }
        for eps in (0.1, 0.2)
    ]
    compared = [
        Comparison(arm=arm, found=own, gains={}) for arm, own in zip(arms, found, strict=True)
    ]
    assert eps_figure(compared, "title") is None
    header = markdown(compared).splitlines()[0]
    assert header.count("robust") == 2, "one radius of all, and its difference"
    assert shared_worst_cases(compared) == [CLEAN, ROBUST]
