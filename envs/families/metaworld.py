"""Meta-World (arXiv:1910.10897): 50 manipulation tasks of one robot arm, in their third version, package metaworld 3.0.0.

View: the package's own 39 numbers as float32: hand and gripper (4), objects (14), the same 18 of the step before, and the
goal (3); 44 tokens a step with separator and action. Tasks with one object leave 14 of them at zero. They stay, so that
all 50 tasks, and the data sets recorded elsewhere, share one layout.

The goal is observable, as in the package's multi-task benchmarks (MT1 to MT50) and as its scripted policies need it; goal
and object places are drawn anew for every seed, without the 50 fixed draws of those benchmarks. An episode takes 500
steps whatever happens, and every step pays up to 10. JAT (arXiv:2402.09844) does not end at success either, but after
100 steps: our random play collects five times what JAT's does, task by task (assembly 218 and 45), so episodes cut there
(`max_steps` of the runner) have comparable returns. Meta-World's own measure, and Gato's, is the share of episodes with
success at any step: `info["succeeded"]`. With the view setting `terminate_on_success` an episode ends there, which is
cheaper, but returns mean nothing then: the faster the agent, the less it collects.
"""

import warnings
from typing import Any

import gymnasium as gym
import numpy as np

from ..offscreen import APT, Rendered
from ..registry import Controller, Family, Task

# ML45, the benchmark's split into training and held-out tasks; Gato trained on 45 (arXiv:2205.06175, table 1).
TRAINING = """
assembly basketball button-press button-press-topdown button-press-topdown-wall button-press-wall coffee-button
coffee-pull coffee-push dial-turn disassemble door-close door-open drawer-close drawer-open faucet-close faucet-open
hammer handle-press handle-press-side handle-pull handle-pull-side lever-pull peg-insert-side peg-unplug-side
pick-out-of-hole pick-place pick-place-wall plate-slide plate-slide-back plate-slide-back-side plate-slide-side push
push-back push-wall reach reach-wall shelf-place soccer stick-pull stick-push sweep sweep-into window-close window-open
"""
HELD_OUT = "bin-picking box-close door-lock door-unlock hand-insert"

VIEW = {"terminate_on_success": False}
CAMERA = {"lookat": (0.0, 0.6, 0.1), "distance": 1.5, "azimuth": 135.0, "elevation": -30.0}   # over the robot's
# shoulder; the package's own cameras stand on their heads


class SawyerTask(gym.Wrapper):
    """One task with a goal for every seed; observations float32 (39,), actions float32 (4,): moves of the hand, grip.

    `info["success"]` is the package's, of this step; `info["succeeded"]` says whether there was success so far.

    Args:
        name: the package's, e.g. "reach-v3".
    """

    def __init__(self, name: str, *, terminate_on_success: bool) -> None:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        self.world: Any = ALL_V3_ENVIRONMENTS[name]()
        super().__init__(self.world)
        self.name = name
        self.world._partially_observable = False   # show the goal
        del self.world.sawyer_observation_space    # cached with bounds of 0 for a hidden goal, and `step` clips to them
        self.world._set_task_called = True
        self.world.seeded_rand_vec = True          # draw from `np_random` and not from NumPy's global generator
        self.terminate_on_success = terminate_on_success
        self.success = self.succeeded = False      # in the last step; so far
        # Without bounds: the package keeps to its own in `step`, but not in `reset`.
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (39,), np.float32)

    def reset(self, *, seed: int | None = None,
              options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw places for objects and goal, then set the world up anew with them.

        Setting up once is not enough: some 15 tasks read places from the model that only the set-up before has moved
        there, so that an episode would depend on the one played before it.
        """
        gym.Env.reset(self.world, seed=seed)   # the package's own `reset` ignores its seed
        self.world._freeze_rand_vec = False
        self.world.reset_model()
        self.world._freeze_rand_vec = True
        observation, info = self.world.reset()
        self.success = self.succeeded = False
        return observation.astype(np.float32), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """See gym.Env."""
        observation, reward, _, truncated, info = self.world.step(action)
        self.success = bool(info["success"])
        self.succeeded |= self.success
        terminated = self.terminate_on_success and self.succeeded
        return (observation.astype(np.float32), float(reward), terminated, truncated and not terminated,
                {**info, "succeeded": self.succeeded})


# What the scripted policies need besides to collect reward, and not only to succeed once. Behind each the mean return of
# three seeds with it and, in brackets, without; where it gained less than a few per cent there is no entry.
SISTERS = {"button-press-topdown-wall": "button-press-topdown",   # that task's policy instead: 3825 (0), the grip must be shut
           "coffee-button": "button-press-wall"}                  # 3780 (502)
SHIFTED = {"button-press": (0.0, 0.03, -0.1)}   # metres by which it misjudges the hand: the fingertips press: 4150 (506)
HANDLES = {"handle-press": 0.02,                # press it down to the goal and no further: 4714 (1275); metres from the
           "handle-press-side": 0.0}            # handle at which the policy starts to press: 4650 (1104)
RESTS = """
box-close button-press-wall coffee-push door-unlock faucet-close faucet-open hammer lever-pull peg-unplug-side
plate-slide-back plate-slide-back-side plate-slide-side push-back shelf-place stick-push
"""                                             # stay where there is success: stick-push 4505 (798), hammer 4464 (3791)


def scripted(env: gym.Env, seed: int) -> Controller:
    """The package's scripted policy for the task, with the changes above.

    984 of 1000 episodes succeeded (20 of each task, seeds 10000 to 10019): box-close 16, peg-insert-side and sweep-into 17,
    soccer and stick-pull 18, all others 19 or 20.
    """
    from metaworld.policies import ENV_POLICY_MAP

    warnings.filterwarnings("ignore", message="Constant.s. may be too high", module="metaworld")   # at nearly every step
    name = env.get_wrapper_attr("name").removesuffix("-v3")
    policies: dict[str, Any] = ENV_POLICY_MAP
    policy = policies[f"{SISTERS.get(name, name)}-v3"]()
    shift = np.array([*SHIFTED.get(name, np.zeros(3)), *np.zeros(36)], np.float32)
    rests, beside = name in RESTS.split(), HANDLES.get(name)
    action = np.zeros(4, np.float32)

    def act(observation: np.ndarray) -> np.ndarray:
        nonlocal action
        if rests and env.get_wrapper_attr("success"):
            action = np.array([0, 0, 0, action[3]], np.float32)
            return action
        action = np.clip(policy.get_action(observation + shift), -1, 1).astype(np.float32)
        hand, handle, goal = observation[:3], observation[4:7], observation[-3:]
        if beside is not None and np.linalg.norm(hand[:2] - handle[:2] + (0, beside)) <= 0.02:   # the policy presses here
            action[2] = np.clip(10 * (goal[2] - handle[2]), -1, 1)
        return action

    return act


def _make(task: Task, render: bool) -> gym.Env:
    env = SawyerTask(**task.kwargs, **task.view)
    return Rendered(env, CAMERA) if render else env


def _task(name: str) -> Task:
    return Task(name=f"Meta-World/{name}-v3", family="metaworld", kwargs={"name": f"{name}-v3"}, view=VIEW,
                episode_limit=500, expert="metaworld-script", packages=("metaworld", "mujoco", "gymnasium"), licence="MIT")


FAMILY = Family(
    title="Meta-World",
    tasks=tuple(_task(name) for name in sorted(f"{TRAINING} {HELD_OUT}".split())),
    make=_make,
    experts={"metaworld-script": scripted},
    modules=("metaworld",),
    extra="metaworld",
    apt=APT,
)
