"""`calico perceive autoencode train|predict`: video, its sound and its label through one small set of latents and back."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calico.agent.hardware import usable_device
from calico.agent.perceiver.losses import autoencoding_loss, psnr
from calico.agent.perceiver.runs import config_to_json, load_trained
from calico.agent.perceiver.sizes import SMALL_AUTOENCODER
from calico.agent.perceiver.tasks import Autoencoder, AutoencoderConfig
from calico.datasets.publish import replace_file
from calico.datasets.samples.video import Clips, Format, Video, clip, read_video, read_videos
from calico.datasets.sounds import encode_wav
from calico.scripts.common import console
from calico.scripts.common.film import encode_mp4
from calico.scripts.perceiver_tasks import training as runs
from calico.scripts.perceiver_tasks.training import TaskSettings, load_task_settings
from calico.scripts.training.classification import costs, write_report

FPS = 25            # as the released model
MEASURED = 2048     # pixels and patches of sound per held-out clip; the same ones each time
MOST_DECIBELS = 150.0  # clips of one colour, or silent ones, would have infinitely many, which JSON does not know
CHUNKS = 128        # as published

TRAIN = """Train a Perceiver IO to keep video, sound and label in a few latents.

    calico perceive autoencode train videos --out runs/videos                # a folder; <label>/<file> gives labels
    calico perceive autoencode train videos.jsonl training.minutes=10 --out runs/videos

DATA is a folder of videos, or JSON lines with file and perhaps label and sound, files beside it. A video without sound gets
that of a sound file of its name beside it, else silence. The last fifth of each video is held out. The same command continues.
"""
PREDICT = """Reconstruct videos with their sound, and say what is to be seen.

    calico perceive autoencode predict runs/videos clip.mp4 --out made            # made/clip.mp4, made/clip.wav
    calico perceive autoencode predict runs/videos clip.mp4 --out made --start 2.5 --clips 4 --json

RUN is what `calico perceive autoencode train` made, or the folder of a Hugging Face PerceiverForMultimodalAutoencoding. Each
clip is encoded once and decoded in chunks; more of them take less memory and change nothing.
"""


# ---- train -----------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class AutoencodeSettings(TaskSettings):
    batch_size: int = 8
    side: int = 48               # pixels of the square that videos are cut to

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side < 8 or self.side % 4:
            raise ValueError(f"side={self.side} must be a multiple of 4 pixels, at least 8")


DEFAULTS = AutoencodeSettings().lasting(2000)


def train(task: str, argv: Sequence[str]) -> int:
    arguments = runs.parse_training(runs.training_parser(task, TRAIN, DEFAULTS), argv)
    settings = load_task_settings(DEFAULTS, arguments.overrides)
    device, seed = usable_device(console.chosen_device(arguments.device)), settings.training.seed
    trained = runs.started_from(settings, (task,))
    start = trained.model if trained else None
    assert start is None or isinstance(start, Autoencoder)
    side = (settings.side, settings.side)
    config = start.config if start else replace(SMALL_AUTOENCODER, size=side, resolution=(side[0] // 4, side[1] // 4))
    videos = read_videos(arguments.data, form(config))
    for note in (note for video in videos for note in video.notes):
        console.note(note)
    clips = Clips(videos, config.frames, config.samples_per_frame, config.patch, seed)
    if start and len(clips.labels) > config.labels:
        raise ValueError(f"{arguments.data} has {len(clips.labels)} labels and {settings.init} {config.labels}; leave init out")
    torch.manual_seed(seed)
    model = (start or Autoencoder(replace(config, labels=len(clips.labels)))).to(device)
    kept = {name: tensor.to(device) for name, tensor in tensors(clips.held_out()).items()}
    document = {"task": task, "model": config_to_json(model.config), "classes": clips.labels,
                "data": [[video.name, len(video.frames), float(video.sound.std())] for video in videos]}
    trainer = runs.train(model, autoencoding_loss, lambda number: tensors(clips.batch(number, settings.batch_size)),
                         lambda model: measure(model, kept), document, settings, arguments.out, str(device),
                         arguments.data_changed, shared=("pixels", "patches"))
    report = {"task": task, "videos": len(videos), **costs(trainer), **trainer.evaluation, **constant(kept)}
    write_report(report, arguments.out)
    console.print_result(report, arguments.json, ("figure", "value"), report.items())
    console.wrote(arguments.out)
    return 0


def form(config: AutoencoderConfig) -> Format:
    """How videos are read for a model."""
    return Format(size=config.size, fps=FPS, samples_per_frame=config.samples_per_frame)


def tensors(batch: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def measure(model: Autoencoder, batch: Mapping[str, Tensor]) -> dict[str, float]:
    """Decibels of video and sound at fixed positions, and how often the label, which the model does not read, is right."""
    config = model.config
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(int(np.prod(config.video_grid)), (MEASURED,), generator=generator)
    made = model(inputs_of(batch, config), {"image": pixels, "audio": torch.arange(config.audio_grid[0]), "label": None})
    truth = batch["image"].movedim(2, -1).flatten(1, 3)[:, pixels]
    right = made["label"].argmax(dim=1) == batch["label"]
    return {"video_psnr": float(psnr(made["image"].float().clamp(0, 1), truth)),
            "sound_psnr": float(psnr(made["audio"].float().clamp(-1, 1), batch["audio"])),
            "label_accuracy": float(right.float().mean())}


def constant(batch: Mapping[str, Tensor]) -> dict[str, float]:
    """What one colour per clip, its mean, and silence reach."""
    colour = batch["image"].mean(dim=(1, 3, 4), keepdim=True)
    found = {"video_psnr_of_one_colour": psnr(colour.expand_as(batch["image"]), batch["image"]),
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
    for path in options.videos:
        video = read_video(path, form(model.config), sound=options.sound)
        for note in video.notes:
            console.note(note)
        image, sound, scores, report = reconstructed(model, video, options)
        best = scores.argsort(descending=True)[:options.top].tolist()
        labels = {str(classes[i]) if i < len(classes) else str(i): float(scores[i]) for i in best}
        reports.append({"video": str(path), **report, "labels": labels})
        film, wav = options.out / f"{path.stem}.mp4", options.out / f"{path.stem}.wav"
        encode_mp4(image, film, FPS, hold=0)
        replace_file(wav, encode_wav(sound, form(model.config).rate))
        written += [film, wav]
    console.print_result(reports, options.json, ("video", "frames", "video dB", "sound dB", "label", "probability"), [
        [report["video"], report["frames"], report["video_psnr"], report["sound_psnr"], label, chance]
        for report in reports for label, chance in report["labels"].items()])
    console.wrote(*written)
    return 0


@torch.inference_mode()
def reconstructed(model: Autoencoder, video: Video, options: argparse.Namespace,
                  ) -> tuple[np.ndarray, np.ndarray, Tensor, dict[str, Any]]:
    """Frames uint8 (T, H, W, 3), sound (samples,), probabilities of the labels (mean over the clips), and the figures."""
    config, device = model.config, next(model.parameters()).device
    first = round(options.start * FPS)
    if first >= len(video.frames):
        raise ValueError(f"{video.name} lasts {len(video.frames) / FPS:.1f} s; --start {options.start} lies behind its end")
    starts = range(first, len(video.frames), config.frames)[:options.clips]
    truth, made, scores = [], [], []
    with console.progress(f"reconstruct {video.name}", total=len(starts), unit="clips") as bar:
        for start in starts:
            shown = clip(video, start, config.frames, config.samples_per_frame)
            image, sound = (torch.from_numpy(part).to(device) for part in shown)
            parts = model.reconstruct(inputs_of({"image": image[None], "audio": sound[None]}, config), options.chunks)
            truth.append((image, sound))
            made.append((parts["image"][0].float().clamp(0, 1), parts["audio"][0].float().clamp(-1, 1)))
            scores.append(parts["label"][0].float().softmax(dim=0))
            bar.advance()
    frames = min(len(video.frames) - first, config.frames * len(starts))        # the last clip may have been filled up
    samples = frames * config.samples_per_frame
    (image, sound), (true_image, true_sound) = (
        (torch.cat([image for image, _ in clips])[:frames], torch.cat([sound for _, sound in clips])[:samples])
        for clips in (made, truth))
    report = {"frames": frames, "seconds": frames / FPS, "video_psnr": float(psnr(image, true_image)),
              "sound_psnr": float(psnr(sound, true_sound))}
    pixels = (255 * image).round().to(torch.uint8).permute(0, 2, 3, 1)
    return pixels.cpu().numpy(), sound.cpu().numpy(), torch.stack(scores).mean(dim=0).cpu(), report
