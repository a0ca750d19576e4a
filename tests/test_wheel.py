"""The wheel holds every module and every data file of the tree: a folder missing in pyproject.toml is lost silently.

It is built from the sdist, so that what that lacks is missing here, too.
"""

import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

import calico

from .conftest import SmallRun

ROOT = Path(__file__).parent.parent
FOLDERS = ("agent", "datasets", "envs", "scripts", "tokenizers")
PACKAGE, TOP = Path("typings") / "calico", ("__init__.py", "py.typed")    # what stands above the five folders
NOT_SHIPPED = {"__pycache__"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built by way of the sdist from a copy of the tree, so that no build/ folder of an earlier build slips in."""
    out = tmp_path_factory.mktemp("wheel")
    tree = out / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (tree / name).write_bytes((ROOT / name).read_bytes())
    for path in [*files_of_the_tree(), *(PACKAGE / name for name in TOP)]:
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / path).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), "."]     # the wheel from the sdist
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list(out.glob("*.tar.gz"))) == 1
    (built,) = out.glob("*.whl")
    return zipfile.ZipFile(built)


def files_of_the_tree() -> list[Path]:
    """Every file of the five folders, relative to the root; shell scripts are for a checkout."""
    files = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix != ".sh")
    return sorted(path.relative_to(ROOT) for path in files if not NOT_SHIPPED & set(path.parts))


def test_wheel_and_tree_hold_the_same_files(wheel: zipfile.ZipFile) -> None:
    packed = {name.removeprefix("calico/") for name in wheel.namelist() if name.startswith("calico/")}
    assert packed == {path.as_posix() for path in files_of_the_tree()} | set(TOP)


def test_wheel_brings_the_licence_and_the_command(wheel: zipfile.ZipFile) -> None:
    (licence,) = [name for name in wheel.namelist() if name.endswith("licenses/LICENSE")]
    assert b"Apache License" in wheel.read(licence)
    (entry_points,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "calico = calico.scripts.main:main" in wheel.read(entry_points).decode()


def test_wheel_puts_nothing_beside_calico(wheel: zipfile.ZipFile) -> None:
    # A top-level `datasets` or `tokenizers` in site-packages would break Hugging Face's packages.
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"calico"}


EXAMPLE = textwrap.dedent((calico.__doc__ or "").partition("\n\n")[2].partition("    agent.caption(")[0])   # a whole episode
PLAYS = EXAMPLE.replace("calico.load()", "calico.load({run!r})") + """
print(calico.__file__, calico.agent.__file__, len(calico.tasks()), "CartPole-v1" in str(agent.tokens("CartPole-v1")))
"""


def test_python_programs_run_on_the_wheel(wheel: zipfile.ZipFile, small_run: SmallRun, tmp_path: Path) -> None:
    site = tmp_path / "site"
    wheel.extractall(site)
    done = subprocess.run([sys.executable, "-c", PLAYS.format(run=str(small_run.run))], cwd=tmp_path, capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": str(site)})
    assert done.returncode == 0, done.stderr
    top, agent, tasks, shown = done.stdout.split()
    assert top == str(site / "calico" / "__init__.py") and agent == str(site / "calico" / "agent" / "__init__.py")
    assert int(tasks) > 600 and shown == "True"
