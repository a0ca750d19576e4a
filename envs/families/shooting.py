"""Plans by shooting, for worlds whose solution has no formula but whose simulator can be asked.

Predictive sampling (Howell et al., arXiv:2212.00541): add noise to the plan at hand, try all variants in copies of the
simulator, keep the best. Differs in that a plan is followed for several steps and made anew at once where the world went
another way than predicted, as after a random action.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..registry import Controller

Value = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(positions (samples, steps, nq), velocities (samples, steps, nv)) after each action -> (samples,), to be maximised."""


class Shooting:
    """Finds actions for a MuJoCo world with a `model`, `data` and `dt`.

    Args:
        value: what a future is worth.
        seed: of the noise.
        steps: actions that a plan looks ahead.
        knots: values of each action within them; each is held until the next.
        samples: variants tried per round.
        rounds: each around the best of the round before, with half its noise.
        follow: actions after which a new plan is made.
    """

    def __init__(self, world: Any, value: Value, seed: int, *, steps: int, knots: int, samples: int, rounds: int = 1,
                 follow: int = 1) -> None:
        self.world, self.value = world, value
        self.steps, self.samples, self.rounds, self.follow = steps, samples, rounds, follow
        self.random = np.random.default_rng([seed, 5])
        self.knots = np.arange(steps) * knots // steps           # the knot of each step
        self.plan = np.zeros((steps, world.model.nu))
        self.predicted = np.zeros((steps, world.model.nq))
        self.at = steps                                          # the next action of the plan

    def __call__(self) -> np.ndarray:
        """The next action, (actuators,)."""
        expected = self.predicted[self.at - 1] if 0 < self.at < self.steps else self.world.data.qpos
        if self.at >= self.follow or np.abs(expected - self.world.data.qpos).max() > 1e-3:
            self._make_plan()
        self.at += 1
        return self.plan[self.at - 1]

    def _make_plan(self) -> None:
        low, high = self.world.model.actuator_ctrlrange.T
        keep = min(self.at, self.steps)
        best = np.concatenate([self.plan[keep:], np.repeat(self.plan[-1:], keep, axis=0)])
        spread = 0.5 * (high - low)
        for _ in range(self.rounds):
            noise = self.random.normal(size=(self.samples, self.knots[-1] + 1, len(low))) * spread
            noise[0] = 0
            plans = np.clip(best + noise[:, self.knots], low, high)   # (samples, steps, actuators)
            positions, velocities = self._roll(plans)
            chosen = int(np.argmax(self.value(positions, velocities)))
            best, self.predicted, spread = plans[chosen], positions[chosen], spread / 2
        self.plan, self.at = best, 0

    def _roll(self, plans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import mujoco
        from mujoco import rollout

        model, data = self.world.model, self.world.data
        every = round(self.world.dt / model.opt.timestep)
        kind = mujoco.mjtState.mjSTATE_FULLPHYSICS
        state = np.zeros(mujoco.mj_stateSize(model, kind))
        mujoco.mj_getState(model, data, state, kind)
        states, _ = rollout.rollout(model, mujoco.MjData(model), state[None], np.repeat(plans, every, axis=1),
                                    initial_warmstart=data.qacc_warmstart[None])
        states = states[:, every - 1 :: every, 1:]                  # the first number is the time
        return states[..., : model.nq], states[..., model.nq : model.nq + model.nv]


def plans(world: Any, value: Value, seed: int, done: Callable[[], bool] = lambda: False, **settings: Any) -> Controller:
    """A controller that follows such plans, and does nothing as long as `done`."""
    shooting = Shooting(world, value, seed, **settings)
    rest = np.zeros(world.model.nu, np.float32)
    return lambda observation: rest if done() else shooting().astype(np.float32)
