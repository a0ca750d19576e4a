"""`calico perceive autoencode train|predict`: video, its sound and its label through one small set of latents and back."""

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from calico.agent.hardware import usable_device
from calico.agent.perceiver.inputs import space_to_depth
from calico.agent.perceiver.losses import autoencoding_loss, psnr
from calico.agent.perceiver.runs import config_to_json, load_trained
from calico.agent.perceiver.sizes import SMALL_AUTOENCODER
from calico.agent.perceiver.spread import spread
from calico.agent.perceiver.tasks import Autoencoder, AutoencoderConfig
from calico.datasets.publish import replace_file
from calico.datasets.samples.moving_shapes import MovingShapes
from calico.datasets.samples.video import Clips, Format, Video, clip, read_video, read_videos
from calico.datasets.sounds import encode_wav
from calico.scripts.common import console
from calico.scripts.common.film import encode_mp4
from calico.scripts.perceiver_tasks import training as runs
from calico.scripts.perceiver_tasks.training import TaskSettings, load_task_settings
from calico.scripts.training.classification import costs, write_report

SHAPES = "shapes"   # the word for no videos
FPS = 25            # as the released model
MEASURED = 2048     # pixels, or patches, of a held-out clip at most; the same ones each time
MOST_DECIBELS = 150.0  # clips of one colour, or silent ones, would have infinitely many, which JSON does not know
CHUNKS = 128        # as published
MEASURED_AT_ONCE = 16   # clips

TRAIN = """Train a Perceiver IO to keep video, sound and label in a few latents.

    calico perceive autoencode train shapes --out runs/shapes                # moving shapes that are heard, made on the fly
    calico perceive autoencode train videos --out runs/videos                # a folder; <label>/<file> gives labels
    calico perceive autoencode train videos.jsonl init=runs/shapes training.minutes=10 --out runs/videos

DATA is a folder of videos, or JSON lines with file and perhaps label and sound, files beside it. A video without sound gets
that of a sound file of its name beside it, else silence. The last fifth of each video is held out. The word `shapes` takes
twelve classes of made clips, and measures others of them. The same command continues.
"""
PREDICT = """Reconstruct videos with their sound, and say what is to be seen.

    calico perceive autoencode predict runs/videos clip.mp4 --out made            # made/clip.mp4, made/clip.wav
    calico perceive autoencode predict runs/videos clip.mp4 --out made --start 2.5 --clips 4 --json
    calico perceive autoencode predict runs/shapes shapes --out made --clips 4            # made clips, see train

RUN is what `calico perceive autoencode train` made, or the folder of a Hugging Face PerceiverForMultimodalAutoencoding. Each
clip is encoded once and decoded in chunks; more of them take less memory and change nothing.
"""


# ---- train -----------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class AutoencodeSettings(TaskSettings):
    batch_size: int = 8
    side: int = 48               # pixels of the square that videos are cut to
    points: int = 512            # pixels of a clip, and patches of its sound, that a step decodes
    # of the mean errors of pixels in [0, 1] and samples in [-1, 1], and of the label's cross-entropy; see losses.WEIGHTS
    image_weight: float = 1.0
    audio_weight: float = 1.0
    label_weight: float = 0.1

    LEAST: ClassVar[Mapping[str, str]] = {"points": "1"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side < 8 or self.side % 4:
            raise ValueError(f"side={self.side} must be a multiple of 4 pixels, at least 8")
        if min(self.weights.values()) < 0 or not any(self.weights.values()):
            raise ValueError(f"the weights {self.weights} must not be negative, and not all 0; see image_weight, audio_weight, "
                             "label_weight")

    @property
    def weights(self) -> dict[str, float]:
        return {"image": self.image_weight, "audio": self.audio_weight, "label": self.label_weight}


DEFAULTS = AutoencodeSettings(optimizer=replace(AutoencodeSettings().optimizer, learning_rate=2e-3)).lasting(2000)


def train(task: str, argv: Sequence[str]) -> int:
    arguments = runs.parse_training(runs.training_parser(task, TRAIN, DEFAULTS), argv)
    settings = load_task_settings(DEFAULTS, arguments.overrides)
    device, seed = usable_device(console.chosen_device(arguments.device)), settings.training.seed
    trained = runs.started_from(settings, (task,))
    start = trained.model if trained else None
    assert start is None or isinstance(start, Autoencoder)
    config = start.config if start else sized(SMALL_AUTOENCODER, settings.side)
    clips, data = open_clips(arguments.data, config, seed)
    if start and len(clips.labels) > config.labels:
        raise ValueError(f"{arguments.data} has {len(clips.labels)} labels and {settings.init} {config.labels}; leave init out")
    torch.manual_seed(seed)
    model = (start or new_model(replace(config, labels=len(clips.labels)))).to(device)
    kept = {name: tensor.to(device) for name, tensor in tensors(clips.held_out()).items()}
    document = {"task": task, "model": config_to_json(model.config), "classes": clips.labels, "data": data}
    trainer = runs.train(model, partial(autoencoding_loss, weights=settings.weights),
                         lambda number: tensors(clips.batch(number, settings.batch_size, settings.points)),
                         lambda model: measure(model, kept), document, settings, arguments.out, str(device),
                         arguments.data_changed, shared=("pixels", "patches"))
    report = {"task": task, "videos": len(kept["label"]), **costs(trainer), **trainer.evaluation, **constant(kept)}
    write_report(report, arguments.out)
    console.print_result(report, arguments.json, ("figure", "value"), report.items())
    console.wrote(arguments.out)
    return 0


def sized(config: AutoencoderConfig, side: int) -> AutoencoderConfig:
    """The same for square videos of another size, which are read and decoded in as many blocks."""
    def scaled(block: tuple[int, int, int]) -> tuple[int, int, int]:
        return block[0], max(1, side * block[1] // config.size[0]), max(1, side * block[2] // config.size[1])

    return replace(config, size=(side, side), resolution=(side // 4, side // 4), block=scaled(config.block),
                   video_patch=scaled(config.video_patch))


def new_model(config: AutoencoderConfig) -> Autoencoder:
    """With random weights from which it learns soon."""
    model = Autoencoder(config)
    spread(model)
    return model


def open_clips(data: Path, config: AutoencoderConfig, seed: int) -> tuple[Clips | MovingShapes, Any]:
    """What is learned from, and what identifies it."""
    shape = form(config)
    if str(data) == SHAPES:
        return MovingShapes(shape, config.frames, config.patch, seed, math.prod(config.video_patch)), SHAPES
    videos = read_videos(data, shape)
    for note in (note for video in videos for note in video.notes):
        console.note(note)
    return (Clips(videos, config.frames, config.samples_per_frame, config.patch, seed,
                  math.prod(config.video_patch)),
            [[video.name, len(video.frames), float(video.sound.std())] for video in videos])


def form(config: AutoencoderConfig) -> Format:
    """How videos are read for a model."""
    return Format(size=config.size, fps=FPS, samples_per_frame=config.samples_per_frame)


def tensors(batch: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def measure(model: Autoencoder, batch: Mapping[str, Tensor]) -> dict[str, float]:
    """Decibels of video and sound at fixed positions, and how often the label, which the model does not read, is right."""
    config, cells = model.config, math.prod(model.config.video_grid)
    pixels = torch.arange(cells)
    if cells > MEASURED:
        pixels = torch.randint(cells, (MEASURED,), generator=torch.Generator().manual_seed(0))
    points = {"image": pixels, "audio": torch.arange(config.audio_grid[0]), "label": None}
    inputs = inputs_of(batch, config)
    parts = [model({name: tensor[first:first + MEASURED_AT_ONCE] for name, tensor in inputs.items()}, points)
             for first in range(0, len(batch["label"]), MEASURED_AT_ONCE)]
    made = {name: torch.cat([part[name] for part in parts]) for name in points}
    truth = space_to_depth(batch["image"], config.video_patch).flatten(1, 3)[:, pixels]
    right = made["label"].argmax(dim=1) == batch["label"]
    return {"video_psnr": float(psnr(made["image"].float().clamp(0, 1), truth)),
            "sound_psnr": float(psnr(made["audio"].float().clamp(-1, 1), batch["audio"])),
            "label_accuracy": float(right.float().mean())}


def constant(batch: Mapping[str, Tensor]) -> dict[str, float]:
    """What one colour per clip (its mean), its mean frame, and silence reach."""
    colour, frame = batch["image"].mean(dim=(1, 3, 4), keepdim=True), batch["image"].mean(dim=1, keepdim=True)
    found = {"video_psnr_of_one_colour": psnr(colour.expand_as(batch["image"]), batch["image"]),
             "video_psnr_of_mean_frame": psnr(frame.expand_as(batch["image"]), batch["image"]),
             "sound_psnr_of_silence": psnr(torch.zeros_like(batch["audio"]), batch["audio"])}
    return {name: min(float(value), MOST_DECIBELS) for name, value in found.items()}


def inputs_of(batch: Mapping[str, Tensor], config: AutoencoderConfig) -> dict[str, Tensor]:
    """What the model reads; the label is for it to guess."""
    image = batch["image"]
    return {"image": image, "audio": batch["audio"], "label": image.new_zeros(len(image), config.labels)}


# ---- predict ---------------------------------------------------------------------------------------------------------------

def predict(task: str, argv: Sequence[str]) -> int:
    parser = console.make_parser(f"perceive {task} predict", PREDICT)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO")
    parser.add_argument("--out", type=Path, required=True, help="folder for the reconstructions")
    parser.add_argument("--sound", type=Path, help="a sound file in place of the video's own")
    parser.add_argument("--start", type=float, default=0.0, help="seconds into the video (default 0)")
    parser.add_argument("--clips", type=int, default=1, help="so many clips, one after the other (default 1)")
    parser.add_argument("--chunks", type=int, default=CHUNKS, help="that a clip is decoded in (default 128)")
    parser.add_argument("--top", type=int, default=5, help="labels that are printed (default 5)")
    console.add_common(parser, "--device", "--json")
    options = parser.parse_args(argv)
    if min(options.clips, options.chunks, options.top) < 1 or options.start < 0:
        raise ValueError("--clips, --chunks and --top must be at least 1, and --start not negative")
    if len({path.stem for path in options.videos}) < len(options.videos):
        raise ValueError("two of the videos have the same name, and would be written to one file; give them one at a time")
    trained = load_trained(options.run, (task,), console.chosen_device(options.device))
    model, classes = trained.model, trained.document["classes"]
    assert isinstance(model, Autoencoder)
    reports, written = [], []
    for name, video in opened(options, model.config):
        for note in video.notes:
            console.note(note)
        image, sound, scores, report = reconstructed(model, video, options.start, options.clips, options.chunks)
        best = scores.argsort(descending=True)[:options.top].tolist()
        labels = {str(classes[i]) if i < len(classes) else str(i): float(scores[i]) for i in best}
        reports.append({"video": name, **({"shown": video.label} if video.label else {}), **report, "labels": labels})
        film, wav = (options.out / f"{Path(name).stem}{suffix}" for suffix in (".mp4", ".wav"))
        encode_mp4(image, film, FPS, hold=0)
        replace_file(wav, encode_wav(sound, form(model.config).rate))
        written += [film, wav]
    console.print_result(reports, options.json, ("video", "frames", "video dB", "sound dB", "label", "probability"), [
        [report["video"], report["frames"], report["video_psnr"], report["sound_psnr"], label, chance]
        for report in reports for label, chance in report["labels"].items()])
    console.wrote(*written)
    return 0


def opened(options: argparse.Namespace, config: AutoencoderConfig) -> Iterator[tuple[str, Video]]:
    """The videos by name; for `shapes` so many made clips as --clips says, of those that training does not see."""
    for path in options.videos:
        if str(path) == SHAPES:
            made = MovingShapes(form(config), config.frames, config.patch)
            yield from ((f"{SHAPES}-{number}", made.clip(made.HELD_OUT_SEED, number)) for number in range(options.clips))
        else:
            yield str(path), read_video(path, form(config), sound=options.sound)


@torch.inference_mode()
def reconstructed(model: Autoencoder, video: Video, start: float, clips: int, chunks: int,
                  ) -> tuple[np.ndarray, np.ndarray, Tensor, dict[str, Any]]:
    """Frames uint8 (T, H, W, 3), sound (samples,), probabilities of the labels (mean over the clips), and the figures."""
    config, device = model.config, next(model.parameters()).device
    first = round(start * FPS)
    if first >= len(video.frames):
        raise ValueError(f"{video.name} lasts {len(video.frames) / FPS:.1f} s; --start {start} lies behind its end")
    starts = range(first, len(video.frames), config.frames)[:clips]
    truth, made, scores = [], [], []
    with console.progress(f"reconstruct {video.name}", total=len(starts), unit="clips") as bar:
        for first_frame in starts:
            shown = clip(video, first_frame, config.frames, config.samples_per_frame)
            image, sound = (torch.from_numpy(part).to(device) for part in shown)
            parts = model.reconstruct(inputs_of({"image": image[None], "audio": sound[None]}, config), chunks)
            truth.append((image, sound))
            made.append((parts["image"][0].float().clamp(0, 1), parts["audio"][0].float().clamp(-1, 1)))
            scores.append(parts["label"][0].float().softmax(dim=0))
            bar.advance()
    frames = min(len(video.frames) - first, config.frames * len(starts))        # the last clip may have been filled up
    samples = frames * config.samples_per_frame
    (image, sound), (true_image, true_sound) = (
        (torch.cat([image for image, _ in pairs])[:frames], torch.cat([sound for _, sound in pairs])[:samples])
        for pairs in (made, truth))
    report = {"frames": frames, "seconds": frames / FPS, "video_psnr": float(psnr(image, true_image)),
              "sound_psnr": float(psnr(sound, true_sound))}
    pixels = (255 * image).round().to(torch.uint8).permute(0, 2, 3, 1)
    return pixels.cpu().numpy(), sound.cpu().numpy(), torch.stack(scores).mean(dim=0).cpu(), report
