"""Experts of the Panda arm: proportional control of the gripper, decided anew at each step from what is seen.

None keeps a plan: which cube to move, whether it is held, whether the fingers are clear of it, all is read off the
observation. So a cube that slips is grasped again, an action that the runner replaced is made up for, and a student that
sees one observation has what the expert had (but for the joints' angles, which the Joints tasks do not show). Lengths are
in metres.

Successes in 50 episodes, seeds from 10000, with the hand's motion / the joints' as actions, and of random play:
Reach 50 / 50, 11; Push 47 / 47, 5; Slide 46 / 33, 0; PickAndPlace 50 / 50, 0; Stack 50 / 50, 0, and all 50 towers still stood
2.4 s after the hand had gone up. With 5 % random actions, which drop cubes, Stack is 17 of 20 (seeds from 30000).
"""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from ..registry import Controller

EDGE = 0.04                  # of a cube
OPEN, CLOSE = 0.1, 0.036     # widths asked of the fingers; they open to 0.08
FAST, SLOW = 0.05, 0.03      # of the hand in a step, empty and holding; a held cube (1-2 kg) swings when it is carried faster
SAFE = 0.06                  # height of the hand above a cube's centre at which its fingers pass over the cube

CORNER = (0.0105, 0.02)      # of the closed fingers from their middle along x and y, measured with Bullet's getClosestPoints
PUCK = 0.03                  # radius

Move = tuple[np.ndarray, float]   # (how far the hand should move, the width of the fingers: OPEN or CLOSE)


def _controller(env: gym.Env, decide: Callable[[np.ndarray, np.ndarray], Move]) -> Controller:
    """From decisions to actions: `decide(observation, goal)` in float64 says how hand and fingers should move.

    The fingers are asked for a width just below the cube's, not to close with all their might: two motors that both push
    at their limit hold a cube, but let it float from side to side. Where the actions are joint motions, inverse kinematics
    gives those that move the hand as wanted; they are scaled down together, for the hand would leave its line otherwise.
    """
    world: Any = env.unwrapped

    def act(observation: dict[str, np.ndarray]) -> np.ndarray:
        seen = observation["observation"].astype(float)
        motion, width = decide(seen, observation["desired_goal"].astype(float))
        pace = SLOW if width == CLOSE else FAST
        motion = motion * min(1.0, pace / max(float(np.linalg.norm(motion)), 1e-9))
        arm = (0.9 * motion - 0.3 * 0.04 * seen[3:6]) / 0.05      # damped by what the hand moves in a step of 0.04 s
        if world.control_type == "joints":
            angles = np.array([world.robot.get_joint_angle(joint) for joint in range(7)])
            arm = (world.robot.ee_displacement_to_target_arm_angles(np.clip(arm, -1, 1)) - angles) / 0.05
            arm = arm / max(1.0, np.abs(arm).max())
        action = arm if world.blocked else np.append(arm, (width - seen[6]) / 0.2)
        return np.clip(action, -1, 1).astype(np.float32)

    return act


def reach(env: gym.Env, seed: int) -> Controller:
    """Straight to the goal."""
    return _controller(env, lambda seen, goal: (goal - seen[:3], OPEN))


def push(env: gym.Env, seed: int) -> Controller:
    """From behind the cube, seen from the goal, with a correction sideways all the time."""

    def decide(seen: np.ndarray, goal: np.ndarray) -> Move:
        line = direction(seen[6:9], goal)
        return strike(seen[:3], seen[6:9] - 0.045 * line, line, 0.012)

    return _controller(env, decide)


def slide(env: gym.Env, seed: int) -> Controller:
    """Strike the puck with a corner of the closed fingers; it glides on to a goal that the arm cannot reach.

    There is next to no friction, so the puck leaves along the line from the point of contact to its centre, whichever way
    the hand moves: on the fingers' flat side that would always be straight ahead.
    """

    def decide(seen: np.ndarray, goal: np.ndarray) -> Move:
        puck = seen[6:9]
        line = direction(puck, goal)
        corner = np.array([CORNER[0], np.copysign(CORNER[1], line[1]), 0])
        return strike(seen[:3], puck - PUCK * line - corner, line, 0.005)

    return _controller(env, decide)


def direction(start: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Horizontal unit vector."""
    line = (goal - start) * [1, 1, 0]
    return line / max(float(np.linalg.norm(line)), 1e-9)


def strike(hand: np.ndarray, start: np.ndarray, line: np.ndarray, tolerance: float) -> Move:
    """Get down behind `start` and go along the line through it, never further than `tolerance` aside."""
    off = (hand - start) * [1, 1, 0]
    aside = off - (off @ line) * line
    if off @ line < 0.03 and float(np.linalg.norm(aside)) < tolerance and hand[2] < 0.035:
        return 0.05 * line - 2 * aside + [0, 0, 0.02 - hand[2]], CLOSE
    start = start - 0.03 * line
    way = approach(hand, start, SAFE)
    return (start - hand if way is None else way), OPEN


def pick_and_place(env: gym.Env, seed: int) -> Controller:
    """Grasp the cube from above and carry it to the goal."""

    def decide(seen: np.ndarray, goal: np.ndarray) -> Move:
        hand, width, cube = seen[:3], seen[6], seen[7:10]
        if holds(hand, width, cube):
            return goal - cube, CLOSE
        return grasp(hand, cube)

    return _controller(env, decide)


def stack(env: gym.Env, seed: int) -> Controller:
    """Cube 1 to the goal, cube 2 on top of it; what is in the fingers' way is put or pushed aside before."""

    def decide(seen: np.ndarray, goal: np.ndarray) -> Move:
        hand, width, cubes = seen[:3], seen[6], (seen[7:10], seen[19:22])
        held = [holds(hand, width, cube) for cube in cubes]
        job = next_job(cubes, goal[:3], held[1])
        if job is not None and held[job[0]]:
            return carry(cubes[job[0]], job[1])
        for index, cube in enumerate(cubes):
            if around(hand, cube) and (job is None or index != job[0]):
                return let_go(hand, width)
        if job is None:
            return np.zeros(3), OPEN
        if blocked(cubes[job[0]], cubes[1 - job[0]]):
            return push_aside(hand, cubes[1], cubes[0])
        return grasp(hand, cubes[job[0]])

    return _controller(env, decide)


def next_job(cubes: tuple[np.ndarray, np.ndarray], goal: np.ndarray,
             upper_held: bool) -> tuple[int, np.ndarray] | None:
    """(which cube, where to), or None when the tower stands."""
    lower, upper = cubes
    if flat(lower - goal) > 0.015 or lower[2] > 0.03:
        on_top = upper[2] > lower[2] + 0.025 and flat(upper - lower) < EDGE
        if upper_held or on_top or blocked(goal, upper):
            return 1, free_spot(upper, goal, lower)
        return 0, goal
    top = lower + [0, 0, EDGE]
    return None if flat(upper - top) < 0.012 and abs(upper[2] - top[2]) < 0.006 else (1, top)


def flat(vector: np.ndarray) -> float:
    """Its horizontal length."""
    return float(np.linalg.norm(vector[:2]))


def blocked(cube: np.ndarray, other: np.ndarray) -> bool:
    """Is another cube where the open fingers would go down beside this one, along y?"""
    x, y, z = np.abs(other - cube)
    return bool(x < 0.036 and y < 0.08 and z < 0.03)


def free_spot(cube: np.ndarray, *others: np.ndarray) -> np.ndarray:
    """The nearest place on the table that leaves the others free; two others cannot be near all four corners."""
    grid = [np.array([x, y, EDGE / 2]) for x in np.linspace(-0.12, 0.12, 9) for y in np.linspace(-0.12, 0.12, 9)]
    free = [spot for spot in grid if all(flat(spot - other) > 0.11 for other in others)]
    return min(free, key=lambda spot: flat(spot - cube))


def holds(hand: np.ndarray, width: float, cube: np.ndarray) -> bool:
    """Is the cube between closed fingers?"""
    return bool(0.03 < width < 0.06 and flat(cube - hand) < 0.02 and abs(cube[2] - hand[2]) < 0.02)


def around(hand: np.ndarray, cube: np.ndarray) -> bool:
    """Are the fingers beside the cube, so that the hand must go up before it goes elsewhere?"""
    return flat(cube - hand) < 0.03 and hand[2] < cube[2] + 0.035


def let_go(hand: np.ndarray, width: float) -> Move:
    """Open, then go straight up."""
    return np.array([0, 0, 0.05 if width > 0.07 else 0]), OPEN


def approach(hand: np.ndarray, target: np.ndarray, clearance: float) -> np.ndarray | None:
    """The way to above `target` at a height that passes over cubes; None when the hand may go down."""
    off = target - hand
    if flat(off) < 0.01:
        return None
    height = target[2] + clearance
    if flat(off) > 0.03 and hand[2] < height - 0.02:
        return np.array([0, 0, height - hand[2]])
    return np.array([*off[:2], height - hand[2] if flat(off) > 0.03 else 0.0])


def grasp(hand: np.ndarray, cube: np.ndarray) -> Move:
    """Above the cube, down with open fingers, then close."""
    way = approach(hand, cube, SAFE)
    if way is not None:
        return way, OPEN
    off = cube - hand
    if abs(off[2]) > 0.008:
        return off, OPEN
    return off * [0, 0, 0.5], CLOSE


def carry(cube: np.ndarray, place: np.ndarray) -> Move:
    """Up, over, down, and open when the cube stands at its place."""
    off = place - cube
    if flat(off) < 0.006 and off[2] > -0.004:
        return np.zeros(3), OPEN
    height = max(place[2], EDGE) + 0.035
    if flat(off) > 0.015 and cube[2] < height - 0.012:
        return np.array([0, 0, height - cube[2]]), CLOSE
    if flat(off) > 0.006:
        return np.array([*off[:2], max(height - cube[2], 0) if flat(off) > 0.015 else 0]), CLOSE
    return np.array([*off[:2], max(off[2], -0.02)]), CLOSE


def push_aside(hand: np.ndarray, cube: np.ndarray, other: np.ndarray) -> Move:
    """Push a cube along x with closed fingers, away from the other one."""
    side = 1.0 if cube[0] > other[0] else -1.0
    away = 0.01 if cube[1] > other[1] else -0.01      # the fingers keep clear of the other cube
    behind = cube + [-side * 0.045, away, 0]
    if abs(hand[1] - behind[1]) < 0.015 and hand[2] < 0.03 and side * (cube[0] - hand[0]) > 0.02:
        return np.array([side * 0.02, behind[1] - hand[1], EDGE / 2 - hand[2]]), CLOSE
    way = approach(hand, behind, SAFE)
    return (way if way is not None else behind - hand), CLOSE
