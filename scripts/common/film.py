"""Films of play: episodes side by side with their scores, as MP4 (PyAV, the extra `media`) or GIF (Pillow).

    reel = film_episodes("CartPole-v1", policy, range(9))
    encode_mp4(reel.sheets(), Path("films/CartPole-v1.mp4"), reel.fps)

All episodes of a reel start together and share one clock; one that has ended keeps its last frame, its score in colour. The
strip below shows the task, the step and how many tokens the policy reads per second.
"""

import io
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from calico.agent.policy import AgentPolicy
from calico.datasets.publish import replacing
from calico.envs import runner
from calico.envs.registry import Task, make
from calico.envs.runner import EnvironmentFault, rollout
from calico.scripts.common import console

FILM_FPS = 20           # where the environment does not say
MOST_FPS = 30           # environments that run faster are shown in slow motion: every step is a frame
MAX_FILM_FRAMES = 300   # of a GIF; longer films are thinned evenly, so that a page of a dozen stays below some 5 MB
MAX_FILM_SIDE = 300     # pixels, on the report's page; larger frames are reduced by a whole factor
REEL_STEPS = 600        # an episode is filmed until here
REEL_ROWS = 9           # episodes side by side, at most
REEL_SIDE = 480         # pixels; the tiles of a row are at most so wide together
GAP, STRIP = 4, 20      # pixels between the tiles, and of the strip below
WHITE, GOLD, GREY, BLACK = (255, 255, 255), (255, 200, 60), (40, 40, 40), (0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Film:
    """One recorded episode: frames uint8 (time, height, width, 3) and the return it reached, or had reached after `cut` steps
    where the film ends before the episode does (0: it does not)."""

    task: str
    frames: np.ndarray
    score: float
    fps: float = FILM_FPS
    cut: int = 0


# ---- filming --------------------------------------------------------------------------------------------------------

class SpeedMeter:
    """A policy that measures itself: tokens read per second of `act`, over the latest 50 steps."""

    def __init__(self, policy: AgentPolicy) -> None:
        self.policy = policy
        self.latest: deque[tuple[int, float]] = deque(maxlen=50)

    def reset(self, row: int, seed: int, env: gym.Env | None = None) -> None:
        self.policy.reset(row, seed, env)

    def act(self, observations: Sequence[Any], rows: Sequence[int]) -> list[Any]:
        before, began = self.policy.tokens_read, time.perf_counter()
        actions = self.policy.act(observations, rows)
        self.latest.append((self.policy.tokens_read - before, time.perf_counter() - began))
        return actions

    @property
    def tokens_per_second(self) -> float | None:
        """None before the first step."""
        tokens, seconds = (sum(column) for column in zip(*self.latest, strict=True)) if self.latest else (0, 0.0)
        return tokens / seconds if seconds else None


class Camera(runner.Film):
    """Keeps every step's frame as small as it will be shown, and the meter's figure at each step."""

    def __init__(self, side: int, meter: SpeedMeter) -> None:
        super().__init__(limit=REEL_STEPS + 1)
        self.side, self.meter = side, meter
        self.fps: float = FILM_FPS
        self.rates: dict[int, float | None] = {}

    def __call__(self, row: int, seed: int, steps: int, env: gym.Env) -> None:
        super().__call__(row, seed, steps, env)
        self.frames[seed][-1] = fit(self.frames[seed][-1], self.side)
        self.fps = min(MOST_FPS, env.metadata.get("render_fps") or FILM_FPS)
        self.rates[steps] = self.meter.tokens_per_second


@dataclass(frozen=True)
class EpisodeFilm:
    """One episode of a reel: frames before the first and after each step, and the score that was reached by then."""

    frames: Sequence[np.ndarray]   # T + 1 times uint8 (height, width, 3)
    scores: np.ndarray             # float64 (T + 1,)


@dataclass(frozen=True)
class FilmGrid:
    """Episodes of one task that started together.

    Attributes:
        rates: tokens per second at each step; None where there is no figure.
    """

    task: str
    takes: Sequence[EpisodeFilm]
    rates: Sequence[float | None]
    fps: float

    def __len__(self) -> int:
        """Frames of the film: those of the longest episode."""
        return max(len(take.frames) for take in self.takes)

    def sheets(self) -> Iterator[np.ndarray]:
        """The film, frame by frame: uint8 (height, width, 3), both even."""
        columns = columns_of(len(self.takes))
        rows = math.ceil(len(self.takes) / columns)
        height, width = (GAP + max(take.frames[0].shape[axis] for take in self.takes) for axis in (0, 1))
        sheet = Image.new("RGB", (even(columns * width - GAP), even(rows * height - GAP) + STRIP), GREY)
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
        top, middle = sheet.height - STRIP, sheet.height - STRIP // 2
        for step in range(len(self)):
            for number, take in enumerate(self.takes):
                corner = width * (number % columns), height * (number // columns)
                now = min(step, len(take.frames) - 1)
                sheet.paste(Image.fromarray(take.frames[now]), corner)
                label(draw, corner, f"{take.scores[now]:,.4g}", font, GOLD if now == len(take.frames) - 1 else WHITE)
            rate = self.rates[step]
            speed = "" if rate is None else f"{rate:,.0f} tokens/s"
            room = sheet.width - 12 - draw.textlength(speed, font)
            draw.rectangle((0, top, sheet.width, sheet.height), BLACK)
            draw.text((4, middle), shortened(f"{self.task}  step {step}", room, draw, font), WHITE, font, anchor="lm")
            draw.text((sheet.width - 4, middle), speed, WHITE, font, anchor="rm")
            yield np.array(sheet)


def film_episodes(task: Task | str, policy: AgentPolicy, seeds: Sequence[int], *,
                  make: Callable[[Task, bool], gym.Env] = make) -> FilmGrid:
    """Play one episode per seed, all side by side, and film each until its end or REEL_STEPS.

    Args:
        seeds: at most REEL_ROWS of them.
    Raises:
        EnvironmentFault: no episode could be played; one that fails beside others is reported and left out.
    """
    name = task if isinstance(task, str) else task.name
    meter = SpeedMeter(policy)
    camera = Camera(REEL_SIDE // columns_of(len(seeds)), meter)
    takes, faults = dict[int, EpisodeFilm](), list[EnvironmentFault]()

    def fail(fault: EnvironmentFault) -> None:
        console.note(f"not filmed: {fault}")
        faults.append(fault)

    with console.progress(f"film {name}", total=len(seeds), unit="episodes") as bar:
        for episode in rollout(task, meter, seeds, num_envs=len(seeds), max_steps=REEL_STEPS, on_step=camera,
                               on_fault=fail, record=False, render=True, make=make):
            takes[episode.seed] = EpisodeFilm(camera.frames[episode.seed], np.cumsum([0.0, *episode.rewards]))
            bar.advance()
    if not takes:
        raise faults[0]
    ended = [takes[seed] for seed in seeds if seed in takes]
    return FilmGrid(name, ended, [camera.rates[step] for step in sorted(camera.rates)], camera.fps)


def columns_of(count: int) -> int:
    """Columns of a grid that is about square: 1, 2 2, 2 2, 3 3 3, ..."""
    return math.ceil(math.sqrt(count))


def even(size: int) -> int:
    """H.264 halves the colours' resolution, so sides must be even."""
    return size + size % 2


def fit(frame: np.ndarray, side: int) -> np.ndarray:
    """The frame as large as fits `side` x `side`; enlarged by whole factors only, so that pixel art stays crisp."""
    height, width = frame.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return np.repeat(np.repeat(frame, int(scale), 0), int(scale), 1)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))


def label(draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, font: Any, colour: tuple[int, int, int]) -> None:
    """Text on a dark ground in the upper left corner of a tile."""
    position = corner[0] + 4, corner[1] + 3
    left, top, right, bottom = draw.textbbox(position, text, font)
    draw.rectangle((left - 3, top - 2, right + 2, bottom + 2), BLACK)
    draw.text(position, text, colour, font)


def shortened(text: str, width: float, draw: ImageDraw.ImageDraw, font: Any) -> str:
    """The end of the text that fits, for tasks with long names in narrow films."""
    while text and draw.textlength(text, font) > width:
        text = text[1:]
    return text


def side_by_side(films: Sequence[Film], columns: int = 5, side: int = 112, frames: int = 120) -> np.ndarray:
    """Films of several tasks in one, in a grid; short ones begin again. Returns uint8 (frames, height, width, 3)."""
    rows = -(-len(films) // columns)
    sheet = np.full((frames, rows * side, columns * side, 3), 255, np.uint8)
    for number, film in enumerate(films):
        top, left = side * (number // columns), side * (number % columns)
        scale = (side - 4) / max(film.frames.shape[1:3])
        height, width = (round(size * scale) for size in film.frames.shape[1:3])
        small = np.stack([np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BOX))
                          for frame in film.frames[:frames]])
        down, right = top + (side - height) // 2, left + (side - width) // 2
        sheet[:, down : down + height, right : right + width] = small[np.arange(frames) % len(small)]
    return sheet


# ---- files ----------------------------------------------------------------------------------------------------------

def import_av() -> Any:
    """PyAV.

    Raises:
        ImportError: it is missing; the message says how to install it.
    """
    console.check_installed("av", "media", "films as MP4 need the package av", "(GIFs need nothing more: --gif DIR)")
    import av

    return av


def encode_mp4(frames: Iterable[np.ndarray], path: Path, fps: float, hold: float = 1.0) -> None:
    """Write frames as H.264 in MP4, which browsers and players open.

    Args:
        frames: uint8 (height, width, 3), sides even, at least one.
        hold: seconds that the last frame stays.
    """
    av = import_av()
    # faststart: the index stands first, so that a film plays while it is loading.
    with replacing(path) as temporary, \
            av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=max(1, round(fps)), options={"crf": "20"})
        stream.pix_fmt = "yuv420p"
        frame = np.zeros((0, 0, 3), np.uint8)
        for number, frame in enumerate(frames):
            if not number:
                stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        for _ in range(round(hold * fps)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def reel_gif(reel: FilmGrid) -> bytes:
    """The same film as a GIF; a long one keeps every n-th frame and its speed."""
    every = math.ceil(len(reel) / MAX_FILM_FRAMES)
    kept = [sheet for step, sheet in enumerate(reel.sheets()) if step % every == 0 or step == len(reel) - 1]
    return encode_gif(np.stack(kept), reel.fps / every)


def encode_gif(frames: np.ndarray, fps: float = FILM_FPS, hold: float = 1.0) -> bytes:
    """Encode frames as a GIF that loops for ever; one palette and no dithering, so that pixel art stays crisp.

    Args:
        frames: uint8 (time, height, width, 3), time >= 1.
        fps: frames per second; GIF counts in 1/100 s and browsers slow down beyond 50, so at most 50.
        hold: seconds that the last frame stays.
    Returns:
        The file's bytes. Colours are exact while the film has at most 256 of them.
    Raises:
        ValueError: frames of another shape or type, or fps outside (0, 50].
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise ValueError(f"frames are {frames.dtype} {frames.shape}; expected uint8 (time >= 1, height, width, 3)")
    if not 0 < fps <= 50:
        raise ValueError(f"fps={fps} is outside (0, 50]; pass every n-th frame to show an episode faster")
    palette = _palette(frames)
    images = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [max(20, round(100 / fps) * 10)] * len(images)
    durations[-1] += int(hold * 1000)
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=False)
    return buffer.getvalue()


def _palette(frames: np.ndarray) -> Image.Image:
    """A palette image: the film's own colours if they are few, else median cut over frames spread over the film."""
    colours = Image.fromarray(frames.reshape(-1, frames.shape[2], 3)).getcolors(256)   # None: more than 256
    if colours is None:
        sample = frames[np.linspace(0, len(frames) - 1, min(len(frames), 16)).astype(int)]   # (<=16, height, width, 3)
        return Image.fromarray(sample.reshape(-1, frames.shape[2], 3)).quantize(256, Image.Quantize.MEDIANCUT)
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.resize(sorted(colour for _, colour in colours), (256, 3)).astype(np.uint8).tobytes())
    return palette


def thin(frames: np.ndarray) -> np.ndarray:
    """At most MAX_FILM_FRAMES evenly spread frames (the last one among them), sides at most about MAX_FILM_SIDE."""
    if len(frames) > MAX_FILM_FRAMES:
        frames = frames[np.linspace(0, len(frames) - 1, MAX_FILM_FRAMES).astype(int)]
    factor = math.ceil(max(frames.shape[1:3]) / MAX_FILM_SIDE)
    if factor > 1:
        frames = np.stack([np.asarray(Image.fromarray(frame).reduce(factor)) for frame in frames])
    return frames
