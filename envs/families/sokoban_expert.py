"""Solver of Sokoban levels: A* over pushes (Junghanns and Schaeffer, doi:10.1016/S0004-3702(01)00109-6).

A node is the boxes' cells and the player's; an edge is a walk to a box and one push, and costs its steps: the plan has few
steps, not only few pushes. The lower bound is the cheapest assignment of boxes to targets, counting pushes alone. Boxes in
cells from which no target can be reached are pruned, and so are boxes that are frozen off their targets.
"""

from collections.abc import Callable, Collection, Iterator
from heapq import heappop, heappush
from itertools import permutations
from typing import Any

import gymnasium as gym

from ..experts import FallbackAction, action_sampler
from ..registry import Controller

Cell = tuple[int, int]            # (row, column)
Boxes = frozenset[Cell]
Node = tuple[Boxes, Cell]         # where the boxes are, where the player is

MOVES: tuple[Cell, ...] = ((-1, 0), (1, 0), (0, -1), (0, 1))   # up, down, left, right: the actions
NEVER = 10**6
WEIGHT = 1.5   # of the lower bound: 3 times faster than 1; of 240 levels, one plan was longer, by two steps


def solver(env: gym.Env, seed: int) -> Controller:
    """Follow a plan; plan anew when something else was done. Once nothing can be won, play at random."""
    game: Any = env.unwrapped
    sample = action_sampler(env.action_space, seed, stream=2)
    plan: list[int] | None = None
    expected: Node | None = None

    def act(observation: Any) -> int:
        nonlocal plan, expected
        now = frozenset(game.boxes), game.player
        if expected is None or (plan is not None and now != expected):
            plan = solve(game.level.floor, game.level.targets, *now)
        if not plan:
            expected = now
            return FallbackAction(sample())
        action = plan.pop(0)
        expected = after(now, action)
        return action

    return act


def step(cell: Cell, action: int, times: int = 1) -> Cell:
    """The cell that lies so many steps away; a negative number goes backwards."""
    down, right = MOVES[action]
    return cell[0] + times * down, cell[1] + times * right


def after(node: Node, action: int) -> Node:
    """The position after an action of a plan, which never runs into anything."""
    boxes, player = node
    player = step(player, action)
    return (boxes ^ {player, step(player, action)} if player in boxes else boxes), player


def walks(player: Cell, floor: Collection[Cell], boxes: Collection[Cell]) -> dict[Cell, int]:
    """Every cell that the player can reach without a push, and the steps to it."""
    steps = {player: 0}
    queue = [player]
    for cell in queue:
        for action in range(4):
            following = step(cell, action)
            if following in floor and following not in boxes and following not in steps:
                steps[following] = steps[cell] + 1
                queue.append(following)
    return steps


def way(steps: dict[Cell, int], cell: Cell) -> list[int]:
    """The actions of a shortest walk to a cell, from what `walks` returned."""
    actions: list[int] = []
    while steps[cell]:
        action = next(a for a in range(4) if steps.get(step(cell, a, -1), NEVER) == steps[cell] - 1)
        actions.append(action)
        cell = step(cell, action, -1)
    return actions[::-1]


def solve(floor: frozenset[Cell], targets: Boxes, boxes: Boxes, player: Cell, max_nodes: int = 100_000) -> list[int] | None:
    """Actions that solve a position, at most `WEIGHT` times the fewest; None if it is lost, or `max_nodes` did not suffice."""
    bound = _lower_bound(floor, targets)
    start = boxes, player
    came: dict[Node, tuple[Node, Cell, int]] = {}             # node -> (the one before, where the player went, its push)
    cost = {start: 0}
    queue: list[tuple[float, int, Node]] = [(bound(boxes), 0, start)]
    for _ in range(max_nodes):
        if not queue:
            return None
        _, spent, node = heappop(queue)
        if node[0] == targets:
            return _plan(floor, came, node)
        if spent > cost[node]:
            continue
        boxes, player = node
        steps = walks(player, floor, boxes)
        for box, action in _pushes(steps, floor, boxes):
            moved = boxes - {box} | {step(box, action)}
            total = spent + steps[step(box, action, -1)] + 1
            left = bound(moved)
            if left >= NEVER or total >= cost.get((moved, box), NEVER) or is_lost(floor, targets, moved):
                continue
            cost[moved, box] = total
            came[moved, box] = node, step(box, action, -1), action
            heappush(queue, (total + WEIGHT * left, total, (moved, box)))
    return None


def _pushes(steps: dict[Cell, int], floor: frozenset[Cell], boxes: Boxes) -> Iterator[tuple[Cell, int]]:
    for box in sorted(boxes):
        for action in range(4):
            ahead = step(box, action)
            if step(box, action, -1) in steps and ahead in floor and ahead not in boxes:
                yield box, action


def _plan(floor: frozenset[Cell], came: dict[Node, tuple[Node, Cell, int]], node: Node) -> list[int]:
    parts: list[list[int]] = []
    while node in came:
        node, cell, push = came[node]
        parts.append([*way(walks(node[1], floor, node[0]), cell), push])
    return [action for part in reversed(parts) for action in part]


def _lower_bound(floor: frozenset[Cell], targets: Boxes) -> Callable[[Boxes], int]:
    """Boxes -> pushes that they need at least, NEVER if one cannot reach any target that the others leave."""
    tables = [pushes_to(target, floor) for target in sorted(targets)]
    known: dict[Boxes, int] = {}

    def bound(boxes: Boxes) -> int:
        if boxes not in known:
            rows = [[table.get(box, NEVER) for table in tables] for box in boxes]
            known[boxes] = min(sum(row[target] for row, target in zip(rows, order, strict=True))
                               for order in permutations(range(len(tables))))
        return known[boxes]

    return bound


def pushes_to(target: Cell, floor: Collection[Cell]) -> dict[Cell, int]:
    """Cells from which a box alone can be pushed to a target, and the pushes; found by pulling it from there."""
    pushes = {target: 0}
    queue = [target]
    for cell in queue:
        for action in range(4):
            box, player = step(cell, action, -1), step(cell, action, -2)
            if box in floor and player in floor and box not in pushes:
                pushes[box] = pushes[cell] + 1
                queue.append(box)
    return pushes


def is_lost(floor: Collection[Cell], targets: Boxes, boxes: Boxes) -> bool:
    """Do boxes off their targets block each other, and the walls them, so that they never move again?"""
    stuck = set(boxes)

    def free(cell: Cell, action: int) -> bool:
        return all(step(cell, action, sign) in floor and step(cell, action, sign) not in stuck for sign in (1, -1))

    while movable := {box for box in stuck if free(box, 0) or free(box, 2)}:
        stuck -= movable
    return not stuck <= targets
