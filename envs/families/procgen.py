"""Procgen (Cobbe et al., arXiv:1912.01588): 16 games whose levels are generated, in up to five kinds of level each.

View: Procgen's own 64x64 RGB picture, 16 patches a step. The 15 actions are those of all games (eight directions, stay,
six further buttons, most of which do nothing in most games). A level is drawn from all levels of its kind, as in the
paper's test of generalisation, and an episode is one level.

The games are those of envpool, which builds the original C++ sources; Procgen itself has no wheel for Python 3.11. There is
no expert.
"""

from typing import Any

import gymnasium as gym
import numpy as np

from ..registry import Family, Task

# game -> (longest episode in steps, kinds of level), as registered by envpool
GAMES = {
    "Bigfish": (6000, "Easy Hard"), "Bossfight": (4000, "Easy Hard"),
    "Caveflyer": (1000, "Easy Hard Memory Exploration"), "Chaser": (1000, "Easy Hard Extreme"),
    "Climber": (1000, "Easy Hard Exploration"), "Coinrun": (1000, "Easy Hard Exploration"),
    "Dodgeball": (1000, "Easy Hard Extreme Memory"), "Fruitbot": (1000, "Easy Hard"),
    "Heist": (1000, "Easy Hard Memory Exploration"), "Jumper": (1000, "Easy Hard Memory Exploration"),
    "Leaper": (500, "Easy Hard Extreme Exploration"), "Maze": (500, "Easy Hard Memory Exploration"),
    "Miner": (1000, "Easy Hard Memory"), "Ninja": (1000, "Easy Hard Exploration"), "Plunder": (4000, "Easy Hard"),
    "Starpilot": (1000, "Easy Hard Extreme"),
}
ZOOM = 4   # rendered pixels per pixel of the view


class ProcgenGame(gym.Env):
    """One environment of envpool as an ordinary one.

    envpool takes its seed when a pool is made and draws the next level by itself after an end. A pool is therefore made
    anew for each episode, which costs 1 to 4 ms (1 to 2 s in a process's first episode, when the pictures are loaded).
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(self, game: str, render_mode: str | None = None) -> None:
        self.game, self.render_mode = game, render_mode
        self.action_space = gym.spaces.Discrete(15)
        self.observation_space = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
        self.pool: Any = None

    def reset(self, *, seed: int | None = None,
              options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a level; a seed decides which, and all chance in it."""
        import envpool

        super().reset(seed=seed)
        self.close()
        self.pool = envpool.make(self.game, env_type="gymnasium", num_envs=1, num_threads=1, channel_first=False,
                                 seed=int(self.np_random.integers(2**31)))
        observations, infos = self.pool.reset()
        self.picture = observations[0]
        return self.picture, _info(infos)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """See gym.Env; the observation at an end is the level's last picture."""
        observations, rewards, terminated, truncated, infos = self.pool.step(np.array([action], np.int32))
        self.picture = observations[0]
        over = bool(terminated[0])
        return self.picture, float(rewards[0]), over, bool(truncated[0]) and not over, _info(infos)

    def render(self) -> np.ndarray:
        """The picture that the agent sees, enlarged: uint8 (256, 256, 3)."""
        return self.picture.repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)

    def close(self) -> None:
        """See gym.Env."""
        if self.pool is not None:
            self.pool.close()
            self.pool = None


def _info(infos: dict[str, Any]) -> dict[str, Any]:
    return {"level_seed": int(infos["level_seed"][0]), "level_complete": bool(infos["prev_level_complete"][0])}


def _make(task: Task, render: bool) -> gym.Env:
    return ProcgenGame(task.name, render_mode="rgb_array" if render else None)


FAMILY = Family(
    title="Procgen",
    tasks=tuple(
        Task(name=f"{game}{kind}-v0", family="procgen", episode_limit=limit, packages=("envpool", "envpool-assets"),
             licence="Apache-2.0 AND MIT")   # envpool AND Procgen
        for game, (limit, kinds) in GAMES.items() for kind in kinds.split()
    ),
    make=_make,
    modules=("envpool.procgen.procgen_envpool",),   # the extension, which needs Qt: `import envpool` alone proves nothing
    extra="procgen",
    apt=("libqt5core5a", "libqt5gui5"),
)
