"""MiniGrid (arXiv:2306.13831) and BabyAI (arXiv:1810.08272): small grid worlds with instructions in English.

View: the agent's 7x7 field of view as a picture of 8x8-pixel tiles, 56x56 RGB = 16 patches after padding to 64 (the
symbolic 7x7x3 array would cost 147 tokens), the compass direction, and the mission as plain text. The picture equals
MiniGrid's own first-person rendering, but is looked up tile by tile from the symbolic view that is computed anyway.
With the view setting `tile=2` each cell is four pixels that say its kind, colour and state: 14x14 pixels of a 16x16 picture,
a single patch that holds all of the symbols.

The experts are BabyAI's own bot, which plans with what it has seen so far, and for MiniGrid a planner that sees the whole
grid: minigrid_experts.py.
"""

import string
import warnings
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np

from ..registry import Family, Task
from .minigrid_experts import PLANNERS, babyai_bot

MINIGRID = """
BlockedUnlockPickup-v0 LavaCrossingS9N1-v0 LavaCrossingS9N2-v0 LavaCrossingS9N3-v0 LavaCrossingS11N5-v0
SimpleCrossingS9N1-v0 SimpleCrossingS9N2-v0 SimpleCrossingS9N3-v0 SimpleCrossingS11N5-v0 DistShift1-v0 DistShift2-v0
DoorKey-5x5-v0 DoorKey-6x6-v0 DoorKey-8x8-v0 DoorKey-16x16-v0 Dynamic-Obstacles-5x5-v0
Dynamic-Obstacles-Random-5x5-v0 Dynamic-Obstacles-6x6-v0 Dynamic-Obstacles-Random-6x6-v0 Dynamic-Obstacles-8x8-v0
Dynamic-Obstacles-16x16-v0 Empty-5x5-v0 Empty-Random-5x5-v0 Empty-6x6-v0 Empty-Random-6x6-v0 Empty-8x8-v0
Empty-16x16-v0 Fetch-5x5-N2-v0 Fetch-6x6-N2-v0 Fetch-8x8-N3-v0 FourRooms-v0 GoToDoor-5x5-v0 GoToDoor-6x6-v0
GoToDoor-8x8-v0 GoToObject-6x6-N2-v0 GoToObject-8x8-N2-v0 KeyCorridorS3R1-v0 KeyCorridorS3R2-v0 KeyCorridorS3R3-v0
KeyCorridorS4R3-v0 KeyCorridorS5R3-v0 KeyCorridorS6R3-v0 LavaGapS5-v0 LavaGapS6-v0 LavaGapS7-v0 LockedRoom-v0
MemoryS17Random-v0 MemoryS13Random-v0 MemoryS13-v0 MemoryS11-v0 MemoryS9-v0 MemoryS7-v0 MultiRoom-N2-S4-v0
MultiRoom-N4-S5-v0 MultiRoom-N4-S5-v1 MultiRoom-N6-v0 ObstructedMaze-1Dl-v0 ObstructedMaze-1Dlh-v0
ObstructedMaze-1Dlhb-v0 ObstructedMaze-2Dl-v0 ObstructedMaze-2Dlh-v0 ObstructedMaze-2Dlhb-v0 ObstructedMaze-1Q-v0
ObstructedMaze-2Q-v0 ObstructedMaze-Full-v0 ObstructedMaze-2Dlhb-v1 ObstructedMaze-1Q-v1 ObstructedMaze-2Q-v1
ObstructedMaze-Full-v1 Playground-v0 PutNear-6x6-N2-v0 PutNear-8x8-N3-v0 RedBlueDoors-6x6-v0 RedBlueDoors-8x8-v0
Unlock-v0 UnlockPickup-v0
"""   # MiniGrid-WFC-* is left out: the package lacks the pictures that these are made from (3.2.0)

BABYAI = """
GoToRedBallGrey-v0 GoToRedBall-v0 GoToRedBallNoDists-v0 GoToObj-v0 GoToObjS4-v0 GoToObjS6-v1 GoToLocal-v0
GoToLocalS5N2-v0 GoToLocalS6N2-v0 GoToLocalS6N3-v0 GoToLocalS6N4-v0 GoToLocalS7N4-v0 GoToLocalS7N5-v0
GoToLocalS8N2-v0 GoToLocalS8N3-v0 GoToLocalS8N4-v0 GoToLocalS8N5-v0 GoToLocalS8N6-v0 GoToLocalS8N7-v0 GoTo-v0
GoToOpen-v0 GoToObjMaze-v0 GoToObjMazeOpen-v0 GoToObjMazeS4R2-v0 GoToObjMazeS4-v0 GoToObjMazeS5-v0 GoToObjMazeS6-v0
GoToObjMazeS7-v0 GoToImpUnlock-v0 GoToSeq-v0 GoToSeqS5R2-v0 GoToRedBlueBall-v0 GoToDoor-v0 GoToObjDoor-v0 Open-v0
OpenRedDoor-v0 OpenDoor-v0 OpenDoorDebug-v0 OpenDoorColor-v0 OpenDoorLoc-v0 OpenTwoDoors-v0 OpenRedBlueDoors-v0
OpenRedBlueDoorsDebug-v0 OpenDoorsOrderN2-v0 OpenDoorsOrderN4-v0 OpenDoorsOrderN2Debug-v0 OpenDoorsOrderN4Debug-v0
Pickup-v0 UnblockPickup-v0 PickupLoc-v0 PickupDist-v0 PickupDistDebug-v0 PickupAbove-v0 PutNextLocal-v0
PutNextLocalS5N3-v0 PutNextLocalS6N4-v0 PutNextS4N1-v0 PutNextS5N2-v0 PutNextS5N1-v0 PutNextS6N3-v0 PutNextS7N4-v0
PutNextS5N2Carrying-v0 PutNextS6N3Carrying-v0 PutNextS7N4Carrying-v0 Unlock-v0 UnlockLocal-v0 UnlockLocalDist-v0
KeyInBox-v0 UnlockPickup-v0 UnlockPickupDist-v0 BlockedUnlockPickup-v0 UnlockToUnlock-v0 ActionObjDoor-v0
FindObjS5-v0 FindObjS6-v0 FindObjS7-v0 KeyCorridor-v0 KeyCorridorS3R1-v0 KeyCorridorS3R2-v0 KeyCorridorS3R3-v0
KeyCorridorS4R3-v0 KeyCorridorS5R3-v0 KeyCorridorS6R3-v0 OneRoomS8-v0 OneRoomS12-v0 OneRoomS16-v0 OneRoomS20-v0
MoveTwoAcrossS5N2-v0 MoveTwoAcrossS8N9-v0 Synth-v0 SynthS5R2-v0 SynthLoc-v0 SynthSeq-v0 MiniBossLevel-v0
BossLevel-v0 BossLevelNoUnlock-v0
"""

TILES = (8, 2)                                 # pixels: 7 tiles are 56 pixels, 4x4 patches, or 14 pixels of one
SIDE = 16                                      # of the smallest picture, a patch's
KINDS, COLORS, STATES, DIRECTIONS = 11, 6, 4, 4   # sizes of MiniGrid's symbolic alphabet (core/constants.py)
MISSION = gym.spaces.Text(1024, min_length=0, charset=string.ascii_letters + string.digits + string.punctuation + " \n")


class FirstPersonView(gym.Wrapper):
    """Dict(direction: Discrete(4), image: uint8 (56, 56, 3), or (16, 16, 3) with tile=2, mission: Text).

    `last_action` is what was executed last: where the runner replaces actions, an expert cannot know it otherwise.
    """

    def __init__(self, env: gym.Env, tile: int = 8) -> None:
        super().__init__(env)
        if tile not in TILES:
            raise ValueError(f"view setting tile={tile}; there are tiles of {' and '.join(map(str, TILES))} pixels")
        spaces: Any = env.observation_space
        rows, columns = spaces["image"].shape[:2]
        self.tile, self.tiles = tile, _tiles() if tile == 8 else symbol_tiles()
        self.last_action: int | None = None
        self.observation_space = gym.spaces.Dict({
            "direction": gym.spaces.Discrete(4),
            "image": gym.spaces.Box(0, 255, (max(rows * tile, SIDE), max(columns * tile, SIDE), 3), np.uint8),
            "mission": MISSION,
        })

    def reset(self, *, seed: int | None = None,
              options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """See gym.Env."""
        self.last_action = None
        observation, info = self.env.reset(seed=seed, options=options)
        return self._view(observation), info

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """See gym.Env."""
        self.last_action = int(action)
        observation, reward, terminated, truncated, info = self.env.step(self.last_action)
        return self._view(observation), float(reward), bool(terminated), bool(truncated), info

    def _view(self, observation: dict[str, Any]) -> dict[str, Any]:
        grid = observation["image"]                                   # (column, row, kind/color/state)
        columns, rows = grid.shape[:2]
        code = tile_code(*np.moveaxis(grid, -1, 0).astype(np.intp))   # (column, row)
        code[columns // 2, rows - 1] += 1                             # the agent stands there and looks up
        cells = self.tiles[code].transpose(1, 2, 0, 3, 4)             # (row, tile, column, tile, 3)
        image = cells.reshape(rows * self.tile, columns * self.tile, 3)
        if min(image.shape[:2]) < SIDE:
            image = np.pad(image, [*((0, max(0, SIDE - side)) for side in image.shape[:2]), (0, 0)])
        return {"direction": int(observation["direction"]), "image": image, "mission": observation["mission"]}


def tile_code(kind: Any, color: Any, state: Any) -> Any:
    """Index of a cell's picture in the tile table; the next index is the same cell with the agent on it."""
    return ((kind * COLORS + color) * STATES + state) * 2


@cache
def _tiles() -> np.ndarray:
    """Pictures of all cells as seen in first person, uint8 (n_codes, 8, 8, 3), drawn by MiniGrid itself."""
    from minigrid.core.constants import OBJECT_TO_IDX
    from minigrid.core.grid import Grid
    from minigrid.core.world_object import WorldObj

    tile = TILES[0]
    tiles = np.zeros((KINDS * COLORS * STATES * 2, tile, tile, 3), np.uint8)
    drawable = [i for name, i in OBJECT_TO_IDX.items() if name != "agent"]
    for kind in drawable:
        for color in range(COLORS):
            for state in range(3):
                cell = WorldObj.decode(kind, color, state)
                seen = kind != OBJECT_TO_IDX["unseen"]   # what the agent sees is drawn brighter
                code = tile_code(kind, color, state)
                for agent in range(2):
                    heading = 3 if agent else None   # up
                    tiles[code + agent] = Grid.render_tile(cell, heading, highlight=seen, tile_size=tile)
    return tiles


# Colours that are far from each other, in the order of MiniGrid's numbers: unseen, empty, wall, floor, door, key, ball, box,
# goal, lava, agent; red, green, blue, purple, yellow, grey; open, closed, locked, and the fourth direction of an agent.
KIND_COLOURS = ((0, 0, 0), (64, 64, 64), (255, 255, 255), (0, 64, 128), (255, 128, 0), (255, 255, 0), (0, 0, 255),
                (255, 0, 255), (0, 255, 0), (255, 0, 0), (0, 255, 255))
COLOUR_COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (160, 32, 240), (255, 255, 0), (128, 128, 128))
STATE_COLOURS = ((0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 0, 255))


@cache
def symbol_tiles() -> np.ndarray:
    """Four pixels for each cell, uint8 (n_codes, 2, 2, 3): kind, colour | state, kind. No two cells look alike.

    The agent always stands in the same cell, which shows what it carries.
    """
    tiles = np.zeros((KINDS, COLORS, STATES, 2, 2, 2, 3), np.uint8)   # the fourth axis: without and with the agent
    tiles[..., 0, 0, :] = tiles[..., 1, 1, :] = np.array(KIND_COLOURS)[:, None, None, None]
    tiles[..., 0, 1, :] = np.array(COLOUR_COLOURS)[:, None, None]
    tiles[..., 1, 0, :] = np.array(STATE_COLOURS)[:, None]
    return tiles.reshape(-1, 2, 2, 3)


def _make(task: Task, render: bool) -> gym.Env:
    import minigrid
    from minigrid.envs.babyai.core import roomgrid_level

    vars(roomgrid_level)["print"] = lambda *_, **__: None   # it reports "Sampling rejected" at every second reset
    gym.register_envs(minigrid)
    mode = "rgb_array" if render else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is out of date.*")   # five levels have a -v1 beside their -v0; both are listed
        return FirstPersonView(gym.make(task.name, render_mode=mode, disable_env_checker=True, **task.kwargs),
                               **task.view)


def _task(name: str, expert: str | None) -> Task:
    return Task(name=name, family="minigrid", view={"tile": TILES[0]}, compact_view={"tile": TILES[1]}, expert=expert,
                packages=("minigrid",), licence="MIT")


PLANNER_OF = {   # beginnings of level names; Playground has no goal
    "BlockedUnlockPickup": "planner-take", "DistShift": "planner-goal", "DoorKey": "planner-goal",
    "Dynamic": "planner-goal-moving", "Empty": "planner-goal", "Fetch": "planner-fetch", "FourRooms": "planner-goal",
    "GoToDoor": "planner-stop-before", "GoToObject": "planner-stop-before", "KeyCorridor": "planner-take",
    "Lava": "planner-goal", "LockedRoom": "planner-goal", "Memory": "planner-memory", "MultiRoom": "planner-goal",
    "ObstructedMaze": "planner-take", "PutNear": "planner-put-near", "RedBlueDoors": "planner-red-blue",
    "SimpleCrossing": "planner-goal", "Unlock-": "planner-unlock", "UnlockPickup": "planner-take",
}


def _planner(level: str) -> str | None:
    return next((expert for beginning, expert in PLANNER_OF.items() if level.startswith(beginning)), None)


BEYOND_THE_BOT = {   # as its documentation says
    "PutNextS5N2Carrying-v0": "planner-put-beside", "PutNextS6N3Carrying-v0": "planner-put-beside",
    "PutNextS7N4Carrying-v0": "planner-put-beside", "KeyInBox-v0": "planner-unlock",
}

FAMILY = Family(
    title="MiniGrid and BabyAI",
    tasks=(
        *(_task(f"BabyAI-{name}", BEYOND_THE_BOT.get(name, "babyai-bot")) for name in BABYAI.split()),
        *(_task(f"MiniGrid-{name}", _planner(name)) for name in MINIGRID.split()),
    ),
    make=_make,
    experts={"babyai-bot": babyai_bot, **PLANNERS},
    modules=("minigrid",),
)
