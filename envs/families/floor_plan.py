"""The shortest ways over a floor of walls and things, for the experts of the 3-D worlds.

The floor is cut into cells; `Floor.clearance` says how far each is from the next wall or thing, and Dijkstra's algorithm
over the cells where the body fits gives the way left from each of them to the nearest cell of the goal. Lengths are metres,
whatever the world calls them.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt, map_coordinates
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

CELL = 0.12      # metres; a step is 0.15
REACH = 2.5      # metres beyond which distances do not matter
MARGIN = 0.1     # metres that the planned way keeps from walls and things, besides the body's radius
# The eight neighbours of a cell and the eight knight's moves: ways are at most 3 % longer than straight ones.
NEIGHBOURS = [(1, 0), (0, 1), (1, 1), (1, -1), (2, 1), (1, 2), (2, -1), (1, -2)]


class Floor:
    """A flat world as a grid of cells.

    Args:
        low, high: its corners, (2,) in metres.
        walls: segments (start, end), each (2,).
        things: (place (2,), radius) of what stands in the way.
    """

    def __init__(self, low: np.ndarray, high: np.ndarray, walls: Iterable[Any],
                 things: Iterable[tuple[np.ndarray, float]] = ()) -> None:
        self.low = np.asarray(low, float)
        self.shape = tuple((np.ceil((high - self.low) / CELL) + 1).astype(int))
        self.cells = self.low + CELL * np.stack(np.meshgrid(*map(np.arange, self.shape), indexing="ij"), axis=-1)
        self.clearance = np.full(self.shape, REACH)             # metres, negative inside things
        for start, end in walls:
            self._block(np.asarray(start, float), np.asarray(end, float), 0.0)
        self.walls = self.clearance.copy()                      # the same without things
        for place, radius in things:
            self._block(place, place, radius)

    def _block(self, start: np.ndarray, end: np.ndarray, radius: float) -> None:
        """Note the distance to the surface around a segment, in the cells where it can be the least."""
        low, high = np.minimum(start, end) - radius - REACH, np.maximum(start, end) + radius + REACH
        first, last = (np.clip((edge - self.low) / CELL, 0, self.shape).astype(int) for edge in (low, high))
        window = slice(first[0], last[0] + 1), slice(first[1], last[1] + 1)
        along = end - start
        share = np.clip(((self.cells[window] - start) @ along) / max(along @ along, 1e-9), 0, 1)
        distance = np.linalg.norm(self.cells[window] - start - share[..., None] * along, axis=-1) - radius
        self.clearance[window] = np.minimum(self.clearance[window], distance)

    def clear(self, places: np.ndarray, of: np.ndarray | None = None) -> np.ndarray:
        """Clearance, or what else the cells hold, at n places of any shape: (n..., 2) -> (n...), interpolated."""
        cells = np.moveaxis((places - self.low) / CELL, -1, 0)
        return map_coordinates(self.clearance if of is None else of, cells, order=1, mode="nearest")


class Way:
    """The shortest ways to a goal from everywhere.

    Args:
        floor: where to walk.
        goal: bool (rows, columns), the floor's cells where a way may end.
        radius: of the body, metres.
        roomy: clearance below which a way is avoided where there is another, metres.
    """

    def __init__(self, floor: Floor, goal: np.ndarray, radius: float, roomy: float = 0.0) -> None:
        self.floor, self.radius = floor, radius
        free = floor.clearance >= radius + MARGIN
        if not (goal & free).any():
            free = floor.clearance >= radius + 0.01
        price = np.where(floor.clearance < roomy, 3.0, 1.0)
        number = np.arange(free.size).reshape(free.shape)
        tails, heads, lengths = [], [], []
        for dx, dz in NEIGHBOURS:
            here = slice(None, -dx or None), slice(max(-dz, 0), -dz if dz > 0 else None)
            there = slice(dx, None), slice(max(dz, 0), dz if dz < 0 else None)
            both = free[here] & free[there]
            tails.append(number[here][both])
            heads.append(number[there][both])
            lengths.append(CELL * math.hypot(dx, dz) * (price[here][both] + price[there][both]) / 2)
        graph = csr_array((np.concatenate(lengths), (np.concatenate(tails), np.concatenate(heads))), (free.size, free.size))
        ends = number[goal & free]
        if len(ends) == 0:   # nobody can stand there: as near as one gets
            ends = np.array([np.where(free, distance_transform_edt(~goal), np.inf).argmin()])
        left, self.next, _ = dijkstra(graph, directed=False, indices=ends, min_only=True, return_predecessors=True)
        reachable = np.isfinite(left).reshape(free.shape)
        self.nearest = number[tuple(distance_transform_edt(~reachable, return_distances=False, return_indices=True))]

    def aim(self, place: np.ndarray, sight: float) -> np.ndarray:
        """The farthest point of the way from `place`, (2,), that lies in a straight line, `sight` metres ahead at most."""
        cells = self.floor.cells.reshape(-1, 2)
        row, column = np.clip(np.rint((place - self.floor.low) / CELL).astype(int), 0, np.array(self.floor.shape) - 1)
        cell = int(self.nearest[row, column])
        way = [cells[cell]]
        while (cell := int(self.next[cell])) >= 0 and len(way) * CELL < sight:
            way.append(cells[cell])
        least, most = 0, len(way) - 1                    # bisection: what is seen of a way is mostly its first part
        while least < most:
            middle = (least + most + 1) // 2
            least, most = (middle, most) if self._in_sight(place, way[middle]) else (least, middle - 1)
        return way[least]

    def _in_sight(self, start: np.ndarray, end: np.ndarray) -> bool:
        count = int(np.linalg.norm(end - start) / 0.1) + 2
        clear = self.floor.clear(start + np.linspace(0, 1, count)[:, None] * (end - start))
        return bool((clear >= min(self.radius + MARGIN / 2, clear[0] - 0.005)).all())
