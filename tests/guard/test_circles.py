"""No file of the project imports itself by a detour, not even for its types."""

from __future__ import annotations

from graphlib import TopologicalSorter
from pathlib import Path

import guard
from helpers import imported

HOUSE = Path(guard.__file__).parent.parent
FILES = {
    ".".join(path.relative_to(HOUSE).with_suffix("").parts).removesuffix(".__init__"): path
    for wing in ("guard", "tune", "studies")
    for path in (HOUSE / wing).rglob("*.py")
}


def test_imports_make_no_circle() -> None:
    assert {"guard.stage", "tune.desk", "studies.sweep"} <= FILES.keys()
    graph = {name: (imported(path) & FILES.keys()) - {name} for name, path in FILES.items()}
    assert sum(map(len, graph.values())) > 500
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
