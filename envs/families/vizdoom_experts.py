"""Experts for ViZDoom: they know where everything is, from the engine's own lists, and aim, walk or dodge by geometry.

Lengths are the engine's units, of which a body is 32 wide and 56 high; angles are degrees, counter-clockwise. One button a step
is enough for all of them; where several may be pressed at once, those who walk turn while walking.

scores.json has their means over seeds 10000 to 10019, some of which they were adjusted on. On seeds 20000 and following, of
which none was looked at before: basic 81 (30 episodes), predict_position 0.46 (30: about half of the rockets hit),
deadly_corridor 2126 (10, one of them stuck on its way), defend_the_center 24.9 (10), defend_the_line 24 (10; 30 on the others).
"""

import itertools
import math
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np

from .floor_plan import Floor, Way

METRE = 100         # units to a metre of floor_plan.py
PATIENCE = 20       # steps after which a way is planned anew though all its goals are still there
BODY = 16           # radius of the player and of all monsters here is 16 to 31
SHELL_SPEED = 20    # of a rocket, units per tic
TICS = 48           # that a dodge looks ahead
FIRING = 7.5        # tics from the trigger to the rocket's start
SLOW_TURN = 640 / 65536 * 180   # degrees per tic


class Marine:
    """One episode's player; subclasses say what it does."""

    def __init__(self, env: gym.Env, seed: int) -> None:
        scenario: Any = env.unwrapped
        scenario.reveal()
        self.scenario = scenario
        self.history: list[tuple[str, ...]] = []

    def __call__(self, observation: Any) -> Any:
        self.me = next(thing for thing in self.scenario.state.objects if thing.name == "DoomPlayer")
        self.history.append(self.press())
        return self.scenario.action(*self.history[-1])

    def press(self) -> tuple[str, ...]:
        """The buttons of this step, the most important first."""
        raise NotImplementedError

    def things(self, *names: str) -> list[Any]:
        return [thing for thing in self.scenario.state.objects if thing.name in names]

    def distance(self, thing: Any) -> float:
        return math.hypot(thing.position_x - self.me.position_x, thing.position_y - self.me.position_y)

    def error(self, x: float, y: float) -> float:
        """Degrees to turn left in order to look at a place, in [-180, 180)."""
        angle = math.degrees(math.atan2(y - self.me.position_y, x - self.me.position_x))
        return (angle - self.me.angle + 180) % 360 - 180

    def aim(self, x: float, y: float, width: float, drift: float = 0.0) -> tuple[tuple[str, ...], ...] | None:
        """The fewest steps after which a thing of this half width is straight ahead; None where six are too few.

        It may go around the player by `drift` degrees a step.
        """
        distance = math.hypot(x - self.me.position_x, y - self.me.position_y)
        error, enough = self.error(x, y), math.degrees(math.atan2(width, distance))
        held = len(list(itertools.takewhile(lambda pressed: {*pressed} & {"TURN_LEFT", "TURN_RIGHT"}, self.history[:-3:-1])))
        angles, steps = turns(held, self.scenario.frame_skip)
        fits = np.flatnonzero(np.abs(angles[:, 0] - error - drift * angles[:, 1]) < enough)
        return steps[fits[0]] if len(fits) else None

    def turn(self, error: float) -> tuple[str, ...]:
        """A step's turn is 7 degrees when the button was up before, and 12 to 14 while it is held."""
        button = "TURN_LEFT" if error > 0 else "TURN_RIGHT"
        return () if self.history and button in self.history[-1] and abs(error) < 10 else (button,)


@cache
def turns(held: int, frame_skip: int) -> tuple[np.ndarray, list[tuple[tuple[str, ...], ...]]]:
    """All ways to turn for up to six steps, the shortest first: degrees and steps, (n, 2), and the buttons of each step.

    The first 5 tics of a turn are slow, and it may change sides without a pause. That makes a few steps turn by any angle to
    a degree or so, though a single one does not.

    Args:
        held: steps for which a turn has been under way.
    """
    ways = []
    for count in range(7):
        for sides in itertools.product((1, -1, 0), repeat=count):
            angle, tics = 0.0, held * frame_skip
            for side in sides:
                for _ in range(frame_skip):
                    angle += side * (SLOW_TURN if tics < 5 else 2 * SLOW_TURN)
                    tics = tics + 1 if side else 0
            ways.append(((angle, count), tuple(((), ("TURN_LEFT",), ("TURN_RIGHT",))[side] for side in sides)))
    return np.array([angle for angle, _ in ways]), [steps for _, steps in ways]


class Sideways(Marine):
    """Steps sideways until the monster is straight ahead, and shoots."""

    def press(self) -> tuple[str, ...]:
        monsters = self.things("Cacodemon")
        if not monsters:
            return ()
        off = monsters[0].position_y - self.me.position_y
        return ("ATTACK",) if abs(off) < 24 else ("MOVE_LEFT" if off > 0 else "MOVE_RIGHT",)


class Gunner(Marine):
    """Turns to the living monster that is soonest aimed at, near ones first, and shoots when the shot would hit."""

    monsters = {"Demon": 28, "MarineChainsawVzd": 15, "DoomImp": 18, "Zombieman": 18, "ShotgunGuy": 18, "ChaingunGuy": 18}

    def press(self) -> tuple[str, ...]:
        return self.shoot(self.things(*self.monsters))

    def shoot(self, monsters: list[Any]) -> tuple[str, ...]:
        aims = [(len(steps) + self.distance(monster) / 100, steps) for monster in monsters
                if (steps := self.aim(monster.position_x, monster.position_y, self.monsters[monster.name])) is not None]
        if aims:
            _, steps = min(aims)
            return steps[0] if steps else ("ATTACK",)
        if monsters:
            nearest = min(monsters, key=self.distance)
            return self.turn(self.error(nearest.position_x, nearest.position_y))
        return ()


class Sparer(Gunner):
    """A gunner with one cartridge per monster: shoots at the nearest one only, and not twice without a pause, which spreads."""

    def press(self) -> tuple[str, ...]:
        monsters = self.things(*self.monsters)
        if not monsters:
            return ()
        nearest = min(monsters, key=self.distance)
        error = self.error(nearest.position_x, nearest.position_y)
        if abs(error) > math.degrees(math.atan2(BODY, self.distance(nearest))):
            return self.turn(error)
        return () if self.history and "ATTACK" in self.history[-1] else ("ATTACK",)


class Walker(Marine):
    """Walks to the nearest of the things it wants, around walls and what it fears."""

    wanted: tuple[str, ...] = ()
    feared: tuple[str, ...] = ()

    def __init__(self, env: gym.Env, seed: int) -> None:
        super().__init__(env, seed)
        lines = [line for sector in self.scenario.state.sectors for line in sector.lines if line.is_blocking]
        self.walls = np.array([((line.x1, line.y1), (line.x2, line.y2)) for line in lines]) / METRE
        self.known: set[int] = set()
        self.planned = -PATIENCE
        self.queue: list[tuple[str, ...]] = []
        self.places: list[np.ndarray] = []

    def press(self) -> tuple[str, ...]:
        if self.queue:
            return self.queue.pop(0)
        there = {thing.id for thing in self.things(*self.wanted)}
        if len(self.history) - self.planned >= PATIENCE or not self.known <= there:
            self.known, self.way, self.planned = there, self.plan(), len(self.history)
        if self.way is None:
            return ("TURN_LEFT",)
        place = np.array([self.me.position_x, self.me.position_y]) / METRE
        self.places = [*self.places[-7:], place]
        if len(self.places) == 8 and np.ptp(self.places, axis=0).max() < 0.02:   # against a corner
            self.places = []
            self.queue = [("TURN_LEFT",), ("TURN_LEFT",), ("MOVE_FORWARD",), ("MOVE_FORWARD",), ("MOVE_FORWARD",)]
        x, y = self.way.aim(place, 12.0) * METRE
        error = self.error(x, y)
        ahead = ("MOVE_FORWARD",) if abs(error) < 25 else ()
        return (*self.turn(error), *ahead) if abs(error) > 8 else ("MOVE_FORWARD",)

    def plan(self) -> Way | None:
        spots = [np.array([thing.position_x, thing.position_y]) / METRE for thing in self.things(*self.wanted)]
        if not spots:
            return None
        traps = [(np.array([thing.position_x, thing.position_y]) / METRE, 20 / METRE) for thing in self.things(*self.feared)]
        floor = Floor(self.walls.min(axis=(0, 1)), self.walls.max(axis=(0, 1)), self.walls, traps)
        goal = np.zeros(floor.shape, bool)
        for spot in spots:
            goal |= np.linalg.norm(floor.cells - spot, axis=-1) < 24 / METRE
        return Way(floor, goal, BODY / METRE)


class Gatherer(Walker):
    """Walks to the nearest medkit, around walls and poison."""

    wanted, feared = ("Medikit", "CustomMedikit"), ("Poison",)


class Homer(Walker):
    """Walks to the armour."""

    wanted = ("GreenArmor",)


class Corridor(Gunner, Walker):
    """Shoots who is near and in sight, then walks on to the armour."""

    wanted = ("GreenArmor",)

    def press(self) -> tuple[str, ...]:
        seen = {label.object_id for label in self.scenario.state.labels}
        near = [thing for thing in self.things(*self.monsters) if thing.id in seen and self.distance(thing) < 500]
        return self.shoot(near) if near else Walker.press(self)


class Rocketeer(Marine):
    """Waits until the place where rocket and monster will meet lies straight ahead, and fires its one rocket."""

    def __init__(self, env: gym.Env, seed: int) -> None:
        super().__init__(env, seed)
        self.seen: list[np.ndarray] = []

    def press(self) -> tuple[str, ...]:
        monsters = self.things("Cacodemon")
        if not monsters or ("ATTACK",) in self.history:          # the rocket leaves with the angle of 7 tics later
            return ()
        self.seen.append(np.array([monsters[0].position_x, monsters[0].position_y]))
        if len(self.seen) < 4:
            return ()
        speed = (self.seen[-1] - self.seen[-4]) / (3 * self.scenario.frame_skip)   # it moves in leaps, one in 3 tics
        meeting, here = self.seen[-1], np.array([self.me.position_x, self.me.position_y])
        for _ in range(3):
            meeting = self.seen[-1] + speed * (FIRING + (np.linalg.norm(meeting - here) - 42) / SHELL_SPEED)   # 42: both radii
        low, high = sorted(point.position_y for point in self.things("PatrolPoint"))
        error = self.error(*meeting)
        if abs(speed[1]) < 6 or not low < meeting[1] < high:     # it turns around before the rocket comes; it will be back
            return ()
        drift = self.error(*(meeting + speed * self.scenario.frame_skip)) - error
        steps = self.aim(meeting[0], meeting[1], 24, drift)
        if steps is None:
            return self.turn(error)
        return steps[0] if steps else ("ATTACK",)


class Dodger(Marine):
    """Steps aside from the fireballs: tries steps of several lengths to either side, and takes the one that misses best."""

    low, high = 16.0, 752.0   # how far the room lets the body go, y

    def press(self) -> tuple[str, ...]:
        balls = np.array([(ball.position_x, ball.position_y, ball.velocity_x, ball.velocity_y)
                          for ball in self.things("DoomImpBall") if ball.velocity_x < 0]).reshape(-1, 4, 1)
        x, y, speed_x, speed_y = balls.swapaxes(0, 1)             # (n, 1) each
        times = np.arange(1, TICS + 1)
        beside = np.abs(x + times * speed_x - self.me.position_x) < 32
        heights = np.where(beside, y + times * speed_y, np.inf)   # (n, TICS): where each is when it is beside the body

        def safety(push: int, tics: int) -> float:
            """How far they stay away; beyond that, how near the middle of the room the dodge ends."""
            path = self.path(push, tics)
            return float(np.abs(heights - path).min(initial=70)) - abs(path[-1] - (self.low + self.high) / 2) / 20

        push, _ = max([(push, tics) for push in (1, -1) for tics in (4, 12, 24, TICS)] + [(0, TICS)],
                      key=lambda dodge: safety(*dodge))
        return {1: ("MOVE_LEFT",), -1: ("MOVE_RIGHT",), 0: ()}[push]

    def path(self, push: int, tics: int) -> np.ndarray:
        """Places y of the body in the next tics, (TICS,), if it pushes for some of them."""
        y, speed, places = self.me.position_y, self.me.velocity_y, []
        for tic in range(TICS):
            speed = 0.90625 * speed + 0.65 * push * (tic < tics)   # the engine's friction, and a walk's measured push
            y = min(max(y + speed, self.low), self.high)
            places.append(y)
        return np.array(places)


EXPERTS = {   # scenario's file -> its expert
    "basic": Sideways, "deadly_corridor": Corridor, "defend_the_center": Sparer, "defend_the_line": Gunner,
    "health_gathering": Gatherer, "health_gathering_supreme": Gatherer, "my_way_home": Homer, "predict_position": Rocketeer,
    "take_cover": Dodger,
}
