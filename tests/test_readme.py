"""The numbers that the README and docs/environments.md give are those of the registry."""

import re
from pathlib import Path

from calico.envs.registry import FAMILIES, family, tasks

ROOT = Path(__file__).parent.parent


def test_the_tables_count_what_is_there() -> None:
    page = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \| .* \| (?:`([\w-]+)` )?\|$", page, re.MULTILINE)
    assert [name for name, *_ in rows] == list(FAMILIES)
    for name, count, with_expert, extra in rows:
        of_family = tasks(name)
        assert (int(count), int(with_expert)) == (len(of_family), sum(task.expert is not None for task in of_family)), name
        assert (extra or None) == family(name).extra, name


def test_the_readme_counts_them_all() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    everything = tasks()
    experts = sum(task.expert is not None for task in everything)
    assert f"{len(everything)} tasks of {len(FAMILIES)} families, experts for {experts}" in readme
    assert f"what can be played, {len(everything)} tasks" in readme


def test_every_debian_package_is_named() -> None:
    named = (ROOT / "README.md").read_text(encoding="utf-8") + (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for name in FAMILIES:
        for package in family(name).apt:
            assert named.count(package) >= 2, f"{package} of {name}"
