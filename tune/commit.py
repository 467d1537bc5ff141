"""Which commit of the lab runs."""

from __future__ import annotations

import subprocess
from pathlib import Path


def lab_commit(package: Path = Path(__file__).parent) -> str:
    """The commit that the repository of a package is at, with "+" if tracked files differ.

    "" where no repository tracks the package's own files: then it is installed, perhaps in an
    environment that lies in somebody else's repository, or git is not there.
    """
    if not git(package, "ls-files", "--error-unmatch", "__init__.py"):
        return ""
    return git(package, "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*")


def git(folder: Path, *arguments: str) -> str:
    """What git prints in a folder, "" if it fails."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
