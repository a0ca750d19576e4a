"""What can be played: task records, lookups and the making of environments.

One file per family in `families/` (classic.py, box2d.py, ...) holds its list of tasks, how an environment is made and
viewed, and its experts; it imports the family's packages only when an environment is made. A new family is one such file
with a `FAMILY` in it plus its name in `FAMILIES` below. Other packages bring families as entry points:

    [project.entry-points."calico.families"]
    mazes = "my_package.mazes:FAMILY"

Whatever else Gymnasium knows, and what a module of your own registers ("my_module:MyEnv-v0"), is families/own.py's.
"""

import importlib
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:   # looking a task up loads no Gymnasium
    import gymnasium as gym

from ..tokenizers import spelling

FAMILIES = (   # files of families/; listing order of `calico tasks`
    "classic", "box2d", "atari", "minigrid", "sokoban", "mujoco", "dm_control", "metaworld", "robotics", "panda", "miniworld",
    "vizdoom", "procgen",
)

OWN = "own"                          # the file of families/ for all other environments of Gymnasium
ENTRY_POINTS = "calico.families"     # name of a family -> its FAMILY, of other packages

Controller = Callable[[Any], Any]                # observation -> action, for one episode
Start = Callable[["gym.Env", int], Controller]     # (environment, episode's seed) -> the controller of that episode


class MissingPackage(ImportError):
    """A family's package is not installed; the message holds the command that installs it."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One thing to play.

    Attributes:
        name: the Gymnasium id, e.g. "CartPole-v1".
        family: the file of families/ that makes it, the name of an entry point, or "module:FAMILY".
        kwargs: arguments of the environment's constructor.
        view: settings of what the agent sees; stored with the data and with every checkpoint.
        compact_view: settings with which a step costs fewest tokens, where those of `view` do not; see `compact`.
        episode_limit: longest possible episode in agent steps; None where it depends on the seed.
        solved_at: mean return from which the environment's authors call it solved.
        expert: name of the scripted expert, None where there is none.
        scores_of: the task whose reference scores hold for this one too, as for the same world seen in pictures.
        packages: distributions that decide how it behaves; `versions()` reports them.
        licence: SPDX expression of the package that holds the environment.
    """

    name: str
    family: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    view: Mapping[str, Any] = field(default_factory=dict)
    compact_view: Mapping[str, Any] = field(default_factory=dict)
    episode_limit: int | None = None
    solved_at: float | None = None
    expert: str | None = None
    scores_of: str | None = None
    packages: tuple[str, ...] = ("gymnasium",)
    licence: str = "MIT"

    def with_view(self, **settings: Any) -> "Task":
        """The same task seen otherwise, e.g. `get_task("ALE/Pong-v5").with_view(frames=4)`.

        Raises:
            ValueError: a setting that this task does not have.
        """
        for key in settings:
            if key not in self.view:
                raise ValueError(f"{self.name} has no view setting {key!r}{nearest(key, self.view)}; it has: "
                                 f"{', '.join(self.view) or 'none'}")
        return replace(self, view={**self.view, **settings})

    def compact(self) -> "Task":
        """The same task seen with fewest tokens, nothing being lost."""
        return self.with_view(**self.compact_view)

    def versions(self) -> dict[str, str]:
        """Installed version of each package that decides how this task behaves ("missing" if it is not there)."""
        return {package: version(package) for package in self.packages}

    def to_json(self) -> dict[str, Any]:
        """Plain values for a sidecar or checkpoint: every field and the package versions."""
        return {**self.record(), "versions": self.versions()}

    def record(self) -> dict[str, Any]:
        """Every field as plain values."""
        plain = replace(self, kwargs=dict(self.kwargs), view=dict(self.view), compact_view=dict(self.compact_view))
        return {**asdict(plain), "packages": list(self.packages)}


@dataclass(frozen=True, kw_only=True)
class Family:
    """A group of tasks that are made the same way.

    Attributes:
        title: for people.
        tasks: all tasks, in listing order.
        make: (task, render) -> environment, with Calico's view applied; `render` makes `env.render()` give RGB frames.
        experts: expert name -> how its controller of one episode starts.
        scores: task -> mean score by "random" and by "expert", of families that are not in scores.json.
        modules: what must be importable before `make`.
        extra: which extra of calico-agent brings them; None: they come with every installation.
        apt: Debian packages that they need besides, e.g. to draw without a screen.
    """

    title: str
    tasks: tuple[Task, ...]
    make: Callable[[Task, bool], "gym.Env"]
    experts: Mapping[str, Start] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    extra: str | None = None
    apt: tuple[str, ...] = ()

    @property
    def install(self) -> str:
        """How to get what is missing."""
        pip = f'pip install "calico-agent[{self.extra}]"' if self.extra else "pip install calico-agent"
        return f"{pip}, and apt-get install {' '.join(self.apt)}" if self.apt else pip


@cache
def family(name: str) -> Family:
    """Load one family: its file, what another package brings, or the object "module:FAMILY".

    Raises:
        ValueError: no such family.
    """
    if name in FAMILIES or name == OWN:
        return importlib.import_module(f".families.{name}", __package__).FAMILY
    if ":" in name:
        from .families import own

        return own.family_at(name)
    if name in (found := brought()):
        return found[name]
    known = (*FAMILIES, *found)
    raise ValueError(f"unknown family {name!r}{nearest(name, known)}; there are: {', '.join(known)}")


@cache
def brought() -> dict[str, Family]:
    """The families of other packages; what cannot be loaded, or has a name of ours, is left out with a warning."""
    from .task_table import rows

    found: dict[str, Family] = {}
    for point in metadata.entry_points(group=ENTRY_POINTS):
        try:
            given = point.load()
            if not isinstance(given, Family):
                raise TypeError(f"it is a {type(given).__name__}, expected a calico.envs.registry.Family")
            if point.name in (*FAMILIES, OWN):
                raise ValueError("Calico has a family of that name")
        except Exception as error:   # whatever a foreign package raises, the other families can be played
            warnings.warn(f"the family {point.name!r} ({point.value}) is left out: {type(error).__name__}: {error}",
                          stacklevel=2)
            continue
        own = [replace(task, family=point.name) for task in given.tasks if task.name not in rows()]
        if clashing := [task.name for task in given.tasks if task.name in rows()]:
            warnings.warn(f"the family {point.name!r} brings {', '.join(clashing)}, which Calico has itself and keeps",
                          stacklevel=2)
        found[point.name] = replace(given, tasks=tuple(own))
    return found


def families() -> tuple[str, ...]:
    """Names of all families, those of other packages last."""
    return (*FAMILIES, *brought())


def tasks(family_name: str | None = None) -> list[Task]:
    """All tasks, or those of one family. Loads no environment package."""
    return [task for name in ([family_name] if family_name else families()) for task in family(name).tasks]


@cache
def _by_name() -> dict[str, Task]:
    return {task.name: task for task in tasks()}


def get_task(name: str) -> Task:
    """Look a task up by its name: Calico's own, another package's, any Gymnasium id, "module:Env-v0".

    Raises:
        ValueError: no such task; the message names the nearest ones.
    """
    if name in _by_name():
        return _by_name()[name]
    from .families import own

    if found := own.find(name):
        return found
    raise ValueError(f"unknown task {name!r}{nearest(name, _by_name())}; `calico tasks` lists all {len(_by_name())}, and "
                     "module:Env-v0 is one of your own")


def is_known(name: str) -> bool:
    """Whether there is such a task."""
    with suppress(ValueError, MissingPackage):
        return bool(get_task(name))
    return False


def recorded_task(name: str, environment: Mapping[str, Any]) -> Task:
    """The task as it was seen when data of it were recorded.

    Args:
        environment: what `Task.to_json` gave then; settings that this version does not know are left out.
    """
    task, view = get_task(name), environment.get("view", {})
    return task.with_view(**{key: value for key, value in view.items() if key in task.view})


def make(task: Task | str, render: bool = False) -> "gym.Env":
    """Make a task's environment as the agent sees it.

    Args:
        task: a Task or its name.
        render: let `env.render()` return RGB frames, uint8 (height, width, 3); slower for some families.
    Raises:
        ValueError: unknown task, or one that cannot be made here.
        MissingPackage: the family's package is not installed.
    """
    task = get_task(task) if isinstance(task, str) else task
    group = require(task.family, task.name)
    if render:   # SDL and others look for a screen, a desktop and a sound card, and complain of none; frames need none
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
        os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
    try:
        return group.make(task, render)
    except (ImportError, ValueError, OSError):     # one line already
        raise
    except Exception as error:   # of other people's code, which raises everything
        raise ValueError(f"{task.name} cannot be made: {type(error).__name__}: {error}") from error


def require(family_name: str, what: str) -> Family:
    """A family whose packages can be imported; `what` is wanted from it, for the message.

    Raises:
        MissingPackage: one of them is not installed.
    """
    group = family(family_name)
    for module in group.modules:
        try:
            importlib.import_module(module)
        except Exception as error:   # ImportError, and what the packages raise where a library of the system is missing
            raise MissingPackage(f"{what} needs the package {module!r}, which cannot be imported here ({error}); "
                                 f"run: {group.install}") from error
    return group


def nearest(name: str, known: Any) -> str:
    """ "; nearest: a, b" for error messages, or "" when nothing is near."""
    lower = {str(k).lower(): str(k) for k in known}
    close = spelling.nearest(name.lower(), lower, count=3, cutoff=0.5)
    return f"; nearest: {', '.join(lower[c] for c in close)}" if close else ""


@cache
def version(package: str) -> str:
    """The installed version of a distribution, or "missing"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"
