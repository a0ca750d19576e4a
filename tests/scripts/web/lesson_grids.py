"""A grid task that no network has seen, as a user would write it, and how it is best played."""

from collections import deque
from typing import Any

import gymnasium as gym
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.core.world_object import Box
from minigrid.minigrid_env import MiniGridEnv

from calico.envs.families.minigrid import FirstPersonView
from calico.envs.registry import Family, Task

MISSION = "take the box"
COLOURS = ["red", "green", "blue", "purple", "yellow", "grey"]
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))       # of the four directions
LEFT, RIGHT, FORWARD, PICKUP = range(4)


class TakeTheBox(MiniGridEnv):
    """A room with a box; taking it ends the episode."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(mission_space=MissionSpace(lambda: MISSION), grid_size=8, max_steps=100, render_mode=render_mode)

    def _gen_grid(self, width: int, height: int) -> None:
        self.grid = Grid(width, height)
        self.grid.wall_rect(0, 0, width, height)
        self.box = Box(self._rand_elem(COLOURS))
        self.place_obj(self.box)
        self.place_agent()
        self.mission = MISSION

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        if self.carrying is not None:
            terminated, reward = True, self._reward()
        return observation, float(reward), terminated, truncated, info


def make(task: Task, render: bool) -> gym.Env:
    return FirstPersonView(TakeTheBox("rgb_array" if render else None), **task.view)


# `shortest` and random play over seeds 100 to 109
FAMILY = Family(title="Lessons", modules=("minigrid",), make=make, scores={"TakeTheBox-v0": {"random": 0.09, "expert": 0.958}},
                tasks=(Task(name="TakeTheBox-v0", family="lessons", view={"tile": 8}, compact_view={"tile": 2},
                            episode_limit=100, licence="Apache-2.0"),))


def shortest(world: Any) -> list[int]:
    """The fewest actions with which the box is taken."""
    start = (tuple(int(where) for where in world.agent_pos), int(world.agent_dir))
    waiting, known = deque([(start, list[int]())]), {start}
    while waiting:
        (place, facing), done = waiting.popleft()
        ahead = (place[0] + STEPS[facing][0], place[1] + STEPS[facing][1])
        there = world.grid.get(*ahead)
        if there is world.box:
            return [*done, PICKUP]
        moves = [(LEFT, (place, (facing - 1) % 4)), (RIGHT, (place, (facing + 1) % 4))]
        moves += [(FORWARD, (ahead, facing))] if there is None else []
        for action, state in moves:
            if state not in known:
                known.add(state)
                waiting.append((state, [*done, action]))
    raise AssertionError("the box cannot be reached")
