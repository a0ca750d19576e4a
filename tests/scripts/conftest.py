"""Running commands as a user does, in this process."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calico.scripts.main import main

from ..conftest import SmallRun


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must fail: exit code 2, nothing on stdout, one line on stderr, which is returned."""
    def run(*words: object) -> str:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as left:   # argparse leaves this way
            code = left.code   # type: ignore[assignment]
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if line.startswith(f"calico {words[0]}: ")]
        assert code == 2 and out == "", (code, out, err)
        assert lines == err.splitlines()[-1:] and "Traceback" not in err, err
        return lines[0]
    return run


@pytest.fixture
def answered(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a command with --json that must succeed; returns what it printed, read as strict JSON."""
    def run(*words: object) -> Any:
        capsys.readouterr()
        assert main([*(str(word) for word in words), "--json"]) == 0
        return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    return run


@pytest.fixture
def own_run(small_run: SmallRun, tmp_path: Path) -> Path:
    """A copy of the small run, to break."""
    return Path(shutil.copytree(small_run.run, tmp_path / "run"))
