"""`make test-faults`: try every fault of table.py for real and print which ones were survived (about ten minutes).

    python tests/faults/run.py [A1 F18 ...]     # only these
"""

import runpy
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TABLE = runpy.run_path(str(Path(__file__).with_name("table.py")))
FAULTS: dict[str, list[str]] = TABLE["FAULTS"]


class Results:
    """What became of each test, by the longest name that the table may have for it."""

    def __init__(self) -> None:
        self.outcomes: dict[str, list[str]] = defaultdict(list)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            file, _, test = report.nodeid.partition("::")
            for name in (file, f"{file}::{test.partition('[')[0]}"):
                self.outcomes[name].append(report.outcome)


def main(wanted: list[str]) -> int:
    """Exit code 0 where every fault was survived."""
    faults = {name: tests for name, tests in FAULTS.items() if not wanted or name.split()[0] in wanted}
    results = Results()
    pytest.main(["-q", "--no-header", "-p", "no:cacheprovider", f"--rootdir={ROOT}", "-m", "not gpu and not shared",
                 *dict.fromkeys(str(ROOT / test) for tests in faults.values() for test in tests)], plugins=[results])
    width, lost = max(map(len, faults)), 0
    print("\n" + "fault".ljust(width) + "  tests  survived")
    for name, tests in faults.items():
        outcomes = [outcome for test in tests for outcome in results.outcomes.get(test, ["missing"])]
        lacking = {"failed", "missing"} & set(outcomes)
        survived = "NO" if lacking else "yes" if "passed" in outcomes else "not tried: skipped here"
        lost += survived == "NO"
        print(f"{name.ljust(width)}  {len(outcomes):5}  {survived}")
    print(f"\n{len(faults) - lost} of {len(faults)} survived")
    return int(lost > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
