"""`calico perceive flow train|predict`: optical flow, where each pixel of a picture is in the next one."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calico.agent.hardware import usable_device
from calico.agent.perceiver.flow_tiles import picture_flow
from calico.agent.perceiver.losses import FLOW_SCALE, end_point_error, flow_loss
from calico.agent.perceiver.runs import config_to_json, load_trained
from calico.agent.perceiver.sizes import SMALL_FLOW
from calico.agent.perceiver.tasks import Flow
from calico.datasets.images import ImageStore, encode_file
from calico.datasets.publish import replace_file
from calico.datasets.samples.flow import FlowPair, FlowPairs, flow_picture, read_flow, write_flo
from calico.scripts.common import console
from calico.scripts.common.media_inputs import read_picture
from calico.scripts.perceiver_tasks import training as runs
from calico.scripts.perceiver_tasks.moving_pictures import MotionConfig, MovingPictures, squares, textures
from calico.scripts.perceiver_tasks.training import TaskSettings, load_task_settings
from calico.scripts.training.classification import costs, write_report

TEXTURES = "textures"      # the word for no pictures
BANK = 512                 # textures, and pictures at most
TEXEL = 64                 # pixels of their sides
HELD_OUT = 4, 32           # batches and pairs of each that are made to be measured
MAX_SIDE = 1 << 12

TRAIN = """Train a Perceiver IO to see motion.

    calico perceive flow train textures --out runs/flow                      # textures that move, made on the fly
    calico perceive flow train photos.zip training.minutes=20 --out runs/flow       # and pictures
    calico perceive flow train photos.zip pairs=pairs.jsonl --out runs/flow

DATA is a folder or zip of pictures, which move as layers of made pairs beside textures; the word `textures` takes those alone.
What is measured are made pairs of another seed, and with pairs= the real ones of a manifest: JSON lines with img0, img1 and
flow (.flo, .npz, KITTI's .png), files beside it or in a zip of its name. The same command continues a run.
"""
PREDICT = """Where each pixel of a picture is in the next one: a .flo file and a picture in Middlebury's colours.

    calico perceive flow predict runs/flow frame1.png frame2.png --out flow            # flow/flow.flo, flow/flow.png
    calico perceive flow predict runs/flow frame1.png frame2.png --out flow --truth true.flo
    calico perceive flow predict runs/flow --pairs pairs.jsonl --json                  # end-point errors, in pixels

RUN is what `calico perceive flow train` made, or the folder of a Hugging Face PerceiverForOpticalFlow. Pictures of any size
are cut into tiles that overlap. A run of ours estimates several times, first in small pictures, then the rest of the motion in
larger ones: --scales 16,8 are pictures of a sixteenth and then an eighth of the height and width.
"""


# ---- train -----------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class FlowSettings(TaskSettings):
    pairs: str = ""              # a manifest of real pairs, measured and never trained on
    reach: float = 5.0           # pixels of the longest made motion
    scales: list[float] = field(default_factory=lambda: [16.0, 8.0, 4.0])     # of `predict`

    def __post_init__(self) -> None:
        if self.batch_size < 2:
            raise ValueError(f"batch_size={self.batch_size} must be at least 2: each pair is also shown reversed")


DEFAULTS = FlowSettings(optimizer=replace(FlowSettings().optimizer, learning_rate=2e-3)).lasting(4000)


def train(task: str, argv: Sequence[str]) -> int:
    arguments = runs.parse_training(runs.training_parser(task, TRAIN, DEFAULTS), argv)
    settings = load_task_settings(DEFAULTS, arguments.overrides)
    seed, device = settings.training.seed, usable_device(console.chosen_device(arguments.device))
    torch.manual_seed(seed)
    start = runs.started_from(settings, (task,))
    model = start.model if start else Flow(SMALL_FLOW)
    assert isinstance(model, Flow)
    model = model.to(device)
    bank, pictures = open_bank(arguments.data)
    motion = MotionConfig(size=model.config.size, reach=settings.reach)
    made, kept = MovingPictures(bank, motion, seed), MovingPictures(bank, motion, seed + (1 << 32))
    held_out = [kept.batch(step, HELD_OUT[1] // 2) for step in range(HELD_OUT[0])]
    pairs = list(FlowPairs(Path(settings.pairs))) if settings.pairs else []

    def evaluate(model: Flow) -> dict[str, float]:
        errors = [end_point_error(FLOW_SCALE * model(batch["frames"].to(device)).float().cpu(), batch["flow"])
                  for batch in held_out]
        found = {"end_point_error": float(torch.stack(errors).mean())}
        return found | ({"pairs": mean_of(measure(model, pairs, settings.scales))["end_point_error"]} if pairs else {})

    document = {"task": task, "model": config_to_json(model.config), "motion": asdict(motion), "shown": pictures,
                "scales": settings.scales}
    trainer = runs.train(model, flow_loss, lambda number: made.batch(number, settings.batch_size // 2), evaluate, document,
                         settings, arguments.out, str(device), arguments.data_changed)
    report: dict[str, Any] = {
        "task": task, **costs(trainer), "end_point_error": trainer.evaluation["end_point_error"],
        "zero_flow": float(torch.stack([end_point_error(0 * batch["flow"], batch["flow"]) for batch in held_out]).mean())}
    if pairs:
        report["pairs"] = measure(trainer.final, pairs, settings.scales)
    write_report(report, arguments.out)
    show(report, arguments.json)
    console.wrote(arguments.out)
    return 0


def numbers(words: str) -> tuple[float, ...]:
    """ "16,8" -> (16.0, 8.0); argparse reports the ValueError."""
    return tuple(float(word) for word in words.split(","))


def open_bank(data: Path) -> tuple[Tensor, str]:
    """What layers show, uint8 (n, 3, TEXEL, TEXEL), and words that identify it."""
    bank = textures(BANK, TEXEL)
    if str(data) == TEXTURES:
        return bank, TEXTURES
    store = ImageStore(data, max_side=None, cache_bytes=0)
    names = [name for name in store.names() if name.lower().endswith((".png", ".jpg", ".jpeg", ".webp"))]
    if not names:
        raise ValueError(f"{data} holds no PNG, JPEG or WebP; give a folder or zip of pictures, or the word `{TEXTURES}`")
    chosen = names[::-(-len(names) // BANK)]
    return torch.cat([bank, squares(store, chosen, TEXEL)]), store.fingerprint(chosen)


# ---- measure ---------------------------------------------------------------------------------------------------------------

def measure(model: Flow, pairs: Sequence[FlowPair], scales: Sequence[float]) -> list[dict[str, Any]]:
    """Per pair the end-point error in pixels: the model's, that of no motion, and that of the pair's own mean motion, which
    nobody knows who has only the pictures."""
    rows = []
    for pair in pairs:
        truth = torch.from_numpy(pair.flow.copy())
        found = picture_flow(model, as_input(pair.first, model), as_input(pair.second, model), scales).cpu()
        mean = truth[truth.isfinite().all(dim=-1)].mean(dim=0)
        guesses = {"end_point_error": found, "zero_flow": torch.zeros_like(truth), "mean_flow": mean.expand_as(truth)}
        rows.append({"pair": pair.name, **{name: float(end_point_error(guess, truth)) for name, guess in guesses.items()}})
    return rows


def mean_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0] if name != "pair"}


def as_input(picture: np.ndarray, model: Flow) -> Tensor:
    """uint8 (H, W, 3) -> (3, H, W) in [-1, 1] on the model's device."""
    tensor = torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 127.5 - 1
    return tensor.to(next(model.parameters()).device)


def show(report: Mapping[str, Any], as_json: bool) -> None:
    """The report; pairs as a table that ends with their mean."""
    if as_json:
        console.print_json(report)
        return
    if "pairs" in report:
        rows = [*report["pairs"], {"pair": "mean", **mean_of(report["pairs"])}]
        console.print_table(("pair", "end-point error", "no motion", "its mean motion"), [list(row.values()) for row in rows])
    if figures := [(name, value) for name, value in report.items() if name != "pairs"]:
        console.print_table(("figure", "value"), figures)


# ---- predict ---------------------------------------------------------------------------------------------------------------

def predict(task: str, argv: Sequence[str]) -> int:
    parser = console.make_parser(f"perceive {task} predict", PREDICT)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("frames", nargs="*", type=Path, metavar="FRAME", help="two pictures of one size")
    parser.add_argument("--out", type=Path, help="folder for flow.flo and flow.png")
    parser.add_argument("--truth", type=Path, help="the true flow of the two: .flo, .npz or KITTI's .png")
    parser.add_argument("--pairs", type=Path, help="in place of two frames: a manifest of pairs with their truth")
    parser.add_argument("--scales", type=numbers, metavar="16,8,4", help="default: those of the run; 1 for Hugging Face's")
    parser.add_argument("--largest", type=float, help="pixels of full colour in the picture (default: the longest motion)")
    console.add_common(parser, "--device", "--json")
    options = parser.parse_args(argv)
    if (len(options.frames) != 2 or options.out is None) if options.pairs is None else options.frames:
        raise ValueError(f"{len(options.frames)} frames came; give two frames and --out FOLDER, or --pairs MANIFEST alone")
    trained = load_trained(options.run, (task,), console.chosen_device(options.device))
    model, scales = trained.model, options.scales or trained.document.get("scales", [1.0])
    assert isinstance(model, Flow)
    if options.pairs is not None:
        show({"pairs": measure(model, list(FlowPairs(options.pairs)), scales)}, options.json)
        return 0
    first, second = (read_picture(path, MAX_SIDE) for path in options.frames)
    found = picture_flow(model, as_input(first, model), as_input(second, model), scales).cpu().numpy()
    right, down = (float(mean) for mean in found.mean(axis=(0, 1)))
    report = {"longest": float(np.hypot(found[..., 0], found[..., 1]).max()), "mean_right": right, "mean_down": down}
    if options.truth is not None:
        truth = read_flow(options.truth)
        if truth.shape != found.shape:
            raise ValueError(f"{options.truth} is {truth.shape[1]}x{truth.shape[0]} and the frames are "
                             f"{found.shape[1]}x{found.shape[0]} pixels; give the truth of these frames")
        report["end_point_error"] = float(end_point_error(torch.from_numpy(found), torch.from_numpy(truth)))
    write_flo(options.out / "flow.flo", found)
    replace_file(options.out / "flow.png", encode_file(flow_picture(found, options.largest)))
    show(report, options.json)
    console.wrote(options.out / "flow.flo", options.out / "flow.png")
    return 0
