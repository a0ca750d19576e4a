"""Gymnasium-Robotics: the Fetch arm, the Shadow hand, the Adroit hand, mazes for a point and an ant, the Franka kitchen.

Fetch and Shadow hand: arXiv:1802.09464; Adroit: arXiv:1709.10087; mazes: arXiv:2004.07219; kitchen: arXiv:1910.11956.
View: float32 numbers. The packages' goal environments give observation, achieved and desired goal; where the achieved goal
is a part of the observation anyway (all but the ant's place) it is left out, and so is the kitchen's desired goal, which is
always the same. A step of FetchReach costs 18 tokens with separator and action, of the other Fetch tasks 33, of
PointMaze 9, of the ant's maze 118, of the kitchen 69, of the hands 68 to 99.

Rewards: the Fetch and Shadow tasks give -1 for a step away from the goal and 0 at it, their "Dense" twins minus the
distance; mazes give 1 for a step at the goal, their twins exp(-distance); `info["is_success"]` or `info["success"]` tells
it of the step. None of them ends at success (as registered), so that an agent must stay. Adroit's rewards are those since
version 1.2.1 of the package, which are not those of D4RL's scores; the kitchen gives 1 for each of seven jobs done.

Left out: ids of older versions, the Shadow hand with 92 touch sensors (180 tokens a step and more), its "Full" ids, which
equal those without the word, and multi-agent environments.
"""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from farama_notifications import notifications

from ..offscreen import APT, Rendered
from ..registry import Family, Task
from .robotics_experts import fetch_pick, fetch_push, fetch_reach, fetch_slide, hand_reach, point_maze

notifications.pop("gymnasium_robotics", None)   # what the package would print when it is imported

GOAL = ("desired_goal", "observation")
WORLDS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {   # start of the name: what is seen, where the camera is
    "Fetch": (GOAL, {"distance": 1.6, "azimuth": 132.0, "elevation": -20.0, "lookat": (1.3, 0.75, 0.5)}),
    "Hand": (GOAL, {"distance": 0.5, "azimuth": 55.0, "elevation": -25.0, "lookat": (1.0, 0.96, 0.14)}),
    "Adroit": ((), {"distance": 1.3, "azimuth": -45.0, "elevation": -30.0, "lookat": (0.0, 0.0, 0.2)}),
    "PointMaze": (GOAL, {"azimuth": 90.0, "elevation": -89.0}),
    "AntMaze": (("achieved_goal", *GOAL), {"azimuth": 90.0, "elevation": -60.0}),
    "FrankaKitchen": (("observation",), {"distance": 2.2, "azimuth": 70.0, "elevation": -35.0, "lookat": (-0.2, 0.5, 2.0)}),
}


class PlainView(gym.Wrapper):
    """The named parts of a goal environment's observation, or all of a plain one's, in float32.

    Args:
        parts: keys of the observation; one alone, or none for a plain observation, makes it a vector.
    """

    def __init__(self, env: gym.Env, parts: tuple[str, ...]) -> None:
        super().__init__(env)
        self.parts = parts
        spaces: Any = env.observation_space
        boxes = [_box(spaces[part]) for part in parts] or [_box(spaces)]
        self.observation_space = gym.spaces.Dict(dict(zip(parts, boxes, strict=True))) if len(parts) > 1 else boxes[0]
        acted: Any = env.action_space
        self.action_space = gym.spaces.Box(acted.low.astype(np.float32), acted.high.astype(np.float32))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See gym.Env."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._view(observation), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See gym.Env."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._view(observation), float(reward), bool(terminated), bool(truncated), info

    def _view(self, observation: Any) -> Any:
        if len(self.parts) > 1:
            return {part: observation[part].astype(np.float32) for part in self.parts}
        return (observation[self.parts[0]] if self.parts else observation).astype(np.float32)


def _box(space: Any) -> gym.spaces.Box:
    return gym.spaces.Box(-np.inf, np.inf, space.shape, np.float32)


class GoalShown(Rendered):
    """Moves the marks of the goal into place before it draws, as the package's own rendering does."""

    def picture(self) -> np.ndarray:
        """RGB, uint8 (240, 320, 3)."""
        world: Any = self.unwrapped
        if not hasattr(world, "_render_callback"):
            return super().picture()
        import mujoco

        before = mujoco.MjData(world.model)   # moving the marks computes forces anew: an episode that is filmed would differ
        mujoco.mj_copyData(before, world.model, world.data)
        world._render_callback()
        picture = super().picture()
        mujoco.mj_copyData(world.data, world.model, before)
        return picture


def _make(task: Task, render: bool) -> gym.Env:
    import gymnasium_robotics

    gym.register_envs(gymnasium_robotics)
    env = gym.make(task.name, disable_env_checker=True)
    world: Any = env.unwrapped
    if "Maze" in task.name:
        Path(world.tmp_xml_file_path).unlink()   # the package leaves one behind for every maze
    parts, camera = next(seen for start, seen in WORLDS.items() if task.name.startswith(start))
    env = PlainView(env, parts)
    return GoalShown(env, camera) if render else env


def _twins(start: str, twin: str, end: str, episode_limit: int, expert: str | None = None) -> list[Task]:
    """Two tasks that differ in their rewards: "FetchReach-v4" and "FetchReachDense-v4"."""
    return [Task(name=f"{start}{word}-{end}", family="robotics", episode_limit=episode_limit, expert=expert,
                 packages=("gymnasium-robotics", "mujoco", "gymnasium"), licence="MIT") for word in ("", twin)]


THINGS = ("Block", "BlockRotateZ", "BlockRotateParallel", "BlockRotateXYZ", "Egg", "EggRotate", "Pen", "PenRotate")
MAZES = {"UMaze": (300, 700), "Open": (300, 700), "Medium": (600, 1000), "Large": (800, 1000)}   # steps: point, ant
STARTS = ("", "_Diverse_G", "_Diverse_GR")   # from anywhere to anywhere, or among marked cells; "UMaze" has no marks

TASKS = (
    *_twins("FetchReach", "Dense", "v4", 50, "fetch-reach"),
    *_twins("FetchPush", "Dense", "v4", 50, "fetch-push"),
    *_twins("FetchPickAndPlace", "Dense", "v4", 50, "fetch-pick"),
    *_twins("FetchSlide", "Dense", "v4", 50, "fetch-slide"),
    *_twins("HandReach", "Dense", "v3", 50, "hand-servo"),
    *(task for thing in THINGS for task in _twins(f"HandManipulate{thing}", "Dense", "v1", 100)),
    *(task for name in ("Door", "Hammer", "Pen", "Relocate") for task in _twins(f"AdroitHand{name}", "Sparse", "v1", 200)),
    *(task for maze, (steps, _) in MAZES.items() for start in STARTS[:1 if maze == "UMaze" else 3]
      for task in _twins(f"PointMaze_{maze}{start}", "Dense", "v3", steps, "maze-planner")),
    *(task for maze, (_, steps) in MAZES.items() for start in STARTS[:1 if maze == "UMaze" else 3]
      for task in _twins(f"AntMaze_{maze}{start}", "Dense", "v5", steps)),
    *_twins("FrankaKitchen", "", "v1", 280)[:1],
)

FAMILY = Family(
    title="Gymnasium-Robotics",
    tasks=TASKS,
    make=_make,
    experts={"fetch-reach": fetch_reach, "fetch-push": fetch_push, "fetch-pick": fetch_pick,
             "fetch-slide": fetch_slide, "hand-servo": hand_reach, "maze-planner": point_maze},
    modules=("gymnasium_robotics",),
    extra="robotics",
    apt=APT,
)
