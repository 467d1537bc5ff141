"""Which file systems lie on another machine, where SQLite's locks cannot be relied on."""

from __future__ import annotations

import re
from pathlib import Path

NETWORK = re.compile(r"nfs\d?|cifs|smb\d?|smbfs|9p|afs|lustre|beegfs|gpfs|ceph|glusterfs|fuse\..+")
"""Types of file systems that lie on another machine, or may."""
MOUNTS = Path("/proc/self/mounts")


def is_on_network(path: Path) -> bool:
    """Whether a path lies, or would lie, in a file system of another machine. Not known without
    /proc: then it is not said."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    points = {unescaped(point): kind for _, point, kind, *_ in map(str.split, lines)}
    place = path.resolve()
    nearest = next((str(own) for own in (place, *place.parents) if str(own) in points), "")
    return bool(NETWORK.fullmatch(points.get(nearest, "")))


def unescaped(text: str) -> str:
    """A name as /proc/self/mounts writes it, with its blanks."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
