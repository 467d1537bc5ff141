"""What an error comes from."""

from __future__ import annotations

import sqlite3

import ray
import sqlalchemy.exc

from tune.causes import causes, unwrapped

ORIGIN = sqlite3.OperationalError("disk I/O error")


def chained() -> BaseException:
    try:
        try:
            raise ORIGIN
        except sqlite3.Error as error:
            raise ValueError("first") from error
    except ValueError:
        try:
            raise KeyError("second")
        except KeyError as error:
            return error


def test_the_origin_is_the_last_cause() -> None:
    assert [type(error) for error in causes(chained())] == [
        KeyError,
        ValueError,
        sqlite3.OperationalError,
    ]
    told = sqlalchemy.exc.OperationalError("SELECT", {}, ORIGIN)
    assert list(causes(told)) == [told, ORIGIN]


def test_what_ray_wraps_is_found_and_what_python_chains_is_not() -> None:
    wrapped = ray.exceptions.RayTaskError("f", "trace", ORIGIN)
    assert list(causes(wrapped)) == [wrapped, ORIGIN]
    assert unwrapped(wrapped) is unwrapped(wrapped.as_instanceof_cause()) is ORIGIN
    error = chained()
    assert unwrapped(error) is error


def test_a_circle_of_causes_ends() -> None:
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert list(causes(first)) == [first, second]
