"""Pictures of the worlds with true descriptions: facts are read from the environment's state, never labelled by hand.

Material for captions, questions and answers. Worlds:
- `minigrid`: the floor of one room, 6x6 cells with one to three objects, drawn by MiniGrid. Facts: kind, colour and place
  of each. A place is one 16x16 patch of the picture.
- `lander`: Gymnasium's lunar lander somewhere above the moon. Facts: place and lean of the ship.
- `freeway`: a frame of Atari's Freeway. Facts: how far the chicken has come.
- `sokoban`: a board of 8x8 cells in play. Facts: place of the player and of each crate, and whether it stands on a target.
- `breakout`: a frame of Atari's Breakout. Facts: side of the paddle, place of the ball while one flies.
- `miniworld`: a room of MiniWorld's, seen from its wall, with one or two things. Facts: kind, colour and place of each.

Places are the nine cells of a 3x3 division of the picture.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from .registry import get_task, make, nearest, require

if TYPE_CHECKING:
    import gymnasium as gym

SIZE = 64   # pixels: 4x4 patches
PLACES = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")
KINDS = ("ball", "box", "key")
COLOURS = ("red", "green", "blue", "purple", "yellow", "grey")
LEANS = ("left", "upright", "right")
HEIGHTS = ("bottom", "middle", "top")
SIDES = ("left", "middle", "right")


@dataclass(frozen=True)
class Scene:
    """A picture and what is true of it.

    Attributes:
        world: which kind of picture.
        seed: the seed that it was made from.
        image: uint8 (height, width, 3), 48 or 64 pixels a side.
        facts: one dict of plain strings per thing, in reading order (top to bottom, left to right).
    """

    world: str
    seed: int
    image: np.ndarray
    facts: list[dict[str, str]]


def scenes(world: str, seeds: Iterable[int]) -> Iterator[Scene]:
    """One scene per seed; the same seed gives the same scene.

    Raises:
        ValueError: no such world.
    """
    if world not in WORLDS:
        raise ValueError(f"unknown world {world!r}{nearest(world, WORLDS)}; there are: {', '.join(WORLDS)}")
    return WORLDS[world](seeds)


def scene(world: str, seed: int) -> Scene:
    """The scene of one seed; what drew it is closed. Raises ValueError as `scenes`."""
    (found,) = scenes(world, [seed])
    return found


def place(x: float, y: float) -> str:
    """Which ninth of the picture holds a point; x from left and y from top, both in [0, 1]."""
    column, row = min(max(int(x * 3), 0), 2), min(max(int(y * 3), 0), 2)
    return PLACES[row * 3 + column]


def _minigrid(seeds: Iterable[int]) -> Iterator[Scene]:
    require("minigrid", "a minigrid scene")
    from minigrid.core.grid import Grid
    from minigrid.core.world_object import Ball, Box, Key

    make_object: dict[str, Callable[[str], Any]] = {"ball": Ball, "box": Box, "key": Key}
    cells = SIZE // 8
    inside = cells - 2                                       # the outer ring is wall
    for seed in seeds:
        rng = np.random.default_rng(seed)
        grid = Grid(cells, cells)
        grid.wall_rect(0, 0, cells, cells)
        for ninth in rng.choice(9, size=rng.integers(1, 4), replace=False):   # so no two things share a place
            column = 1 + inside // 3 * (ninth % 3) + rng.integers(inside // 3)
            row = 1 + inside // 3 * (ninth // 3) + rng.integers(inside // 3)
            kind, color = KINDS[rng.integers(len(KINDS))], COLOURS[rng.integers(len(COLOURS))]
            grid.set(int(column), int(row), make_object[kind](color))
        image = grid.render(8, agent_pos=(-1, -1))[8:-8, 8:-8]   # nobody there; the walls are cut away
        yield Scene("minigrid", seed, image, _grid_facts(grid))


def _grid_facts(grid: Any) -> list[dict[str, str]]:
    """Every ball, box and key of a walled room, row by row."""
    facts = []
    for row in range(1, grid.height - 1):
        for column in range(1, grid.width - 1):
            thing = grid.get(column, row)
            if thing is not None and thing.type in KINDS:
                where = place((column - 0.5) / (grid.width - 2), (row - 0.5) / (grid.height - 2))
                facts.append({"kind": thing.type, "colour": thing.color, "place": where})
    return facts


UPRIGHT = 0.2   # radians: below this a lean is hard to see at 64 pixels


def _lander(seeds: Iterable[int]) -> Iterator[Scene]:
    env = make("LunarLander-v3", render=True)
    world: Any = env.unwrapped
    for seed in seeds:
        rng = np.random.default_rng(seed)
        env.reset(seed=seed)                                 # a new moonscape
        _put_lander(world, rng)
        facts = [{"kind": "lander", "place": place(*_lander_pixel(world)), "lean": lean(world.lander.angle)}]
        yield Scene("lander", seed, _shrink(world.render()), facts)
    env.close()


def _put_lander(world: Any, rng: np.random.Generator) -> None:
    """Move the ship to a random spot above the ground and lean it: flights from the start hardly ever see the edges."""
    from gymnasium.envs.box2d.lunar_lander import SCALE, VIEWPORT_H, VIEWPORT_W

    width, height = VIEWPORT_W / SCALE, VIEWPORT_H / SCALE
    x = y = 0.0
    while y < _ground(world, x) + 0.7:                       # a landed ship's centre is 0.6 above the ground
        ninth = int(rng.integers(9))                         # each place equally often, as far as the ground allows
        for _ in range(20):
            x = (ninth % 3 + rng.uniform(0.15, 0.85)) / 3 * width
            y = (1 - (ninth // 3 + rng.uniform(0.06, 0.85)) / 3) * height
            if y > _ground(world, x) + 0.7:
                break
    angle = rng.choice([-1, 0, 1]) * rng.uniform(1.5 * UPRIGHT, 0.9) + rng.uniform(-0.5, 0.5) * UPRIGHT
    ship = world.lander
    cosine, sine = np.cos(angle - ship.angle), np.sin(angle - ship.angle)
    for leg in world.legs:
        dx, dy = leg.position.x - ship.position.x, leg.position.y - ship.position.y
        leg.position = (x + cosine * dx - sine * dy, y + sine * dx + cosine * dy)
        leg.angle += angle - ship.angle
    ship.position, ship.angle = (x, y), angle


def _ground(world: Any, x: float) -> float:
    """Highest point of the moon's surface under a ship at x, whose legs stand 0.7 to its sides."""
    points = [world.sky_polys[0][0], *(stop for _, stop, *_ in world.sky_polys)]
    across, up = np.array(points).T
    return float(np.interp([x - 0.7, x, x + 0.7], across, up).max())


def _lander_pixel(world: Any) -> tuple[float, float]:
    """Where the ship's centre is drawn, as fractions of the picture from left and top."""
    from gymnasium.envs.box2d.lunar_lander import SCALE, VIEWPORT_H, VIEWPORT_W

    return world.lander.position.x * SCALE / VIEWPORT_W, 1 - world.lander.position.y * SCALE / VIEWPORT_H


def lean(angle: float) -> str:
    """How a ship stands; Box2D's angles are in radians and grow counter-clockwise."""
    return "upright" if abs(angle) < UPRIGHT else ("left" if angle > 0 else "right")


def _atari(name: str) -> "tuple[gym.Env, Any]":
    """An emulator with nothing random left in it, and its start: 10 times faster to restore than a reset, and exact."""
    env = make(get_task(name).with_view(noop_max=0, repeat_action_probability=0.0), render=True)
    env.reset(seed=0)
    game: Any = env.unwrapped
    return env, game.ale.cloneSystemState()


def _freeway(seeds: Iterable[int]) -> Iterator[Scene]:
    env, start = _atari("ALE/Freeway-v5")
    game: Any = env.unwrapped
    for seed in seeds:
        rng = np.random.default_rng(seed)
        game.ale.restoreSystemState(start)
        for _ in range(int(rng.integers(1, 120))):                   # raw frames: let the cars come
            game.ale.act(game.actions[0])
        goal = int(rng.integers(6, 177))
        for _ in range(600):                                         # enough for a few knocks back
            if game.ram()[14] >= goal:
                break
            game.ale.act(game.actions[1])
        facts = [{"kind": "chicken", "height": chicken_height(game.ram())}]
        yield Scene("freeway", seed, _shrink(game.render()), facts)
    env.close()


def chicken_height(ram: np.ndarray) -> str:
    """Third of the road that the left chicken stands on: byte 14 runs from 6 to 177, see atari_experts.py."""
    return HEIGHTS[min(int((int(ram[14]) - 6) / 172 * 3), 2)]


LEFT_WALL, RIGHT_WALL, SCREEN = 8, 152, 210    # pixels of Breakout's screen, 160 wide
PADDLE, BALL = 72, (99, 101)                   # bytes of its memory


def _breakout(seeds: Iterable[int]) -> Iterator[Scene]:
    env, start = _atari("ALE/Breakout-v5")
    game: Any = env.unwrapped
    fire, right, left = 1, 2, 3                                      # of the four actions that the game uses
    for seed in seeds:
        rng = np.random.default_rng(seed)
        game.ale.restoreSystemState(start)
        towards, target = 0, int(rng.integers(LEFT_WALL, RIGHT_WALL - 16))
        for frame in range(int(rng.integers(30, 400))):              # raw frames; the paddle follows the ball, or not
            if frame % 40 == 0:
                towards = int(rng.integers(2))
            ram = game.ram()
            goal = int(ram[BALL[0]]) - 49 - 8 if towards and ram[BALL[1]] else target
            off = goal - (int(ram[PADDLE]) - 47)
            game.ale.act(game.actions[fire if frame % 10 == 0 else right if off > 4 else left if off < -4 else 0])
        yield Scene("breakout", seed, _shrink(game.render()), breakout_facts(game.ram()))
    env.close()


def breakout_facts(ram: np.ndarray) -> list[dict[str, str]]:
    """The paddle and, while it flies, the ball. The memory's numbers differ from the screen's pixels by offsets, found by
    comparing."""
    paddle = (int(ram[PADDLE]) - 47 + 8 - LEFT_WALL) / (RIGHT_WALL - LEFT_WALL)
    facts = [{"kind": "paddle", "side": SIDES[min(max(int(paddle * 3), 0), 2)]}]
    across, down = (int(ram[address]) for address in BALL)
    if down:
        facts.append({"kind": "flying ball", "place": place((across - 48) / 160, (down + 11) / SCREEN)})
    return facts


def _sokoban(seeds: Iterable[int]) -> Iterator[Scene]:
    env = make(get_task("Sokoban-8x8-2").with_view(tile=8))
    board: Any = env.unwrapped
    for seed in seeds:
        rng = np.random.default_rng(seed)
        env.reset(seed=seed)
        solution = board.level.solution
        for action in solution[: int(rng.integers(len(solution) + 1))]:   # random play hardly ever gets a crate to its place
            env.step(action)
        yield Scene("sokoban", seed, board.picture(8), board_facts(board))
    env.close()


def board_facts(board: Any) -> list[dict[str, str]]:
    """Player and crates of a game of Sokoban."""
    def where(cell: tuple[int, int]) -> str:
        return place((cell[1] + 0.5) / board.size, (cell[0] + 0.5) / board.size)

    crates = [{"kind": "crate", "place": where(cell), "state": "placed" if cell in board.level.targets else "loose"}
              for cell in sorted(board.boxes)]
    return [{"kind": "player", "place": where(board.player)}, *crates]


MARGIN = 0.04    # of the picture: no thing's centre is so near to the border of two places


def _miniworld(seeds: Iterable[int]) -> Iterator[Scene]:
    env = make(get_task("MiniWorld-RoomObjects-v0"))
    world: Any = env.unwrapped
    for seed in seeds:
        env.reset(seed=seed)
        world.entities[:] = [world.agent]
        world.agent.pos, world.agent.dir = np.array([0.6, 0.0, world.size / 2]), 0.0
        facts = sorted(_things(world, np.random.default_rng(seed)), key=lambda fact: PLACES.index(fact["place"]))
        yield Scene("miniworld", seed, world.render_obs(), facts)
    env.close()


def _things(world: Any, rng: np.random.Generator) -> list[dict[str, str]]:
    """Put one or two things in front of the agent, in different thirds of what it sees: they do not hide each other."""
    from miniworld.entity import Ball, Box, Key

    make_thing: dict[str, Callable[[str], Any]] = {"ball": Ball, "box": Box, "key": Key}
    facts = []
    for column in rng.permutation(3)[: int(rng.integers(1, 3))]:
        kind, colour = KINDS[int(rng.integers(3))], COLOURS[int(rng.integers(5))]     # not grey, which looks like any here
        thing = world.place_entity(make_thing[kind](colour), pos=world.agent.pos, dir=0.0)
        thing.randomize(world.params, world.np_random)                # without domain randomisation: its plain colour
        x = y = 0.0
        while not MARGIN < x - column / 3 < 1 / 3 - MARGIN or abs(y - 2 / 3) < MARGIN:
            far = 2.5 + rng.random() * 5.5
            across = (column - 1 + rng.uniform(-0.5, 0.5)) * far * 2 / 3 * TANGENT
            thing.pos, thing.dir = world.agent.pos + np.array([far, 0, across]), rng.uniform(-np.pi, np.pi)
            x, y = seen_at(world.agent, thing)
        facts.append({"kind": kind, "colour": colour, "place": place(x, y)})
    return facts


TANGENT = np.tan(np.radians(30))    # MiniWorld's camera sees 60 degrees


def seen_at(agent: Any, thing: Any) -> tuple[float, float]:
    """Where a thing's centre is in the picture that an agent of MiniWorld sees, from left and top, in [0, 1]."""
    away = thing.pos + np.array([0, thing.height / 2, 0]) - agent.cam_pos
    ahead = float(away @ agent.dir_vec) * TANGENT
    return (1 + float(away @ agent.right_vec) / ahead) / 2, (1 - float(away[1]) / ahead) / 2


def _shrink(frame: np.ndarray) -> np.ndarray:
    """Area-average a frame to uint8 (64, 64, 3)."""
    return np.asarray(Image.fromarray(frame).resize((SIZE, SIZE), Image.Resampling.BOX))


WORLDS: dict[str, Callable[[Iterable[int]], Iterator[Scene]]] = {
    "minigrid": _minigrid, "lander": _lander, "freeway": _freeway, "sokoban": _sokoban, "breakout": _breakout,
    "miniworld": _miniworld,
}
FAMILIES = {"minigrid": "minigrid", "lander": "box2d", "freeway": "atari", "sokoban": "sokoban", "breakout": "atari",
            "miniworld": "miniworld"}     # whose packages draw a world
