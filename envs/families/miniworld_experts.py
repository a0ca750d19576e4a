"""Experts for MiniWorld: they know the floor plan, find the shortest way on a grid and walk along it.

Each step aims at the farthest point of the shortest way (floor_plan.py) that lies in a straight line, and turns or walks.
Nothing is remembered but a short evasion where a step is blocked, so that an expert goes on from wherever noise has led it.

On seeds 20000 to 20029, of which none was looked at before, all episodes of PutNext, FourRooms, MazeS3 and Sign succeed; on
10000 to 10099 PutNext does 99 times; CollectHealth is survived to its end by 25 of the seeds 10000 to 10029.
"""

import math
from typing import Any

import gymnasium as gym
import numpy as np

from ..experts import action_sampler
from .floor_plan import MARGIN, Floor, Way

LEFT, RIGHT, FORWARD, BACK, PICKUP, DROP, DONE = 0, 1, 2, 3, 4, 5, 7   # MiniWorldEnv.Actions
TURN = {1: LEFT, -1: RIGHT}


def spot(thing: Any) -> np.ndarray:
    """Where an entity stands, (x, z) in metres."""
    return np.array([thing.pos[0], thing.pos[2]])


class Walker:
    """The body of one episode: it turns, walks and evades; subclasses know where to and what to do there."""

    sight = 12.0   # metres

    def __init__(self, env: gym.Env, seed: int) -> None:
        world: Any = env.unwrapped
        self.world = world
        self.sample = action_sampler(env.action_space, seed, stream=2)
        self.known: Any = None
        self.queue: list[int] = []
        self.turn = math.radians(world.params.sample(None, "turn_step"))
        self.step = float(world.params.sample(None, "forward_step"))   # metres

    def __call__(self, observation: Any) -> int:
        if self.queue:
            return self.queue.pop(0)
        if (scene := self.scene()) != self.known:
            self.known, self.way = scene, self.plan()
        return self.act()

    def act(self) -> int:
        """The action of a body that has a plan and no evasion under way."""
        return self.head_for(self.way.aim(self.place, self.sight))

    @property
    def place(self) -> np.ndarray:
        """Where the body is, (x, z)."""
        return spot(self.world.agent)

    def scene(self) -> Any:
        """What the plan depends on, in a form that can be compared."""
        carried = self.world.agent.carrying
        return carried, tuple((id(thing), *thing.pos) for thing in self.others() if thing is not carried)

    def others(self) -> list[Any]:
        return [thing for thing in self.world.entities if thing is not self.world.agent]

    def floor(self, extra: float = 0.0, harmless: Any = None) -> Floor:
        """The floor with all things, `extra` metres wider, but for the harmless and the carried one."""
        world = self.world
        street = getattr(world, "street", None)
        rooms = [room for room in world.rooms if room is not street]
        things = [(spot(thing), thing.radius + extra * (thing is not harmless))
                  for thing in self.others() if thing is not world.agent.carrying and thing.radius]
        return Floor(np.array([min(room.min_x for room in rooms), min(room.min_z for room in rooms)]),
                     np.array([max(room.max_x for room in rooms), max(room.max_z for room in rooms)]),
                     np.asarray(world.wall_segs)[:, :, [0, 2]], things)

    def plan(self) -> Way:
        """The ways to the goal, made anew when the scene changes."""
        raise NotImplementedError

    def error(self, target: np.ndarray) -> float:
        """Angle by which the body must turn left to look at `target`, radians in [-pi, pi)."""
        dx, dz = target - self.place
        return (math.atan2(-dz, dx) - self.world.agent.dir + math.pi) % (2 * math.pi) - math.pi

    def head_for(self, target: np.ndarray) -> int:
        """Turn to a point or, where that is done, take a step towards it."""
        error = self.error(target)
        if abs(error) <= self.turn / 2 + 0.01:
            return FORWARD if self.can_step(0) else self.evade(error)
        side = 1 if error > 0 else -1
        return TURN[side] if self.allowed(self.world.agent.pos, self.direction(side)) else self.evade(error)

    def direction(self, turns: int) -> np.ndarray:
        """Where the body looks after so many turns to the left, (x, y, z)."""
        angle = self.world.agent.dir + turns * self.turn
        return np.array([math.cos(angle), 0, -math.sin(angle)])

    def can_step(self, turns: int) -> bool:
        """Whether a step is free after so many turns to the left, and they are too."""
        body = self.world.agent
        ahead = body.pos + self.step * self.direction(turns)
        side = int(math.copysign(1, turns))
        return (not self.world.intersect(body, ahead, body.radius) and self.allowed(ahead, self.direction(turns))
                and all(self.allowed(body.pos, self.direction(side * n)) for n in range(1, abs(turns) + 1)))

    def allowed(self, place: np.ndarray, direction: np.ndarray) -> bool:
        """Whether, the body's own size aside, it may stand at `place`, (x, y, z), and look in `direction`."""
        street = getattr(self.world, "street", None)
        return street is None or not street.point_inside(place)

    def evade(self, error: float) -> int:
        """The free step with the fewest turns, the rest of it queued."""
        half = round(math.pi / self.turn)
        for turns in sorted(range(1 - half, half + 1), key=lambda n: (abs(n), abs(n * self.turn - error))):
            if self.can_step(turns):
                self.queue = [TURN[int(math.copysign(1, turns))]] * abs(turns) + [FORWARD]
                return self.queue.pop(0)
        return self.recover()

    def recover(self) -> int:
        """What may help where no step is free."""
        return int(self.sample())


class ToBox(Walker):
    """Walks to the red box; the episode ends there."""

    def target(self) -> Any:
        return self.world.box

    def plan(self) -> Way:
        thing, body = self.target(), self.world.agent.radius
        floor = self.floor(*self.caution())
        reach = thing.radius + body + 1.1 * self.step            # MiniWorldEnv.near
        goal = np.linalg.norm(floor.cells - spot(thing), axis=-1) < reach - 0.02
        return Way(floor, goal, body)

    def caution(self) -> tuple[float, Any]:
        """Metres to keep from all things but one, and that one."""
        return 0.0, None


class ToSign(ToBox):
    """Walks to the thing that the sign and the goal name, and comes near no other."""

    def target(self) -> Any:
        return self.world._objects[self.world._goal][self.world._color_index]

    def caution(self) -> tuple[float, Any]:
        return 1.1 * self.step, self.target()

    def allowed(self, place: np.ndarray, direction: np.ndarray) -> bool:
        return not any(np.linalg.norm(thing.pos - place) < thing.radius + self.world.agent.radius + 1.1 * self.step
                       for kind in self.world._objects for thing in kind if thing is not self.target())


class Collector(Walker):
    """Walks to the nearest thing that can be picked up, and picks it up; then to the next."""

    def wanted(self) -> list[Any]:
        """What to pick up where it is in reach."""
        return [thing for thing in self.others() if not thing.is_static]

    def chosen(self) -> list[Any]:
        """What to walk to, whichever is nearest."""
        return self.wanted()

    def plan(self) -> Way:
        floor, body = self.floor(), self.world.agent.radius
        goal = np.zeros(floor.shape, bool)
        for thing in self.chosen():
            # MiniWorld feels for things 1.5 radii ahead and in a circle of 1.2; not through walls, so not close to them.
            offset = spot(thing) - floor.cells
            distance = np.linalg.norm(offset, axis=-1)
            felt = floor.cells + 1.5 * body * offset / np.maximum(distance, 1e-9)[..., None]
            goal |= (distance < 2.7 * body + thing.radius - 0.1) & (floor.clear(felt, of=floor.walls) > 1.2 * body + 0.03)
        return Way(floor, goal, body)

    def in_reach(self) -> bool:
        world, body = self.world, self.world.agent
        felt = world.intersect(body, body.pos + body.dir_vec * 1.5 * body.radius, 1.2 * body.radius)
        return any(felt is thing for thing in self.wanted())

    def nearest(self) -> np.ndarray:
        return min((spot(thing) for thing in self.chosen()), key=lambda p: np.linalg.norm(p - self.place))

    def act(self) -> int:
        return PICKUP if self.in_reach() else self.walk()

    def walk(self) -> int:
        target = self.way.aim(self.place, self.sight)
        if np.linalg.norm(target - self.place) < self.step:      # standing on the goal: look at the thing
            target = self.nearest()
        return self.head_for(target)


class Survivor(Collector):
    """Waits beside a medkit until its health is low, and walks on to the one that has most others around it.

    Whoever takes each nearest one at once has soon emptied the neighbourhood: new ones lie anywhere.
    """

    near = 4.5   # metres: 30 steps, with time to turn, of the 49 that health lasts

    def plan(self) -> Way:
        places = np.array([spot(kit) for kit in self.wanted()])
        distance = np.linalg.norm(places - self.place, axis=1)
        around = (np.linalg.norm(places - places[:, None], axis=2) < self.near).sum(axis=1)
        best = np.where(distance < max(self.near, distance.min() + 0.01), around - distance / 10, -np.inf).argmax()
        self.target = self.wanted()[best]
        return super().plan()

    def chosen(self) -> list[Any]:
        return [self.target]

    def act(self) -> int:
        action = super().act()
        return DONE if action == PICKUP and self.world.health > 6 else action


class PutNext(Collector):
    """Fetches the red box, carries it to the yellow one and drops it there.

    What is carried floats ahead of the body and is stopped by walls and things like the body itself.
    """

    def __init__(self, env: gym.Env, seed: int) -> None:
        super().__init__(env, seed)
        red, body = self.world.red_box.radius, self.world.agent.radius
        self.ahead = 1.05 * (body + red + self.world.max_forward_step)   # MiniWorldEnv._get_carry_pos
        self.before: Any = None
        self.random = np.random.default_rng([seed, 5])   # 5: no other stream of this seed

    def wanted(self) -> list[Any]:
        return [self.world.red_box]

    def plan(self) -> Way:
        if not self.world.agent.carrying:
            return super().plan()
        red, yellow = self.world.red_box, self.world.yellow_box
        floor = self.floor()
        offset = spot(yellow) - floor.cells
        distance = np.linalg.norm(offset, axis=-1)
        touch = self.ahead + red.radius + yellow.radius
        goal = (distance > touch) & (distance < touch + 0.3)
        return Way(floor, goal, max(self.world.agent.radius, red.radius) + MARGIN, roomy=self.ahead + red.radius)

    def allowed(self, place: np.ndarray, direction: np.ndarray) -> bool:
        load = self.world.agent.carrying
        return load is None or not self.world.intersect(load, place + self.ahead * direction, load.radius)

    def would_do(self) -> bool:
        """Whether the red box would lie next to the yellow one if it were dropped now."""
        red, yellow = self.world.red_box, self.world.yellow_box
        gap = np.linalg.norm(spot(red) - spot(yellow)) - red.radius - yellow.radius
        return bool(gap < 1.1 * self.world.max_forward_step)

    def act(self) -> int:
        load = self.world.agent.carrying
        if load and (load is not self.world.red_box or self.would_do()):
            return DROP
        return self.walk() if load else super().act()

    def nearest(self) -> np.ndarray:
        return spot(self.world.yellow_box if self.world.agent.carrying else self.world.red_box)

    def walk(self) -> int:
        """Like any walk; but where the last action moved nothing, the load is stuck."""
        body = self.world.agent
        now = (*body.pos, body.dir)
        stuck, self.before = now == self.before, now
        return self.recover() if stuck else super().walk()

    def recover(self) -> int:
        """A few steps back and some turns, as chance will have it: the next try comes from elsewhere."""
        backward, turns = self.random.integers([2, 0], [9, 6])
        self.queue = [BACK] * backward + [TURN[int(self.random.choice([-1, 1]))]] * turns
        return self.queue.pop(0)
