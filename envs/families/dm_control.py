"""The DeepMind Control Suite (arXiv:1801.00690, arXiv:2006.12983) and dm_control's manipulation tasks.

View: the observation's parts in lexicographic order as one float32 vector, 3-232 numbers. Each task of the suite has a twin
"-pixels" in which the agent sees two grey 64x64 frames, 16 patches a step (settings: offscreen.py); scores are the same.
Rewards of the suite lie in [0, 1] and its episodes have 1000 steps, so a return is at most 1000. The manipulation tasks show
features of what a Jaco arm and its bricks do, 45-112 numbers, for 250 steps.

The environments are dm_control's own behind an adapter of a page: Gymnasium's step, seeds, flat observations.
"""

import logging
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from ..offscreen import APT, PIXELS, PixelView, Rendered
from ..registry import Family, Task
from . import dm_control_experts as experts
from . import dm_control_planners as planners

SUITE = {
    "acrobot": "swingup swingup_sparse",
    "ball_in_cup": "catch",
    "cartpole": "balance balance_sparse swingup swingup_sparse two_poles three_poles",
    "cheetah": "run",
    "dog": "stand walk trot run fetch",
    "finger": "spin turn_easy turn_hard",
    "fish": "upright swim",
    "hopper": "stand hop",
    "humanoid": "stand walk run run_pure_state",
    "humanoid_CMU": "stand walk run",
    "lqr": "lqr_2_1 lqr_6_2",
    "manipulator": "bring_ball bring_peg insert_ball insert_peg",
    "pendulum": "swingup",
    "point_mass": "easy hard",
    "quadruped": "walk run escape fetch",
    "reacher": "easy hard",
    "stacker": "stack_2 stack_4",
    "swimmer": "swimmer6 swimmer15",
    "walker": "stand walk run",
}

MANIPULATION = """
lift_brick lift_large_box place_brick place_cradle reach_duplo reach_site reassemble_3_bricks_fixed_order
reassemble_5_bricks_random_order stack_2_bricks stack_2_bricks_moveable_base stack_2_of_3_bricks_random_order stack_3_bricks
stack_3_bricks_random_order
"""

# The first camera of each model follows or holds the whole body, with these exceptions.
CAMERAS: dict[str, Any] = {
    "dog": "y-axis",
    "humanoid": "side",
    "humanoid_CMU": "side",
    "lqr": {"distance": 2.0, "azimuth": 90.0, "elevation": -20.0, "lookat": (0.6, 0.0, 0.1)},
    "manipulation": "front_close",
    "quadruped": "y",
}


EXPERTS = {   # standing up from the floor and grasping are beyond formulas and short plans
    "acrobot-swingup": "acrobot-planner",
    "acrobot-swingup_sparse": "acrobot-planner",
    "ball_in_cup-catch": "ball-in-cup-planner",
    "cartpole-balance": "cartpole-energy",
    "cartpole-balance_sparse": "cartpole-energy",
    "cartpole-swingup": "cartpole-energy",
    "cartpole-swingup_sparse": "cartpole-energy",
    "cartpole-two_poles": "two-poles-planner",
    "cheetah-run": "cheetah-planner",
    "finger-spin": "finger-spin-planner",
    "finger-turn_easy": "finger-turn-planner",
    "finger-turn_hard": "finger-turn-planner",
    "fish-upright": "fish-upright-planner",
    "fish-swim": "fish-swim-planner",
    "lqr-lqr_2_1": "lqr",
    "lqr-lqr_6_2": "lqr",
    "pendulum-swingup": "pendulum-energy",
    "point_mass-easy": "point-mass-pd",
    "point_mass-hard": "point-mass-pd",
    "reacher-easy": "reacher-angles",
    "reacher-hard": "reacher-angles",
    "swimmer-swimmer6": "swimmer-planner",
    "walker-stand": "walker-stand-planner",
    "walker-walk": "walker-walk-planner",
    "walker-run": "walker-run-planner",
    "manipulation-reach_duplo": "reach-jacobian",
    "manipulation-reach_site": "reach-jacobian",
}

FORCE = 8.0   # bounds the actions of the lqr tasks, which have no limits; their best controllers stay below 6


class ControlTask(gym.Env):
    """A dm_control environment as Gymnasium's.

    Observations are float32 (n,), actions float32 within the actuators' limits. `model`, `data` and `dt` are MuJoCo's model
    and state, which change with every reset in manipulation, and the seconds of a step; `physics` and `task` are dm_control's.

    Args:
        load: seed -> dm_control environment.
        limit: steps after which an episode is truncated.
        redraw: load again with each seed, for tasks whose model is drawn when they are loaded, or that shuffle on from where
            the last episode ended.
        force: the largest action in place of an actuator without limits.
    """

    def __init__(self, load: Callable[[int], Any], limit: int, redraw: bool = False, force: float = FORCE) -> None:
        self.load, self.limit, self.redraw = load, limit, redraw
        self.dm_env = load(0)
        self.dt = self.dm_env.control_timestep()
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / self.dt)}
        self.steps = 0
        action = self.dm_env.action_spec()
        limited = action.maximum < 1e9   # MuJoCo's 1e10 stands for no limit
        high = np.where(limited, action.maximum, force).astype(np.float32)
        low = np.where(limited, action.minimum, -force).astype(np.float32)
        self.action_space = gym.spaces.Box(low, high)
        size = sum(int(np.prod(part.shape)) for part in self.dm_env.observation_spec().values())
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)

    @property
    def physics(self) -> Any:
        """dm_control's Physics."""
        return self.dm_env.physics

    @property
    def task(self) -> Any:
        """dm_control's Task."""
        return self.dm_env.task

    @property
    def model(self) -> Any:
        """mujoco.MjModel."""
        return self.physics.model.ptr

    @property
    def data(self) -> Any:
        """mujoco.MjData."""
        return self.physics.data.ptr

    def reset(self, *, seed: int | None = None,
              options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """See gym.Env."""
        super().reset(seed=seed)
        self.steps = 0
        if seed is not None and self.redraw:
            self.dm_env.close()
            self.dm_env = self.load(seed)
        elif seed is not None:
            random = getattr(self.dm_env, "random_state", None) or self.task.random   # manipulation's, the suite's
            random.seed(seed)
        return self._flat(self.dm_env.reset()), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """See gym.Env; an end with discount 0 is a termination, one with discount 1 a truncation."""
        step = self.dm_env.step(action)
        self.steps += 1
        terminated = bool(step.last() and step.discount == 0)
        truncated = not terminated and bool(step.last() or self.steps >= self.limit)
        return self._flat(step), float(step.reward), terminated, truncated, {}

    def close(self) -> None:
        """See gym.Env."""
        self.dm_env.close()

    def _flat(self, step: Any) -> np.ndarray:
        return np.concatenate([np.ravel(step.observation[key]) for key in sorted(step.observation)], dtype=np.float32)


def _without_failed_attempts(record: logging.LogRecord) -> bool:
    """Resets place the hand by inverse kinematics until that works, and report each attempt that did not."""
    return not str(record.msg).startswith("Failed to converge")


def _make(task: Task, render: bool) -> gym.Env:
    kwargs = dict(task.kwargs)
    domain, level = kwargs.pop("domain"), kwargs.pop("level")

    def load(seed: int) -> Any:
        if domain == "manipulation":
            from dm_control import manipulation

            logging.getLogger("absl").addFilter(_without_failed_attempts)
            return manipulation.load(f"{level}_features", seed)
        from dm_control import suite

        return suite.load(domain, level, task_kwargs={"random": seed, **kwargs})

    env: gym.Env = ControlTask(load, task.episode_limit or 1000, redraw=domain == "lqr" or "random_order" in level)
    if task.view:
        env = PixelView(env, **task.view)
    return Rendered(env, CAMERAS.get(domain, 0)) if render else env


def _suite_task(domain: str, level: str, pixels: bool) -> Task:
    name = f"dm_control/{domain}-{level}"
    return Task(name=f"{name}-pixels" if pixels else name, family="dm_control", episode_limit=1000,
                kwargs={"domain": domain, "level": level}, expert=EXPERTS.get(f"{domain}-{level}"),
                scores_of=name if pixels else None, view={**PIXELS, "camera": CAMERAS.get(domain, 0)} if pixels else {},
                packages=("dm-control", "mujoco"), licence="Apache-2.0")


def _manipulation_task(level: str) -> Task:
    return Task(name=f"dm_control/manipulation-{level}_features", family="dm_control", episode_limit=250,
                kwargs={"domain": "manipulation", "level": level}, expert=EXPERTS.get(f"manipulation-{level}"),
                packages=("dm-control", "mujoco"), licence="Apache-2.0")


FAMILY = Family(
    title="DeepMind Control Suite",
    tasks=(
        *(_suite_task(domain, level, pixels)
          for pixels in (False, True) for domain, levels in SUITE.items() for level in levels.split()),
        *(_manipulation_task(level) for level in MANIPULATION.split()),
    ),
    make=_make,
    experts={
        "acrobot-planner": planners.acrobot,
        "ball-in-cup-planner": planners.ball_in_cup,
        "cartpole-energy": experts.cartpole,
        "cheetah-planner": planners.cheetah,
        "finger-spin-planner": planners.finger_spin,
        "finger-turn-planner": planners.finger_turn,
        "fish-swim-planner": planners.fish_swim,
        "fish-upright-planner": planners.fish_upright,
        "lqr": experts.linear,
        "pendulum-energy": experts.pendulum,
        "point-mass-pd": experts.point_mass,
        "reach-jacobian": experts.reach,
        "reacher-angles": experts.reacher,
        "swimmer-planner": planners.swimmer,
        "two-poles-planner": planners.two_poles,
        "walker-run-planner": planners.walker(8.0),
        "walker-stand-planner": planners.walker(0.0),
        "walker-walk-planner": planners.walker(1.0),
    },
    modules=("dm_control.suite", "dm_control.manipulation"),
    extra="dm-control",
    apt=APT,
)
