from __future__ import annotations

from builders import configured, record, scores
from studies.reporting.figures import pareto_figure
from studies.reporting.interactive import looks
from studies.reporting.series import Search, points
from tune.results.records import CONFIRMATION

PLAIN = configured(control=True)
RECORDS = [
    record(0, 0.9, 0.1, PLAIN),
    record(1, 0.88, 0.45),
    record(2, 0.5, 0.2, configured({"ipc": 1})),
    record(3, 0.85, 0.4, configured({"method": "dc"})),
    record(4, status="diverged"),
    record(5, 0.9, 0.4, phase=CONFIRMATION),
    record(6, metrics=scores(0.9, 0.4, "test")),
]


def test_a_search_is_what_ended_on_validation() -> None:
    search = Search.of(RECORDS)
    assert [own.trial for own in search.complete] == [0, 1, 2, 3]
    assert search.num_samples == 100
    assert search.ipcs == [1, 10]
    assert points(search.front) == ([0.9, 0.88], [0.1, 0.45])
    assert Search.of(RECORDS[4:]).complete == []


def test_trials_that_look_alike_are_one_cloud() -> None:
    clouds = Search.of(RECORDS).clouds()
    assert [(c.label, c.look, c.control, [r.trial for r in c.records]) for c in clouds] == [
        ("dc, IPC 10, regularized", 0, False, [3]),
        ("sre2l, IPC 1, regularized", 1, False, [2]),
        ("sre2l, IPC 10, regularized", 2, False, [1]),
        ("sre2l, IPC 10, unregularized", 2, True, [0]),
    ]


def test_fourteen_groups_look_different() -> None:
    configs = [
        (configured({"method": method, "ipc": ipc}, control=control), control)
        for method in ("sre2l", "cda", "dc", "dsa", "mtt", "tesla", "mat")
        for ipc in (1, 10)
        for control in (True, False)
    ]
    made = [record(n, 0.9, 0.4, own) for n, (own, _) in enumerate(configs)]
    clouds = Search.of(made).clouds()
    assert len(clouds) == 28
    seen = {(found["symbol"], found["color"]) for found in map(looks, clouds)}
    assert len(seen) == 28, "open and filled, and 14 pairs of a marker and a colour"
    drawn = pareto_figure(Search.of(made), None).axes[0].collections
    pairs = {
        (tuple(map(tuple, own.get_paths()[0].vertices.round(3))), tuple(own.get_edgecolor()[0]))
        for own in drawn[:28]
    }
    assert len(pairs) == 14


def test_trials_that_must_not_be_chosen_are_barred_wherever_they_stand() -> None:
    made = [record(0, 0.9, 0.1, PLAIN), record(1, 0.5, 0.9), record(2, 0.5, 0.2)]
    search = Search.of(made)
    assert [own.trial for own in search.barred] == [1, 2]
    assert [own.trial for own in search.barred_of(made[:2])] == [1]


def test_without_ipc_the_methods_are_told_apart() -> None:
    clouds = Search.of(RECORDS).clouds(by_ipc=False)
    assert [(c.label, c.look, len(c.records)) for c in clouds] == [
        ("dc, regularized", 0, 1),
        ("sre2l, regularized", 1, 2),
        ("sre2l, unregularized", 1, 1),
    ]


def test_doubtful_trials_are_named() -> None:
    doubt = {**scores(0.9, 0.8, "validation"), "reliability/zero_gradients": 0.9}
    search = Search.of([*RECORDS, record(7, metrics=doubt)])
    assert [own.trial for own in search.flagged] == [7]
