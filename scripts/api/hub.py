"""Which names are meant as those of the Hugging Face Hub."""

import re
from pathlib import Path

HUB = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")    # owner/name[@revision]


def hub_name(which: str | Path) -> tuple[str, str | None] | None:
    """(owner/name, revision) of a name that is no folder here and not in one; None: it is no such name."""
    found = HUB.fullmatch(str(which))
    if found is None or Path(which).exists() or Path(found[1]).parent.is_dir():
        return None
    return found[1], found[2]
