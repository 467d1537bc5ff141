"""Mistakes of the caller's: each is one line that names the thing, the rule and the value."""

from __future__ import annotations


class UserError(ValueError):
    """Base of all of them; the commands print it and exit with 2."""


class ConfigError(UserError):
    """A configuration value that breaks a rule; `path` is its dotted path."""

    def __init__(self, path: str, rule: str) -> None:
        super().__init__(path, rule)
        self.path, self.rule = path, rule

    def __str__(self) -> str:
        return f"{self.path}: {self.rule}" if self.path else self.rule

    def under(self, prefix: str) -> ConfigError:
        return ConfigError(f"{prefix}.{self.path}" if self.path else prefix, self.rule)


class DataError(UserError):
    """Data that cannot be used: names the file or folder and what is wrong with it."""


class StudyError(UserError):
    """A study that cannot start: a flag, a folder, a server or a cluster is not as it must be."""


class Diverged(Exception):
    """A stage that cannot give a usable result: not finite, or no better than chance. Nobody's
    mistake: it ends a trial early, and is kept as its result."""
