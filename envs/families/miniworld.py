"""MiniWorld (Chevalier-Boisvert et al., arXiv:2306.13831): walking through rooms, corridors and mazes in first person.

View: what the agent sees, 64x64 RGB, 16 patches a step (MiniWorld's own picture is 80x60); `MiniWorld-Sign-v0` adds the kind
of thing to touch, Discrete(2). Actions turn by 15 degrees, walk 0.15 m, and pick up or drop where the task has things to carry.
The experts know the floor plan, see miniworld_experts.py. RoomObjects and ThreeRooms have no reward: worlds to look around in.

Worlds are drawn by OpenGL without a screen (EGL). Importing this module asks pyglet for that, which it reads once, when it is
imported.
"""

import os
import sys
from functools import cache
from typing import Any

import gymnasium as gym

from ..registry import Family, Task
from .miniworld_experts import Collector, PutNext, Survivor, ToBox, ToSign

if sys.platform == "linux":
    os.environ.setdefault("PYGLET_HEADLESS", "1")

# name -> (longest episode in steps, expert)
WORLDS: dict[str, tuple[int, str | None]] = {
    "OneRoom": (180, "walk-to-box"), "OneRoomS6": (100, "walk-to-box"), "OneRoomS6Fast": (50, "walk-to-box"),
    "Hallway": (250, "walk-to-box"), "FourRooms": (250, "walk-to-box"), "WallGap": (300, "walk-to-box"),
    "TMaze": (280, "walk-to-box"), "TMazeLeft": (280, "walk-to-box"), "TMazeRight": (280, "walk-to-box"),
    "YMaze": (280, "walk-to-box"), "YMazeLeft": (280, "walk-to-box"), "YMazeRight": (280, "walk-to-box"),
    "MazeS2": (96, "walk-to-box"), "MazeS3": (216, "walk-to-box"), "MazeS3Fast": (300, "walk-to-box"),
    "Maze": (1536, "walk-to-box"), "Sidewalk": (150, "walk-to-box"), "Sign": (20, "touch-the-sign"),
    "PickupObjects": (400, "collect"), "CollectHealth": (1000, "survive"), "PutNext": (250, "put-next"),
    "RoomObjects": (400, None),   # MiniWorld sets no limit
    "ThreeRooms": (400, None),
}

VIEW = {"height": 64, "width": 64}
FRAME = 256   # pixels of a rendered frame, height and width


class World(gym.Wrapper):
    """A MiniWorld with plain Python values, one end at a time, and its own place in OpenGL."""

    def __init__(self, env: gym.Env, limit: int) -> None:
        super().__init__(env)
        self.limit, self.steps = limit, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See gym.Env."""
        world: Any = self.unwrapped
        world.shadow_window.switch_to()   # MiniWorld itself does so for pictures only, and not where it builds the walls
        self.steps = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See gym.Env."""
        observation, reward, terminated, _, info = self.env.step(int(action))
        self.steps += 1
        return observation, float(reward), bool(terminated), self.steps >= self.limit and not terminated, info

    def close(self) -> None:
        """Free the window that MiniWorld keeps open, with its frame buffers."""
        from miniworld import miniworld

        world: Any = self.unwrapped
        if world.shadow_window.context is not None:
            world.shadow_window.switch_to()
            vars(miniworld)["glDeleteLists"](1, 1)
            world.shadow_window.close()
        super().close()


@cache
def _mend() -> None:
    """Let several worlds live in one process, and say nothing about it.

    MiniWorld keeps the walls in OpenGL's display list 1. All windows of a process share their lists, so each new episode
    would replace the walls in the pictures of all other worlds. Here each window has a list of its own.
    """
    import pyglet
    from miniworld import miniworld, opengl

    gl = pyglet.gl

    def own() -> int:
        window = gl.current_context
        if not hasattr(window, "walls"):
            window.walls = gl.glGenLists(1)
        return window.walls

    vars(miniworld).update(glNewList=lambda _, mode: gl.glNewList(own(), mode), glCallList=lambda _: gl.glCallList(own()),
                           glDeleteLists=lambda _, count: gl.glDeleteLists(own(), count))
    vars(opengl)["print"] = lambda *_, **__: None   # it reports the number of samples per pixel twice a world


def _make(task: Task, render: bool) -> gym.Env:
    import miniworld

    _mend()
    gym.register_envs(miniworld)
    frame = FRAME if render else 1   # 16 samples of 20 bytes per pixel are kept for it
    env = gym.make(task.name, obs_height=task.view["height"], obs_width=task.view["width"], window_height=frame,
                   window_width=frame, render_mode="rgb_array" if render else None, disable_env_checker=True)
    assert task.episode_limit is not None
    return World(env, task.episode_limit)


FAMILY = Family(
    title="MiniWorld",
    tasks=tuple(
        Task(name=f"MiniWorld-{world}-v0", family="miniworld", view=VIEW, episode_limit=limit, expert=expert,
             packages=("miniworld", "pyglet"), licence="Apache-2.0")
        for world, (limit, expert) in WORLDS.items()
    ),
    make=_make,
    experts={"walk-to-box": ToBox, "touch-the-sign": ToSign, "collect": Collector, "survive": Survivor, "put-next": PutNext},
    modules=("miniworld",),
    extra="nav3d",
    apt=("libegl1", "libgl1", "libglu1-mesa", "libfontconfig1"),
)
