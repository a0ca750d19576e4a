"""Atari 2600: the 104 single-player games of the Arcade Learning Environment (Bellemare et al., arXiv:1207.4708).

View: the screen in grey, 64x64 by area averaging, the last frames stacked as channels, newest last: 16 patches a step
however many frames are stacked. Frame skip 4 with the maximum over the last two raw frames against flicker, sticky
actions 0.25 (Machado et al., arXiv:1709.06009), up to 30 no-op frames at the start, rewards unclipped; an episode is a
whole game and not one life. All of these are settings in `Task.view`, which is stored with the data.

The emulator is driven directly instead of through Gymnasium's AtariPreprocessing, which needs OpenCV.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image

from ..registry import Family, Task
from .atari_experts import breakout, freeway, pong
from .atari_planner import iw

ROMS = """
adventure air_raid alien amidar assault asterix asteroids atlantis atlantis2 backgammon bank_heist basic_math
battle_zone beam_rider berzerk blackjack bowling boxing breakout carnival casino centipede chopper_command
crazy_climber crossbow darkchambers defender demon_attack donkey_kong double_dunk earthworld elevator_action enduro
entombed et fishing_derby flag_capture freeway frogger frostbite galaxian gopher gravitar hangman haunted_house hero
human_cannonball ice_hockey jamesbond journey_escape kaboom kangaroo keystone_kapers king_kong klax koolaid krull
kung_fu_master laser_gates lost_luggage mario_bros miniature_golf montezuma_revenge mr_do ms_pacman name_this_game
othello pacman phoenix pitfall pitfall2 pong pooyan private_eye qbert riverraid road_runner robotank seaquest
sir_lancelot skiing solaris space_invaders space_war star_gunner superman surround tennis tetris tic_tac_toe_3d
time_pilot trondead turmoil tutankham up_n_down venture video_checkers video_chess video_cube video_pinball
wizard_of_wor word_zapper yars_revenge zaxxon
"""

PLANNED = """
Kangaroo MsPacman UpNDown
"""   # the games that the planner was measured to play well: docs/environments.md has the numbers

EXPERTS = {"ALE/Freeway-v5": "freeway-ram", "ALE/Breakout-v5": "breakout-ram", "ALE/Pong-v5": "pong-ram",
           **{f"ALE/{game}-v5": "iw" for game in PLANNED.split()}}

VIEW = {
    "height": 64,
    "width": 64,
    "frames": 2,                         # stacked as channels, 1-4
    "frame_skip": 4,                     # raw frames per agent step; 60 raw frames are one second
    "repeat_action_probability": 0.25,   # sticky actions, drawn for each raw frame
    "noop_max": 30,                      # raw frames of doing nothing at the start, drawn from [0, noop_max]
    "max_frames": 108_000,               # 30 minutes of play, then the episode is truncated
}


class AtariGame(gym.Env):
    """One game with the view above.

    Observations are uint8 (height, width, frames), actions index the game's minimal action set. `ale` is the emulator;
    experts read its memory through `ram()`. `noop_starts` are the no-op frames at the start of the episodes with seeds 0, 1,
    ..., in place of drawn ones: see recordings.py.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(self, game: str, *, height: int, width: int, frames: int, frame_skip: int, noop_max: int,
                 repeat_action_probability: float, max_frames: int, noop_starts: Sequence[int] = (),
                 render_mode: str | None = None) -> None:
        import ale_py
        from ale_py import roms

        if not 1 <= frames <= 4:
            raise ValueError(f"view setting frames={frames}; a patch has 1 to 4 channels")
        if frame_skip < 1 or noop_max < 0:
            raise ValueError(f"frame_skip={frame_skip} must be at least 1 and noop_max={noop_max} at least 0")
        self.render_mode = render_mode
        self.frames, self.frame_skip, self.noop_max, self.noop_starts = frames, frame_skip, noop_max, noop_starts
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)   # it greets on every start otherwise
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", 0.0)   # drawn in `step`
        self.stickiness = repeat_action_probability
        self.held: Any = 0   # the button that the console saw last
        self.ale.setInt("max_num_frames_per_episode", max_frames)
        rom = roms.get_rom_path(game)
        if rom is None:
            raise ValueError(f"ale-py {ale_py.__version__} holds no game {game!r}")
        self.rom = rom
        self.ale.loadROM(self.rom)
        self.meanings = [action.name for action in self.ale.getMinimalActionSet()]
        self.actions = self.ale.getMinimalActionSet()
        self.action_space = gym.spaces.Discrete(len(self.actions))
        self.observation_space = gym.spaces.Box(0, 255, (height, width, frames), np.uint8)
        self.screens = np.zeros((2, *self.ale.getScreenDims()), np.uint8)
        self.stack = np.zeros((height, width, frames), np.uint8)

    def reset(self, *, seed: int | None = None,
              options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a game; a seed decides the sticky actions and the number of no-op frames."""
        super().reset(seed=seed)
        if self.noop_starts and (seed is None or seed >= len(self.noop_starts)):
            raise ValueError(f"seed {seed}: there are {len(self.noop_starts)} recorded episodes, with seeds from 0")
        self.ale.loadROM(self.rom)   # a new console: in some games `reset_game` alone lets the last episode shine through
        self.ale.reset_game()
        self.held = 0
        noops = int(self.np_random.integers(self.noop_max + 1))
        if self.noop_starts and seed is not None:
            noops = self.noop_starts[seed]
        for _ in range(noops):
            self.ale.act(0)
            if self.ale.game_over():
                self.ale.reset_game()
        self.ale.getScreenGrayscale(self.screens[1])
        self.stack = np.repeat(self._shrink(self.screens[1])[..., None], self.frames, axis=2)
        return self.stack, self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Hold `action` for `frame_skip` raw frames."""
        button = self.actions[int(action)]
        reward = 0.0
        repeats = self.np_random.random(self.frame_skip) < self.stickiness
        for left in range(self.frame_skip - 1, -1, -1):
            self.held = self.held if repeats[left] else button
            reward += self.ale.act(self.held)
            if left < 2:
                self.ale.getScreenGrayscale(self.screens[1 - left])
            if self.ale.game_over():
                self.ale.getScreenGrayscale(self.screens[1])
                break
        newest = np.maximum(self.screens[0], self.screens[1]) if self.frame_skip > 1 else self.screens[1]
        self.stack, before = np.empty_like(self.stack), self.stack
        self.stack.reshape(-1)[:-1] = before.reshape(-1)[1:]   # one byte on: each pixel's frames become one older
        self.stack[..., -1] = self._shrink(newest)
        over = self.ale.game_over(with_truncation=False)
        return self.stack, float(reward), over, self.ale.game_truncated() and not over, self._info()

    def render(self) -> np.ndarray:
        """The colour screen, uint8 (screen height, screen width, 3)."""
        return self.ale.getScreenRGB()

    def ram(self) -> np.ndarray:
        """The console's 128 bytes of memory, uint8 (128,)."""
        return self.ale.getRAM()

    def _shrink(self, screen: np.ndarray) -> np.ndarray:
        """Average areas of a grey screen uint8 (screen height, screen width) -> uint8 (height, width)."""
        height, width = self.stack.shape[:2]
        return np.asarray(Image.fromarray(screen).resize((width, height), Image.Resampling.BOX))

    def _info(self) -> dict[str, Any]:
        return {"lives": self.ale.lives(), "frames": self.ale.getEpisodeFrameNumber()}


def _make(task: Task, render: bool) -> gym.Env:
    return AtariGame(**task.kwargs, **task.view, render_mode="rgb_array" if render else None)


def _task(rom: str) -> Task:
    name = f"ALE/{rom.title().replace('_', '')}-v5"   # as ale_py.registration does
    return Task(name=name, family="atari", kwargs={"game": rom}, view=VIEW, episode_limit=27_000,
                expert=EXPERTS.get(name), packages=("ale-py",), licence="GPL-2.0-only")


FAMILY = Family(
    title="Atari 2600",
    tasks=tuple(_task(rom) for rom in ROMS.split()),
    make=_make,
    experts={"freeway-ram": freeway, "breakout-ram": breakout, "pong-ram": pong, "iw": iw},
    modules=("ale_py",),
)
