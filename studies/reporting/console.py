"""Text for any terminal: as it is, without markup; of any encoding; tables for any width."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterator
from typing import IO, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

SPELLED = {
    "…": "...",
    "±": "+-",
    "×": "x",
    "–": "-",
    "−": "-",
    "→": "->",
    "∞": "inf",
    "λ": "lambda",
    "α": "alpha",
    "Δ": "Delta",
    "µ": "u",
    "∇": "grad ",
    "ℓ": "l",
    "‖": "||",
    "²": "^2",
    "“": '"',
    "”": '"',
}
"""What stands for a character that an encoding lacks; "?" for any other."""
SPELL = "spell"
"""The `errors` of a stream that spells what its encoding lacks."""


def spell(error: UnicodeError) -> tuple[str, int]:
    """A handler of `codecs`. Raises the error if it is none of encoding."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(SPELLED.get(character, "?") for character in missing), error.end


codecs.register_error(SPELL, spell)


class Terminal(Console):
    """A console that leaves text as it is, but for what its encoding lacks: that is spelled before
    anything is laid out. Lines are not broken, so that what is printed can be copied."""

    def __init__(
        self,
        file: IO[str] | None = None,
        width: int | None = None,
        force_terminal: bool | None = None,
    ) -> None:
        super().__init__(
            file=file,
            width=width,
            force_terminal=force_terminal,
            markup=False,
            highlight=False,
            emoji=False,
            soft_wrap=True,
        )

    def render_str(self, text: str, **options: Any) -> Text:
        shown = text.encode(self.encoding, SPELL).decode(self.encoding)
        return super().render_str(shown, **options)

    def warn(self, line: str) -> None:
        """A line on stderr."""
        Terminal(sys.stderr).print(line, style="yellow")

    def print_table(self, table: Table) -> None:
        """The table; where its figures or headings would be cut, its rows as paragraphs."""
        shown = "".join(segment.text for segment in self.render(table))
        if set(shown.split()) >= {word for text in whole(table) for word in self.words(text)}:
            self.print(table, soft_wrap=False)
        else:
            for line in paragraphs(table):
                self.print(line, soft_wrap=False)

    def words(self, text: str) -> list[str]:
        return self.render_str(text).plain.split()


def whole(table: Table) -> Iterator[str]:
    """What of the table must not be broken."""
    for column in table.columns:
        yield str(column.header)
        for cell in column.cells:
            yield from (word for word in str(cell).split() if not any(map(str.isalpha, word)))


def paragraphs(table: Table) -> Iterator[str]:
    """What the table says, a cell a line and an empty line before each row."""
    headings = [str(column.header) for column in table.columns]
    if table.title:
        yield str(table.title)
    for row in zip(*(column.cells for column in table.columns), strict=True):
        yield ""
        for heading, cell in zip(headings, row, strict=True):
            if cell:
                yield f"{heading}: {cell}"
    if table.caption:
        yield f"\n{table.caption}"
