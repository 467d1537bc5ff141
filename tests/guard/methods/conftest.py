from __future__ import annotations

import pytest
from laboratory import Lab, subset

from guard.artifacts import ArtifactStore


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    root = tmp_path_factory.mktemp("methods")
    return Lab(subset(root / "four.npz"), ArtifactStore(root / "store"))
