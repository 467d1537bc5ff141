from __future__ import annotations

import pytest

LONG = ("test_sweep.py", "test_desk.py")
"""They start Ray; first, so that the other files fill the other processes meanwhile."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)
