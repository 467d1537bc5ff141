"""The report of a study as tests write and read it."""

from __future__ import annotations

import json
from collections import Counter
from html.parser import HTMLParser

from builders import judged
from studies import report
from studies.design.about import About
from studies.design.study import Study
from studies.presets import PRESETS
from tune.results.findings import Results
from tune.results.folder import StudyFolder
from tune.runs import Run

DIGITS = PRESETS["digits"]()
VOID = {"meta", "link", "img", "br", "hr"}


class Page(HTMLParser):
    """What is read of a page: tags, addresses, ids, text, and the tables under each heading."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.text = html, ""
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tables: dict[str, list[list[tuple[str, bool]]]] = {}
        self.texts: dict[str, str] = {}
        self._open: list[tuple[str, str]] = []
        self._heading = ""
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append((tag, dict(attrs).get("id") or ""))
        if tag == "tr":
            self.tables.setdefault(self._heading, []).append([])
        elif tag in ("td", "th"):
            self.tables[self._heading][-1].append(("", False))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        self.tags[tag] += 1
        self.ids += [named["id"]] if "id" in named else []
        self.addresses += [named[name] for name in ("src", "href", "xlink:href") if name in named]
        if tag == "h2":
            self._heading = named["id"]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tags = [tag for tag, _ in self._open]
        if "script" in tags or "style" in tags:
            return
        self.text += data
        for _, name in self._open:
            if name:
                self.texts[name] = self.texts.get(name, "") + data
        if "td" in tags or "th" in tags:
            row = self.tables[self._heading][-1]
            row[-1] = (row[-1][0] + data, "b" in tags)

    def rows(self, heading: str) -> list[list[str]]:
        """A table's rows, the titles of its columns first."""
        return [[text for text, _ in row] for row in self.tables[heading]]

    def bold(self, heading: str) -> list[list[bool]]:
        return [[is_bold for _, is_bold in row] for row in self.tables[heading][1:]]


def runs_of(study: Study, seeds: int) -> list[Run]:
    design = study.design(DIGITS)
    return design.runs(DIGITS.config.override(design.settings), seeds)


def write_about(folder: StudyFolder, about: About) -> None:
    folder.path.mkdir(parents=True, exist_ok=True)
    facts = {"study": about.study, "command": about.command}
    (folder.path / "about.json").write_text(json.dumps(facts))


def told(folder: StudyFolder) -> Page:
    """The page of what a study's folder holds now."""
    assert report.main([str(folder.path)]) == 0
    return Page((folder.path / "report.html").read_text())


def begin(study: Study, folder: StudyFolder) -> list[Run]:
    """The first three trials of a study are done."""
    write_about(folder, About(study=study.name, command="again"))
    done = runs_of(study, 2)[:3]
    for number, run in enumerate(done):
        level = (0.9 - 0.01 * number, 0.3 + 0.05 * number)
        folder.write(judged(folder.output / "verdicts", run, *level))
    return done


def finish(study: Study, folder: StudyFolder) -> Results:
    """What there is when all trials of two seeds are done."""
    write_about(folder, About(study=study.name, command="again"))
    for run in runs_of(study, 2):
        level = (0.8, 0.3 + 0.001 * run.trial)
        folder.write(judged(folder.output / "verdicts", run, *level))
    return Results.read(folder)
