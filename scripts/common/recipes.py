"""Recipes: everything that a network's data is made of, in one YAML file.

    families:
      classic: {noise: 0.2, noise_steps: 2, episodes: {CartPole-v1: 16, Acrobot-v1: 90}}
    scenes: {minigrid: 3000}
    small_talk: true

A recipe that was stopped goes on where it was: folders that are complete are passed over.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from calico.envs import task_table
from calico.envs.registry import get_task
from calico.envs.scenes import FAMILIES
from calico.scripts.common import console
from calico.scripts.common.as_trained import as_trained
from calico.scripts.common.collecting import collect, scenes_and_talk
from calico.scripts.common.config import load_config

if TYPE_CHECKING:
    from calico.agent.agent import Agent

FOLDER = Path(__file__).parents[1] / "recipes"


@dataclass(frozen=True, kw_only=True)
class FamilyRecipe:
    """Demonstrations of one family's experts, in compact views.

    Attributes:
        noise, noise_steps: see `runner.rollout`.
        max_steps: episodes are cut after so many; 0: never.
        episodes: task -> how many, with seeds from 0.
    """

    noise: float = 0.1
    noise_steps: int = 1
    max_steps: int = 0
    episodes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """See the top of the file.

    Attributes:
        families: family -> its demonstrations.
        scenes: world -> pictures, with captions and dialogues.
        small_talk: dialogues about the agent itself.
    """

    families: dict[str, FamilyRecipe] = field(default_factory=dict)
    scenes: dict[str, int] = field(default_factory=dict)
    small_talk: bool = False


def read_recipe(name: str) -> Recipe:
    """A recipe that comes with Calico, by its name, or a YAML file.

    Raises:
        ValueError: there is none, or a key or value of it is wrong.
    """
    shipped = FOLDER / f"{name}.yaml"
    if not shipped.exists() and not Path(name).exists():
        known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.yaml")))
        raise ValueError(f"there is no recipe {name!r}; name a YAML file, or one of {known}")
    return load_config(Recipe, shipped if shipped.exists() else Path(name))


def collect_recipe(name: str, out: Path, processes: int, time_limit: float = 120.0, *, seed: int = 0, mix: float = 0.0,
                   agent: "Agent | None" = None, policy: str = "expert") -> list[Path]:
    """Make what is missing of a recipe's data; returns the folders.

    Tasks whose packages are not installed are left out, and named with the command that installs them.

    Args:
        seed: of each task's first episode.
        agent: plays, `policy` is its name, and the expert says at each step what was right; it takes `mix` of the steps itself.
    Raises:
        ValueError: there is no such recipe, or the agent does not know one of its tasks.
    """
    recipe = read_recipe(name)
    for tasks in recipe.families.values():
        for task in tasks.episodes:
            get_task(task) if agent is None else as_trained(agent, task)   # every name is checked before the first episode
    written: list[Path] = []
    for family, part in recipe.families.items():
        if _is_missing(family, f"{len(part.episodes)} tasks of {family}"):
            continue
        for task, episodes in part.episodes.items():
            seeds = range(seed, seed + episodes)
            if agent is None:
                written.append(collect(get_task(task).compact(), seeds, out, noise=part.noise, noise_steps=part.noise_steps,
                                       processes=processes, time_limit=time_limit, max_steps=part.max_steps or None))
            else:
                written.append(collect(as_trained(agent, task), seeds, out, policy=policy, label="expert", mix=mix,
                                       agent=agent, max_steps=part.max_steps or None))
    if agent is not None:
        return written
    drawn = {world: pictures for world, pictures in recipe.scenes.items()
             if not _is_missing(FAMILIES.get(world, "classic"), f"pictures of {world}")}
    return written + scenes_and_talk(drawn, recipe.small_talk, out)


def _is_missing(family: str, what: str) -> bool:
    """Whether a package of a family is not installed; says what is left out, and the command that installs it."""
    if missing := task_table.missing_module(family):
        install = task_table.table()["families"][family]["install"]
        console.note(f"{what} are left out: {missing} is not installed; {install}")
    return missing is not None
