"""ViZDoom (Kempka et al., arXiv:1605.02097; Wydmuch et al., arXiv:1809.03470): nine scenarios in the engine of Doom.

View: the screen in colour, 64x64, 16 patches a step, and the scenario's own variables (health, ammunition), a token each; the
scenarios show no status bar, so what is not in the picture could not be known otherwise. Frame skip 4.

Each scenario comes twice, under the names that the package registers: `VizdoomBasic-v1` presses one button or none a step,
`VizdoomBasic-MultiBinary-v1` any of them together. The three scenarios whose observations or actions are of other kinds (sound,
messages, the deathmatch's mouse) are left out, and the maps that need a commercial game.
"""

import contextlib
import os
import tempfile
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image

from ..registry import Family, Task
from .vizdoom_experts import EXPERTS

# scenario -> (its file, longest episode in game tics, 35 of which are a second)
SCENARIOS = {
    "Basic": ("basic", 300), "DeadlyCorridor": ("deadly_corridor", 2100), "DefendCenter": ("defend_the_center", 2100),
    "DefendLine": ("defend_the_line", 2100), "HealthGathering": ("health_gathering", 2100),
    "HealthGatheringSupreme": ("health_gathering_supreme", 2100), "MyWayHome": ("my_way_home", 2100),
    "PredictPosition": ("predict_position", 300), "TakeCover": ("take_cover", 2100),
}   # DefendLine and TakeCover have no limit of their own

# ViZDoom's own code, Freedoom's pictures and sounds, and the engine, whose parts have several (zdoom.org/wiki/license)
LICENCE = "MIT AND BSD-3-Clause AND LicenseRef-ZDoom"

VIEW = {"height": 64, "width": 64, "frame_skip": 4}   # frame_skip: game tics per agent step


class DoomScenario(gym.Env):
    """One scenario with the view above.

    Observations are Dict(image: uint8 (height, width, 3), variables: float32 (n,)), without `variables` where the scenario has
    none. `game` is the engine. Experts ask it for more than the screen after `reveal()`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 9}

    def __init__(self, scenario: str, limit: int, together: bool, *, height: int, width: int, frame_skip: int,
                 render_mode: str | None = None) -> None:
        import vizdoom

        if frame_skip < 1:
            raise ValueError(f"frame_skip={frame_skip} must be at least 1")
        self.render_mode, self.frame_skip, self.size = render_mode, frame_skip, (width, height)
        self.game = vizdoom.DoomGame()
        self.game.load_config(os.path.join(vizdoom.scenarios_path, f"{scenario}.cfg"))
        self.game.set_window_visible(False)
        self.game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        self.game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
        self.game.set_episode_timeout(limit)
        self.game.set_doom_config_path(os.devnull)   # where it would leave its settings
        self.buttons = [button.name for button in self.game.get_available_buttons()]
        count, variables = len(self.buttons), self.game.get_available_game_variables_size()
        self.action_space = gym.spaces.MultiBinary(count) if together else gym.spaces.Discrete(count + 1)
        spaces: dict[str, gym.Space] = {"image": gym.spaces.Box(0, 255, (height, width, 3), np.uint8)}
        if variables:
            spaces["variables"] = gym.spaces.Box(-np.inf, np.inf, (variables,), np.float32)
        self.observation_space = gym.spaces.Dict(spaces)
        self._start()

    def reset(self, *, seed: int | None = None,
              options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode; a seed decides all chance in it."""
        super().reset(seed=seed)
        self.seed = int(self.np_random.integers(2**31))
        self._begin()
        return self._observation(), {}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Hold the buttons for `frame_skip` tics. The engine shows nothing of an episode's end: the last picture stands."""
        reward = float(self.game.make_action(self.presses(action), self.frame_skip))
        over = self.game.is_episode_finished()
        if not over:
            self._look()
        truncated = over and self.game.is_episode_timeout_reached() and not self.game.is_player_dead()
        return self._observation(), reward, over and not truncated, truncated, {}

    def presses(self, action: Any) -> list[float]:
        """Which buttons an action presses. Discrete actions count as those of the package do: the last button is 1."""
        if isinstance(self.action_space, gym.spaces.MultiBinary):
            return [float(pressed) for pressed in action]
        return [float(int(action) == len(self.buttons) - index) for index in range(len(self.buttons))]

    def action(self, *pressed: str) -> Any:
        """The action that presses these buttons; in a Discrete space the first of them."""
        if isinstance(self.action_space, gym.spaces.MultiBinary):
            return np.array([button in pressed for button in self.buttons], np.int8)
        return len(self.buttons) - self.buttons.index(pressed[0]) if pressed else 0

    def reveal(self) -> None:
        """Let `game.get_state()` hold labels, objects and sectors, too. Starts the engine and the episode anew, once."""
        if self.game.is_sectors_info_enabled():
            return
        self.game.close()
        self.game.set_labels_buffer_enabled(True)
        self.game.set_objects_info_enabled(True)
        self.game.set_sectors_info_enabled(True)
        self._start()
        self._begin()

    def render(self) -> np.ndarray:
        """The screen, uint8 (240, 320, 3)."""
        return self.state.screen_buffer.repeat(2, axis=0).repeat(2, axis=1)

    def close(self) -> None:
        """See gym.Env."""
        self.game.close()

    def _start(self) -> None:
        # The engine leaves an empty folder where it starts.
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            self.game.init()

    def _begin(self) -> None:
        self.game.set_seed(self.seed)
        self.game.new_episode()
        self._look()

    def _look(self) -> None:
        self.state: Any = self.game.get_state()
        screen = Image.fromarray(self.state.screen_buffer)
        self.picture = np.asarray(screen.resize(self.size, Image.Resampling.BOX))

    def _observation(self) -> dict[str, Any]:
        observation: dict[str, Any] = {"image": self.picture}
        if self.state.game_variables is not None:
            observation["variables"] = self.state.game_variables.astype(np.float32)
        return observation


def _make(task: Task, render: bool) -> gym.Env:
    return DoomScenario(**task.kwargs, **task.view, render_mode="rgb_array" if render else None)


def _task(scenario: str, together: bool) -> Task:
    file, limit = SCENARIOS[scenario]
    return Task(name=f"Vizdoom{scenario}{'-MultiBinary' * together}-v1", family="vizdoom",
                kwargs={"scenario": file, "limit": limit, "together": together}, view=VIEW,
                episode_limit=limit // VIEW["frame_skip"],
                expert=file, packages=("vizdoom",), licence=LICENCE)


FAMILY = Family(
    title="ViZDoom",
    tasks=tuple(_task(scenario, together) for together in (False, True) for scenario in SCENARIOS),
    make=_make,
    experts=EXPERTS,
    modules=("vizdoom",),
    extra="nav3d",
)
