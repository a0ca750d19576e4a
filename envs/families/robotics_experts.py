"""Experts of the Fetch arm, of the Shadow hand's fingertips and of the point in a maze: a few stages, proportional control.

They use what the agent sees, the maze's map and the hand's geometry; the one that slides a puck also tries its strokes in the
simulation. One Fetch action moves the hand by up to 3 cm or so. At the goal when the episode ended, seeds 10000 to 10049:
reach, push, pick and place 50 of 50, slide 36, the fingertips 26; seeds 10000 to 10019: the point in each maze 20 of 20.
"""

from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np

from ..registry import Controller

GAIN = 12.0                          # action per metre
OPEN, CLOSED = 1.0, -1.0             # the grip's action


def fetch_reach(env: gym.Env, seed: int) -> Controller:
    """Straight to the goal."""

    def act(observation: dict[str, np.ndarray]) -> np.ndarray:
        return _move(observation["desired_goal"] - observation["observation"][:3], CLOSED)

    return act


def fetch_pick(env: gym.Env, seed: int) -> Controller:
    """Above the block, down, grasp, carry it to the goal and hold it there; a block that slipped is grasped anew."""
    closing = 0   # steps that the grip has been closing for

    def act(observation: dict[str, np.ndarray]) -> np.ndarray:
        nonlocal closing
        hand, block, goal = observation["observation"][:3], observation["observation"][3:6], observation["desired_goal"]
        offset = block - hand
        if np.linalg.norm(offset) > 0.04:
            closing = 0
        if closing or np.linalg.norm(offset) < 0.015:
            closing += 1
            return _move(np.zeros(3), CLOSED) if closing < 4 else _move(goal - block, CLOSED)
        if np.linalg.norm(offset[:2]) > 0.015:
            offset = offset + (0.0, 0.0, 0.06)   # above it, so that the open grip does not push it away
        return _move(offset, OPEN)

    return act


BEHIND = 0.07    # metres from the block's centre at which the hand starts to push; half a block and half a grip are 0.045
ABOVE = 0.08     # metres over the block at which the hand crosses it


def fetch_push(env: gym.Env, seed: int) -> Controller:
    """Around the block to the side away from the goal, then through it towards the goal, steering against its drift."""

    def act(observation: dict[str, np.ndarray]) -> np.ndarray:
        hand, block, goal = observation["observation"][:3], observation["observation"][3:6], observation["desired_goal"]
        way = (goal - block)[:2]
        left = float(np.linalg.norm(way))
        if left < 0.015:
            return _move(np.zeros(3), CLOSED)
        ahead = way / left
        relative = (hand - block)[:2]
        behind = -float(relative @ ahead)                  # metres, of the hand behind the block
        aside = relative + behind * ahead
        level = block[2] - hand[2]
        if behind > 0.03 and np.linalg.norm(aside) < 0.02 and abs(level) < 0.03:
            speed = min(1.0, 0.25 + 6 * left)
            return np.clip([*(speed * ahead - 15 * aside), GAIN * level, CLOSED], -1, 1).astype(np.float32)
        start = -BEHIND * ahead - relative                 # to the place behind the block
        if np.linalg.norm(start) < 0.02 or behind > 0.05:  # over it, or on a way that does not touch the block
            return _move([*start, level], CLOSED)
        if level > -0.06:
            return _move([0, 0, level + ABOVE], CLOSED)
        return _move([*start, level + ABOVE], CLOSED)

    return act


SLIDE = 0.99     # m/s2 that the table takes from the puck's speed along x and along y, measured; see _travel
RUN_UP = 0.085   # metres from the puck's centre
STROKE = 6       # steps; the puck is hit in the third or fourth and leaves, faster than the hand
TRIES = 100      # strokes that are simulated for one that is made


def fetch_slide(env: gym.Env, seed: int) -> Controller:
    """Go behind the puck, then hit it with the stroke that a search in the simulation found to bring it nearest to the goal.

    The outcome of a hit hangs on where within a step the hand meets the puck, which no simple law tells. The hand is too
    slow for the farthest goals. Another stroke follows where the puck stopped away from the goal.
    """
    import mujoco

    world: Any = env.unwrapped
    random = np.random.default_rng(seed)
    planned: list[np.ndarray] = []

    def stroke(speed: float, angle: float) -> list[np.ndarray]:
        hit = np.array([speed * np.cos(angle), speed * np.sin(angle), 0, CLOSED], np.float32)
        return [hit] * STROKE + [np.array([0, 0, 0, CLOSED], np.float32)] * 2

    def search(straight: float) -> list[np.ndarray]:
        before = mujoco.MjData(world.model)
        mujoco.mj_copyData(before, world.model, world.data)
        best, miss = (0.7, straight), np.inf
        for trial in range(TRIES):
            wide = trial < TRIES // 2
            speed = random.uniform(0.3, 1) if wide else float(np.clip(random.normal(best[0], 0.04), 0.2, 1))
            angle = random.normal(*((straight, 0.2) if wide else (best[1], 0.04)))
            mujoco.mj_copyData(world.data, world.model, before)
            for action in stroke(speed, angle):
                seen = world.step(action)[0]
            values = seen["observation"]
            left = float(np.linalg.norm(values[3:5] + _travel(_puck_speed(values)) - world.goal[:2]))
            if left < miss:
                best, miss = (speed, angle), left
        mujoco.mj_copyData(world.data, world.model, before)
        return stroke(*best)

    def act(observation: dict[str, np.ndarray]) -> np.ndarray:
        hand, puck, goal = observation["observation"][:3], observation["observation"][3:6], observation["desired_goal"]
        if planned:
            return planned.pop(0)
        way = (goal - puck)[:2]
        if np.linalg.norm(way) < 0.03 or np.linalg.norm(_puck_speed(observation["observation"])) > 0.03:
            return _move(np.zeros(3), CLOSED)
        launch = _launch(way)
        ahead = launch / np.linalg.norm(launch)
        start, level = (puck - hand)[:2] - RUN_UP * ahead, puck[2] - hand[2]
        if np.linalg.norm(start) < 0.015 and abs(level) < 0.015:
            planned.extend(search(float(np.arctan2(ahead[1], ahead[0]))))
            return planned.pop(0)
        if np.linalg.norm(start) < 0.03 or (puck - hand)[:2] @ ahead > 0.06:
            return _move([*start, level], CLOSED)
        return _move([0, 0, level + ABOVE] if level > -0.06 else [*start, level + ABOVE], CLOSED)

    return act


def _puck_speed(values: np.ndarray) -> np.ndarray:
    """Metres per second along x and y, from the speed relative to the hand and the hand's, both in metres per step."""
    return (values[14:16] + values[20:22]) / 0.04


def _travel(speed: np.ndarray) -> np.ndarray:
    """How far a puck of this speed (m/s, along x and y) slides along x and y.

    MuJoCo's friction pyramid brakes the faster axis alone until both are equally fast, then both half as much.
    """
    fast, slow = np.abs(speed).max(), np.abs(speed).min()
    far, near = (fast**2 + slow**2) / (2 * SLIDE), fast * slow / SLIDE
    return np.where(np.abs(speed) == fast, far, near) * np.sign(speed)


def _launch(way: np.ndarray) -> np.ndarray:
    """The speed with which a puck slides along `way` (metres along x and y): the inverse of _travel."""
    far, near = np.abs(way).max(), np.abs(way).min()
    fast_and_slow, fast_less_slow = np.sqrt(2 * SLIDE * (far + near)), np.sqrt(2 * SLIDE * (far - near))
    fast, slow = (fast_and_slow + fast_less_slow) / 2, (fast_and_slow - fast_less_slow) / 2
    return np.where(np.abs(way) == far, fast, slow) * np.sign(way)


def _move(offset: Any, grip: float) -> np.ndarray:
    """Action float32 (4,) that takes the hand along `offset`, in metres."""
    return np.clip([*(GAIN * np.asarray(offset)), grip], -1, 1).astype(np.float32)


SERVO, DAMPING = 0.8, 0.05   # share of the error corrected in one step; metres, so that no joint races near a dead end


def hand_reach(env: gym.Env, seed: int) -> Controller:
    """Servo all fingertips at once: the joints move along the damped least-squares solution for the errors left.

    The farthest joints of four fingers have no motor; a tendon moves them with the joint before.
    """
    import mujoco

    world: Any = env.unwrapped
    model, data = world.model, world.data
    tips = [mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, f"robot0:S_{tip}tip") for tip in ("ff", "mf", "rf", "lf", "th")]
    joints = model.actuator_trnid[:, 0]
    low, high = model.actuator_ctrlrange.T
    angles = data.qpos[model.jnt_qposadr[joints]].copy()   # (20,), what the motors are told
    jacobian = np.zeros((len(tips), 3, model.nv))

    def act(observation: dict[str, np.ndarray]) -> np.ndarray:
        nonlocal angles
        for tip, moves in zip(tips, jacobian, strict=True):
            mujoco.mj_jacSite(model, data, moves, None, tip)
        slopes = jacobian.reshape(15, -1)[:, model.jnt_dofadr[joints]]   # metres per radian, (15, 20)
        error = observation["desired_goal"] - observation["observation"][-15:]
        turn = slopes.T @ np.linalg.solve(slopes @ slopes.T + DAMPING**2 * np.eye(15), error)
        angles = np.clip(angles + SERVO * turn, low, high)
        return ((2 * angles - low - high) / (high - low)).clip(-1, 1).astype(np.float32)

    return act


def point_maze(env: gym.Env, seed: int) -> Controller:
    """The shortest way through the maze's cells, straight to the last of them that lies in the same row or column."""
    maze: Any = env.unwrapped.maze   # type: ignore[attr-defined]
    map_ = maze.maze_map

    def act(observation: dict[str, np.ndarray]) -> np.ndarray:
        place, speed, goal = observation["observation"][:2], observation["observation"][2:], observation["desired_goal"]
        way = _way(map_, tuple(maze.cell_xy_to_rowcol(place)), tuple(maze.cell_xy_to_rowcol(goal)))
        turn = 0
        while turn + 1 < len(way) and 0 in np.subtract(way[turn + 1], way[0]):
            turn += 1
        target = goal if turn == len(way) - 1 else maze.cell_rowcol_to_xy(np.array(way[turn]))
        return np.clip(10 * (target - place) - speed, -1, 1).astype(np.float32)

    return act


def _way(walls: list[list[Any]], start: tuple[int, int], goal: tuple[int, int]) -> list[tuple[int, int]]:
    """Cells (row, column) from `start` to `goal` by breadth-first search; 1 in `walls` is a wall."""
    after = {goal: goal}
    edge = deque([goal])
    while edge and start not in after:
        row, column = edge.popleft()
        for cell in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            if cell not in after and walls[cell[0]][cell[1]] != 1:
                after[cell] = (row, column)
                edge.append(cell)
    way = [start]
    while way[-1] != goal:
        way.append(after[way[-1]])
    return way
