from __future__ import annotations

import pickle

import pytest

from guard.errors import ConfigError, DataError, StudyError, UserError


@pytest.mark.parametrize(
    "error", [ConfigError("a.b", "must be 1, got 2"), DataError("/x: bad"), StudyError("no")]
)
def test_an_error_reaches_another_process_whole(error: UserError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_a_config_error_says_its_path_and_its_rule() -> None:
    error = ConfigError("width", "must be at least 1, got 0")
    assert str(error) == "width: must be at least 1, got 0"
    assert str(error.under("model").under("student")) == (
        "student.model.width: must be at least 1, got 0"
    )
    assert str(ConfigError("", "no")) == "no"
    assert str(ConfigError("", "no").under("data")) == "data: no"


def test_every_mistake_is_a_user_error() -> None:
    assert {ConfigError, DataError, StudyError} == set(UserError.__subclasses__())
    assert issubclass(UserError, ValueError)
