"""Experts for MiniGrid and BabyAI: a planner that sees the whole grid, and BabyAI's own bot.

The planner serves the `MiniGrid-*` ids and the four BabyAI levels that are beyond the bot. It searches with
Dijkstra's algorithm over (column, row, heading), first as if things could be walked through and locked doors opened, at a
price; what stands on the cheapest way is then dealt with: a thing is carried aside, for a locked door the key is fetched,
out of the box that hides it if need be. Every plan starts from what is there, so what noise has changed is allowed for.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator
from math import inf
from typing import Any

import gymnasium as gym

from ..experts import FallbackAction, action_sampler
from ..registry import Controller, Start

LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE, DONE = range(7)   # minigrid.core.actions
AHEAD = ((1, 0), (0, 1), (-1, 0), (0, -1))                    # heading -> (columns, rows)
RING = ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1))   # around a cell; the even ones are beside it
CARRY_ASIDE, FETCH_KEY = 30, 100   # price in steps of a thing and of a locked door on the way; only the order matters
DEEPEST = 8                        # obstacles before obstacles; more than one was not seen
GIVE_UP = 10                       # random actions before the next attempt, where there is no plan

Cell = tuple[int, int]             # (column, row)
State = tuple[int, int, int]       # (column, row, heading)
Aim = Callable[[State], bool]      # whether the agent is to be there, heading so


class NoWay(Exception):
    """There is no plan, or none that the planner finds."""


class Planner:
    """Plans in one world. Each method gives the actions up to the next turn of events, at least one, or raises NoWay.

    `touch` is False where touching a wrong thing ends the episode: then all things are walked around.
    """

    def __init__(self, world: Any, touch: bool) -> None:
        self.world, self.touch = world, touch
        self.has_looked = False   # for MiniGrid-Memory

    @property
    def state(self) -> State:
        """Where the agent is."""
        column, row = self.world.agent_pos
        return int(column), int(row), int(self.world.agent_dir)

    def walk(self, aim: Aim, *then: int, depth: int = 0) -> list[int]:
        """Go to the nearest state in `aim` and do `then`; or else get the first obstacle out of the way."""
        actions: list[int] = []
        for action, cell in self._way(aim, self.touch):
            if action == FORWARD and self._toll(cell, self.touch):
                return self._remove(cell, depth)
            actions += [TOGGLE, FORWARD] if action == FORWARD and self._is_closed_door(cell) else [action]
        return [*actions, *then]

    def take(self, *cells: Cell, depth: int = 0) -> list[int]:
        """Pick up what lies in the nearest of the cells, with free hands."""
        if not cells:
            raise NoWay
        if not self.world.carrying:
            return self.walk(facing(*cells), PICKUP, depth=depth)
        way = {cell for _, cell in self._way(facing(*cells), self.touch)}
        things = [thing for cell in way if (thing := self._at(cell)) is not None]
        if any(thing.type == "door" and thing.is_locked and not self._needs_key(thing) for thing in things):
            return self.walk(facing(*cells), depth=depth)   # the key in the hand is needed on the way
        return self.put_down(off=way)

    def put_down(self, *wanted: Cell, off: Iterable[Cell] = ()) -> list[int]:
        """Drop what is carried on one of the wanted cells; without these, where it is in nobody's way and `off` this one."""
        free = {cell for cell, thing in self._things() if thing is None}
        if wanted:
            places = free.intersection(wanted)
        else:
            places = {cell for cell in free.difference(off) if not self._is_narrow(cell)} or free
        touch, self.touch = self.touch, False   # hands are full: nothing can be moved on the way
        try:
            return self.walk(facing(*places), DROP)
        finally:
            self.touch = touch

    def open(self, door: Cell) -> list[int]:
        """Open a door, with its key if it is locked."""
        return self._remove(door) if self._needs_key(self._at(door)) else self.walk(facing(door), TOGGLE)

    def where(self, is_it: Callable[[Any], bool]) -> list[Cell]:
        """Cells of all things of a kind."""
        return [cell for cell, thing in self._things() if thing is not None and is_it(thing)]

    def _remove(self, cell: Cell, depth: int = 0) -> list[int]:
        obstacle = self._at(cell)
        if depth == DEEPEST:
            raise NoWay
        if obstacle.type != "door":
            return self.take(cell, depth=depth + 1)

        def is_key(thing: Any) -> bool:
            return thing is not None and thing.type == "key" and thing.color == obstacle.color

        if keys := self.where(is_key):
            return self.take(*keys, depth=depth + 1)
        return self.walk(facing(*self.where(lambda thing: is_key(thing.contains))), TOGGLE, depth=depth + 1)

    def _way(self, aim: Aim, touch: bool) -> list[tuple[int, Cell]]:
        """The cheapest turns and steps to a state in `aim`, each with the cell where the agent is after it."""
        came: dict[State, tuple[State, int] | None] = {}
        waiting: list[tuple[float, int, State, tuple[State, int] | None]] = [(0, 0, self.state, None)]
        while waiting:
            cost, _, state, origin = heapq.heappop(waiting)
            if state in came:
                continue
            came[state] = origin
            if aim(state):
                break
            column, row, heading = state
            entered = ahead(state)
            for action, follower, price in (
                    (LEFT, (column, row, (heading - 1) % 4), 1.0), (RIGHT, (column, row, (heading + 1) % 4), 1.0),
                    (FORWARD, (*entered, heading), 1 + self._is_closed_door(entered) + self._toll(entered, touch))):
                if price < inf and follower not in came:
                    heapq.heappush(waiting, (cost + price, action, follower, (state, action)))
        else:
            raise NoWay
        way = []
        while origin := came[state]:
            way.append((origin[1], state[:2]))
            state = origin[0]
        return way[::-1]

    def _toll(self, cell: Cell, touch: bool) -> float:
        """Extra price of entering a cell: infinite where nothing helps."""
        thing = self._at(cell)
        if thing is None or thing.type in ("goal", "floor"):
            return 0
        if thing.type == "door":
            return (FETCH_KEY if touch else inf) if self._needs_key(thing) else 0
        return CARRY_ASIDE if touch and thing.can_pickup() else inf

    def _needs_key(self, door: Any) -> bool:
        hand = self.world.carrying
        return door.is_locked and not (hand and hand.type == "key" and hand.color == door.color)

    def _is_closed_door(self, cell: Cell) -> bool:
        thing = self._at(cell)
        return thing is not None and thing.type == "door" and not thing.is_open

    def _is_narrow(self, cell: Cell) -> bool:
        """Whether a thing in this cell would stand before a door, or cut the free cells around it in two."""
        ring = [self._at(beside) for beside in around(cell, RING)]
        changes = sum((ring[i] is None) != (ring[i - 1] is None) for i in range(8))
        return changes > 2 or any(thing is not None and thing.type == "door" for thing in ring[::2])

    def _at(self, cell: Cell) -> Any:
        grid = self.world.grid
        inside = 0 <= cell[0] < grid.width and 0 <= cell[1] < grid.height
        return grid.get(*cell) if inside else grid.get(0, 0)   # beyond the doors that lead out all is wall, as the corner is

    def _things(self) -> Iterator[tuple[Cell, Any]]:
        width = self.world.grid.width
        return (((place % width, place // width), thing) for place, thing in enumerate(self.world.grid.grid))


def ahead(state: State) -> Cell:
    """The cell that an agent in this state looks at."""
    column, row, heading = state
    return column + AHEAD[heading][0], row + AHEAD[heading][1]


def around(cell: Cell, ring: Iterable[tuple[int, int]]) -> list[Cell]:
    """Neighbours of a cell."""
    return [(cell[0] + x, cell[1] + y) for x, y in ring]


def facing(*cells: Cell) -> Aim:
    """Stand before one of the cells and look at it."""
    return lambda state: ahead(state) in cells


def on(cells: Iterable[Cell]) -> Aim:
    """Stand on one of the cells."""
    places = set(cells)
    return lambda state: state[:2] in places


def reach_goal(planner: Planner) -> list[int]:
    """Walk onto the green square."""
    return planner.walk(on(planner.where(lambda thing: thing.type == "goal")))


def take_object(planner: Planner) -> list[int]:
    """Pick up the one thing that the world calls its object."""
    return planner.take(*planner.where(lambda thing: thing is planner.world.obj))


def fetch(planner: Planner) -> list[int]:
    """Pick up the nearest thing that the mission describes."""
    kind = planner.world.targetType, planner.world.targetColor
    return planner.take(*planner.where(lambda thing: (thing.type, thing.color) == kind))


def put_near(planner: Planner) -> list[int]:
    """Carry one thing to another, on any of the eight cells around it."""
    world = planner.world
    if world.carrying:
        return planner.put_down(*around(tuple(world.target_pos), RING))
    return planner.take(*planner.where(lambda thing: (thing.type, thing.color) == (world.move_type, world.moveColor)))


def put_beside(planner: Planner) -> list[int]:
    """Carry one thing to another, on a cell that shares an edge with it: BabyAI's "put ... next to ..."."""
    (thing,), (other,) = planner.world.instrs.desc_move.obj_set, planner.world.instrs.desc_fixed.obj_set
    if planner.world.carrying is not thing:
        return planner.take(*planner.where(lambda it: it is thing))
    targets = planner.where(lambda it: it is other)   # none, if it was a box and noise has opened it
    return planner.put_down(*(cell for target in targets for cell in around(target, RING[::2])))


def stop_before(planner: Planner) -> list[int]:
    """Stand before the target, look at it and say so."""
    return planner.walk(facing(tuple(planner.world.target_pos)), DONE)


def open_door(planner: Planner) -> list[int]:
    """Open the world's one door."""
    (cell,) = planner.where(lambda thing: thing.type == "door")
    return planner.open(cell)


def red_then_blue(planner: Planner) -> list[int]:
    """Open the red door, then the blue one."""
    door = planner.world.blue_door if planner.world.red_door.is_open else planner.world.red_door
    return planner.open(*planner.where(lambda thing: thing is door))


def look_then_match(planner: Planner) -> list[int]:
    """Look at the thing in the first room, which is unseen from the corridor, and then go to its like."""
    middle = planner.world.height // 2

    def looks(state: State) -> bool:   # the thing lies at (1, middle - 1)
        return state[0] <= 3 and state[1] == middle and AHEAD[state[2]] == (-1, 0)

    planner.has_looked = planner.has_looked or looks(planner.state)
    return planner.walk(on([planner.world.success_pos]) if planner.has_looked else looks)


def planned(goal: Callable[[Planner], list[int]], *, touch: bool = True, moving: bool = False) -> Start:
    """An expert that plans for one kind of goal.

    Args:
        touch: whether things may be picked up to make way.
        moving: the world changes by itself: plan anew at each step, and wait (by turning) where there is no way.
    """

    def start(env: gym.Env, seed: int) -> Controller:
        planner = Planner(env.unwrapped, touch)
        sample = action_sampler(env.action_space, seed, stream=2)
        plan: list[int] = []
        last: int | None = None

        def act(observation: Any) -> int:
            nonlocal plan, last
            if moving or not plan or env.get_wrapper_attr("last_action") != last:   # else all is as planned
                try:
                    plan = goal(planner)
                except NoWay:
                    plan = [LEFT] if moving else [FallbackAction(sample()) for _ in range(GIVE_UP)]
            last, *plan = plan
            return last

        return act

    return start


PLANNERS: dict[str, Start] = {
    "planner-goal": planned(reach_goal),
    "planner-goal-moving": planned(reach_goal, touch=False, moving=True),
    "planner-take": planned(take_object),
    "planner-fetch": planned(fetch, touch=False),
    "planner-put-near": planned(put_near, touch=False),
    "planner-put-beside": planned(put_beside),
    "planner-stop-before": planned(stop_before, touch=False),
    "planner-unlock": planned(open_door),
    "planner-red-blue": planned(red_then_blue),
    "planner-memory": planned(look_then_match, touch=False),
}


class _Stack(list[Any]):
    """The bot's subgoals; plans that go in circles, for which the bot has no check, end in an error."""

    room = 100   # pushes per action; no BabyAI level needed more than 10 without noise

    def append(self, subgoal: Any) -> None:
        self.room -= 1
        if self.room < 0:
            raise RuntimeError("the bot plans in circles")
        super().append(subgoal)


def babyai_bot(env: gym.Env, seed: int) -> Controller:
    """BabyAI's bot, told what was really executed. Where it gives up, it starts anew from what is there.

    After some accidents (a random action opened the box that was its goal, a dropped thing blocks a door) it cannot plan at
    all: then actions are random until it can.
    """
    from minigrid.utils.baby_ai_bot import BabyAIBot

    sample = action_sampler(env.action_space, seed, stream=2)
    bot: Any = None

    def plan(executed: int | None) -> int:
        nonlocal bot
        bot = BabyAIBot(env.unwrapped) if executed is None else bot
        bot.stack = _Stack(bot.stack)
        return int(bot.replan(executed))

    def act(observation: Any) -> int:
        nonlocal bot
        for executed in (env.get_wrapper_attr("last_action"), None) if bot else (None,):
            try:
                return plan(executed)
            except Exception:  # noqa: BLE001, S112  AssertionError, AttributeError, DisappearedBoxError, ...
                continue
        bot = None
        return FallbackAction(sample())

    return act
