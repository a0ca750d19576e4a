"""Atari by planning: rollout IW(1) over copies of the emulator, with the console's memory as features.

Lipovetzky, Ramirez and Geffner (IJCAI 2015) search breadth first and drop every state in which no byte of the memory has a
value that is new: IW(1). Bandres, Bonet and Geffner (arXiv:1904.07091) do it by rollouts, so that any budget gives an answer:
from the root, random actions are followed until a state whose every (byte, value) was met before at a smaller or the same
depth; such a branch is closed for the rest of the search. The first action of the branch with the largest discounted reward
is played, and the tree below it is kept. There is no learning and nothing about any game.

What differs: a lost life ends a branch and costs as much as the largest reward seen so far; actions are held for `hold` raw
frames, as people do; and the planner knows which frames to come will be sticky, since it copies the environment's generator
(`knows_sticky`). Plans run in an emulator of their own, so that the environment, its screen included, is left as it is.
"""

import copy
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from ..registry import Controller, Start, Task

UNMET = np.iinfo(np.int32).max


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How long a plan thinks, and what it prefers."""

    frames: int = 400          # raw frames emulated for one plan, about; the last action tried is finished
    hold: int = 8              # raw frames that an action of a plan is held; a whole number of steps, at least one
    discount: float = 0.99     # per step
    horizon: int = 300         # steps that a plan may look ahead
    knows_sticky: bool = True  # which frames to come are sticky; otherwise plans are made as if none were

    def __post_init__(self) -> None:
        if self.frames < 1 or self.hold < 1 or self.horizon < 1:
            raise ValueError(f"frames={self.frames}, hold={self.hold} and horizon={self.horizon} must be at least 1")
        if not 0 < self.discount <= 1:
            raise ValueError(f"discount={self.discount} must be in (0, 1]")


class World(Protocol):
    """What the search asks of a simulator."""

    n_actions: int

    def save(self) -> Any:
        """The state it is in."""
        ...

    def load(self, state: Any) -> None:
        """Return to a saved state."""
        ...

    def step(self, action: int, time: int) -> tuple[float, bool, bool]:
        """(reward, a life was lost, the episode is over) of one step, `time` steps after the root."""
        ...

    def features(self) -> np.ndarray:
        """Of the present state, uint8 (n,)."""
        ...

    def trace(self) -> Hashable:
        """Something by which the present state is known again."""
        ...


@dataclass(eq=False, slots=True)
class Node:
    """A state of the search tree and the edge that leads to it: one action, held for some steps."""

    state: Any
    features: np.ndarray                                       # uint8 (n,)
    reward: float = 0.0                                        # on the edge, discounted to its start
    discount: float = 1.0                                      # of what comes after the edge
    steps: int = 0                                             # length of the edge
    ended: bool = False                                        # a life was lost, or the episode is over
    trail: list[Hashable] = field(default_factory=list)        # World.trace() after each step of the edge
    children: dict[int, "Node"] = field(default_factory=dict)  # action -> node
    value: float = 0.0                                         # of the best branch below
    met: int = -1                                              # last search that came here
    closed: int = -1                                           # last search that has nothing more to find here


class Search:
    """Rollout IW(1) from `root`; a part of the tree may become the next tree, see `kept`.

    Args:
        world: the simulator; it is moved about freely.
        steps: how many steps an edge of the tree has.
        cost: frames of one step.
    """

    def __init__(self, world: World, config: SearchConfig, random: np.random.Generator, steps: int = 1, cost: int = 1) -> None:
        self.world, self.config, self.random, self.steps, self.cost = world, config, random, steps, cost
        self.root: Node | None = None
        self.here: Node | None = None     # the node whose state the world is in
        self.scale = 0.0                  # largest reward of one step so far
        self.number = self.frames = 0     # searches; frames emulated in this one

    def start(self, state: Any) -> None:
        """Forget the tree and plan from this state."""
        self.world.load(state)
        self.root = self.here = Node(state, self.world.features())

    def plan(self) -> int:
        """The first action of the best branch found; ties are broken at random."""
        assert self.root is not None
        self.number += 1
        self.frames = 0
        self.depths = np.full((len(self.root.features), 256), UNMET, np.int32)   # of each (byte, value): where it was met first
        self.bytes = np.arange(len(self.root.features))
        self._is_novel(self.root, 0)
        while self.frames < self.config.frames and self.root.closed != self.number:
            self._rollout(self.root)
        worth = {action: child.reward + child.discount * child.value for action, child in self.root.children.items()}
        best = max(worth.values())
        return int(self.random.choice([action for action, value in worth.items() if value == best]))

    def _rollout(self, root: Node) -> None:
        """Follow random actions from the root to a state that ends a branch, and carry its reward back."""
        path, depth = [root], 0
        while True:
            node = path[-1]
            open_actions = [action for action in range(self.world.n_actions)
                            if action not in node.children or node.children[action].closed != self.number]
            action = open_actions[int(self.random.random() * len(open_actions))]
            child = node.children.get(action)
            if child is None:
                if self.frames >= self.config.frames:
                    break
                child = node.children[action] = self._expand(node, action, depth)
            depth += child.steps
            path.append(child)
            if child.ended or depth >= self.config.horizon or not self._is_novel(child, depth):
                child.closed = self.number
                break
        for node in reversed(path):
            children = node.children.values()
            if children:
                node.value = max(child.reward + child.discount * child.value for child in children)
            if len(children) == self.world.n_actions and all(child.closed == self.number for child in children):
                node.closed = self.number

    def _expand(self, node: Node, action: int, depth: int) -> Node:
        """Hold an action for as long as an edge is, or until a life is lost."""
        if self.here is not node:
            self.world.load(node.state)
        total, discount, ended = 0.0, 1.0, False
        trail: list[Hashable] = []
        while len(trail) < self.steps and not ended:
            reward, dead, over = self.world.step(action, depth + len(trail))
            trail.append(self.world.trace())
            self.frames += self.cost
            self.scale = max(self.scale, abs(reward))
            total += discount * (reward - (self.scale or 1.0) * dead)
            discount *= self.config.discount
            ended = dead or over
        self.here = Node(self.world.save(), self.world.features(), total, discount, len(trail), ended, trail)
        return self.here

    def _is_novel(self, node: Node, depth: int) -> bool:
        """Whether some byte has a value that was met nowhere as near to the root; met again: nowhere nearer."""
        known = self.depths[self.bytes, node.features]
        if node.met == self.number:
            return bool((known >= depth).any())
        node.met = self.number
        self.depths[self.bytes, node.features] = np.minimum(known, depth)
        return bool((known > depth).any())


class Console:
    """A second emulator that a plan moves about in, as the steps of an AtariGame would.

    A state is (emulator's state, button that the console saw last).
    """

    def __init__(self, game: Any) -> None:
        import ale_py

        self.game = game
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", 0.0)
        self.ale.setInt("max_num_frames_per_episode", game.ale.getInt("max_num_frames_per_episode"))
        self.ale.loadROM(game.rom)
        self.n_actions = len(game.actions)
        self.held = game.held
        self.repeats = np.zeros((0, game.frame_skip), bool)   # which frames repeat the button before, (step, frame)

    def save(self) -> tuple[Any, Any]:
        return self.ale.cloneState(), self.held

    def load(self, state: tuple[Any, Any]) -> None:
        emulator, self.held = state
        self.ale.restoreState(emulator)

    def step(self, action: int, time: int) -> tuple[float, bool, bool]:
        button, lives, reward = self.game.actions[action], self.ale.lives(), 0.0
        for repeat in self.repeats[time][::-1]:   # AtariGame reads them from the last to the first
            self.held = self.held if repeat else button
            reward += self.ale.act(self.held)
            if self.ale.game_over():
                break
        return reward, self.ale.lives() < lives, self.ale.game_over()

    def features(self) -> np.ndarray:
        return self.ale.getRAM()

    def trace(self) -> Hashable:
        return trace(self.ale, self.held)


def trace(ale: Any, held: Any) -> Hashable:
    """By which a state is known again, short of copying it."""
    return ale.getFrameNumber(), held, ale.getRAM().tobytes()


def planner(env: gym.Env, seed: int, config: SearchConfig) -> Controller:
    """Plan from wherever the game is. A plan is followed while the game goes as it says, and made anew where it does not.

    An episode depends on its seed alone.
    """
    game: Any = env.unwrapped
    console = Console(game)
    random = np.random.default_rng([seed, 5])   # 5: no other stream of this seed, see experts.action_sampler
    search = Search(console, config, random, max(1, config.hold // game.frame_skip), game.frame_skip)
    plan: Node | None = None
    action = passed = 0   # what is being held, and for how many steps it was

    def act(observation: Any) -> int:
        nonlocal plan, action, passed
        passed += 1
        if plan is not None and passed < plan.steps and plan.trail[passed - 1] == trace(game.ale, game.held):
            return action
        state = game.ale.cloneState()
        search.root = kept(search.root, state, game.held)
        if search.root is None:
            search.start((state, game.held))
        draws = copy.deepcopy(game.np_random).random((config.horizon + search.steps, game.frame_skip))
        console.repeats = draws < (game.stickiness if config.knows_sticky else 0.0)
        action, passed = search.plan(), 0
        plan = search.root.children[action] if search.root else None
        return action

    return act


def kept(root: Node | None, state: Any, held: Any) -> Node | None:
    """The part of the tree that begins at a state; None where the tree does not know it."""
    for child in root.children.values() if root else ():
        if not child.ended and child.state[1] == held and child.state[0].equals(state):
            return child
    return None


iw = partial(planner, config=SearchConfig())   # the expert of the games that it was measured to play well, see atari.py


def planning_player(task: Task, frames: str) -> Start:
    """`iw:FRAMES`: any game, planning for so many raw frames before each choice.

    Raises:
        ValueError: not an Atari game, or no number of frames.
    """
    if task.family != "atari":
        raise ValueError(f"iw:{frames} plans over copies of the Atari emulator; {task.name} is of the family {task.family!r}")
    if not frames.isdecimal() or not int(frames):
        raise ValueError(f"iw:{frames}: {frames!r} is not a number of frames to emulate for each choice; try iw:400")
    return partial(planner, config=SearchConfig(frames=int(frames)))
