"""Text files are UTF-8, whatever the locale says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import guard

ROOT = Path(guard.__file__).parents[1]
FILES = sorted(
    path for name in ("guard", "tune", "studies") for path in (ROOT / name).rglob("*.py")
)
TEXT = {"read_text", "write_text", "open", "fdopen", "NamedTemporaryFile", "TextIOWrapper"}
"""What reads or writes text, unless it is told to take bytes."""
NO_TEXT = ("os.open", "Image.open", "PIL.Image.open", "SoftLabels.open", "io.open_code")


def by_the_locale(source: str) -> Iterator[int]:
    """Lines on which a file is opened in the encoding of the locale."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        plain = [ast.unparse(argument).strip("'\"") for argument in node.args]
        modes = {ast.unparse(k.value).strip("'\"") for k in node.keywords if k.arg == "mode"}
        takes_bytes = any("b" in mode and len(mode) < 4 for mode in (*plain[:2], *modes))
        says = any(keyword.arg == "encoding" for keyword in node.keywords)
        if name.split(".")[-1] in TEXT and name not in NO_TEXT and not takes_bytes and not says:
            yield node.lineno


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("path.read_text()", True),
        ("(a / 'b').write_text(text)", True),
        ("open(path)", True),
        ("os.fdopen(number, 'w')", True),
        ("path.open('a', newline='')", True),
        ("path.open('a', encoding='utf-8')", False),
        ("path.read_text(encoding='utf-8')", False),
        ("path.open('rb')", False),
        ("open(path, 'wb')", False),
        ("os.open(path, os.O_RDONLY)", False),
        ("path.read_bytes()", False),
    ],
)
def test_the_walk_finds_them(source: str, found: bool) -> None:
    assert list(by_the_locale(source)) == ([1] if found else [])


def test_every_file_says_its_encoding() -> None:
    found = {path: list(by_the_locale(path.read_text(encoding="utf-8"))) for path in FILES}
    assert {str(path): lines for path, lines in found.items() if lines} == {}
