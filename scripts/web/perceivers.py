"""The tab Perceiver: what runs of `calico perceive` answer: masked words, classes, optical flow, clips through few latents."""

import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from calico.agent.perceiver.flow_tiles import picture_flow
from calico.agent.perceiver.runs import Trained, load_trained, preparation
from calico.agent.perceiver.samples import TextInput
from calico.agent.perceiver.tasks import Autoencoder, Flow, MaskedLanguage
from calico.datasets.images import read_image
from calico.datasets.samples.flow import flow_picture
from calico.datasets.samples.moving_shapes import MovingShapes, moving_shape
from calico.envs.scenes import scenes
from calico.scripts.web.desk import Desk, told
from calico.scripts.web.found import perceivers

FPS, LARGER = 25, 5                                     # of the films of made clips: 48 pixels are few on a page
TOP = 5                                                 # answers that are shown
LARGEST = 512                                           # pixels of the longer side of pictures whose motion is asked for
TRAINED_BY = {                                          # what the tab shows, and which command trains one
    "fill-mask": "calico perceive fill-mask train reviews.jsonl --out runs/language",
    "classify-text": "calico perceive classify-text train reviews.jsonl --out runs/reviews",
    "classify-image": "calico perceive classify-image train pictures.zip --out runs/pictures",
    "classify-audio": "calico perceive classify-audio train sounds.jsonl --out runs/sounds",
    "classify-points": "calico perceive classify-points train clouds.npz --out runs/clouds",
    "flow": "calico perceive flow train textures --out runs/flow",
    "autoencode": "calico perceive autoencode train shapes --out runs/shapes",
}


@lru_cache(maxsize=4)
def loaded(run: str, task: str) -> Trained:
    """Kept, so that each question does not read it again."""
    return load_trained(run, (task,))


def filled(run: str, text: str) -> list[tuple[str, float]]:
    """The likeliest fillings of the blanks. Raises ValueError where there is no blank, or the text is too long."""
    from calico.scripts.perceiver_tasks import fill_mask  # here and not above: what trains takes seconds to load

    if fill_mask.BLANK not in text:
        raise ValueError(f"there is no {fill_mask.BLANK} in the text; write it where something is missing")
    trained = loaded(run, "fill-mask")
    model, fit_in = trained.model, preparation(trained)
    assert isinstance(model, MaskedLanguage) and isinstance(fit_in, TextInput)
    found = [fill_mask.fill(model, text, length, fit_in.positions) for length in fill_mask.LENGTHS]
    return [(entry["filled"], entry["probability"]) for entry in sorted(found, key=lambda entry: -entry["probability"])[:TOP]]


def classes(run: str, task: str, sample: str | None) -> dict[str, float]:
    """Class -> probability, of a file or a text. Raises ValueError where it is none."""
    from calico.scripts.perceiver_tasks import classify  # late, as above
    from calico.scripts.training import classification

    if not sample or not sample.strip():
        raise ValueError("there is nothing to classify yet; write a text, or choose a file")
    trained = loaded(run, task)
    fit_in = preparation(trained)
    _, samples = classification.open_named([sample], lambda name: classify.KINDS[task].open(name, fit_in))
    (chances,) = classification.probabilities(trained.model, fit_in, samples[:1], "fp32")
    return dict(zip(trained.document["classes"], chances.tolist(), strict=True))


def motion(run: str, first: str | None, second: str | None) -> tuple[np.ndarray, str]:
    """Flow in Middlebury's colours, uint8 (height, width, 3), and the mean motion in words. Raises ValueError for pictures of
    two sizes, or files that are none."""
    from calico.scripts.perceiver_tasks.flow import as_input  # late, as above

    if first is None or second is None:
        raise ValueError("give two pictures of the same size")
    pictures = [read_image(Path(path).read_bytes(), LARGEST)[0] for path in (first, second)]
    if pictures[0].shape != pictures[1].shape:
        (h, w, _), (h2, w2, _) = (picture.shape for picture in pictures)
        raise ValueError(f"the pictures are {w}x{h} and {w2}x{h2} pixels; give two of the same size")
    trained = loaded(run, "flow")
    model = trained.model
    assert isinstance(model, Flow)
    found = picture_flow(model, as_input(pictures[0], model), as_input(pictures[1], model),
                         trained.document.get("scales", [1.0])).cpu().numpy()
    right, down = (float(mean) for mean in found.mean(axis=(0, 1)))
    return flow_picture(found), (f"mean motion {abs(right):.1f} pixels {'right' if right >= 0 else 'left'}, {abs(down):.1f} "
                                 f"{'down' if down >= 0 else 'up'}; colour is direction, strength is length")


@dataclass(frozen=True)
class Reconstruction:
    """A made clip and what a run keeps of it.

    Attributes:
        given, made: pictures, uint8 (T, H, W, 3), and sound, int16 (samples,).
        rate: samples per second.
        chances: label -> probability.
        words: what is to be seen, and the decibels.
    """

    given: tuple[np.ndarray, np.ndarray]
    made: tuple[np.ndarray, np.ndarray]
    rate: int
    chances: dict[str, float]
    words: str


def reconstruction(run: str, number: int) -> Reconstruction:
    """The number-th of the made clips that training does not see, through the latents of a run."""
    from calico.scripts.perceiver_tasks import autoencode  # late, as above

    trained = loaded(run, "autoencode")
    model = trained.model
    assert isinstance(model, Autoencoder)
    form = autoencode.form(model.config)
    video = moving_shape(MovingShapes.HELD_OUT_SEED, number, form, model.config.frames)
    pictures, sound, scores, report = autoencode.reconstructed(model, video, start=0.0, clips=1, chunks=autoencode.CHUNKS)
    names = trained.document["classes"] or range(len(scores))
    chances = {str(name): float(chance) for name, chance in zip(names, scores, strict=False)}
    given, made = ((32767 * wave).round().astype(np.int16) for wave in (video.sound, sound))
    return Reconstruction((video.frames, given), (pictures, made), form.rate, chances,
                          f"{video.label}; pictures {report['video_psnr']:.1f} dB, sound {report['sound_psnr']:.1f} dB")


def moved_pair() -> tuple[np.ndarray, np.ndarray]:
    """Two pictures of which the second shows the first one's room 2 pixels further right."""
    first = next(scenes("minigrid", [4])).image
    return first, np.roll(first, 2, axis=1)


def build(desk: Desk) -> None:
    """Put the tab's contents into the open `gradio.Tab`."""
    import gradio as gr

    found = perceivers(desk.runs)
    for task, build_one in (("fill-mask", build_fill_mask), ("classify-text", build_text), ("classify-image", build_file),
                            ("classify-audio", build_file), ("classify-points", build_file), ("flow", build_flow),
                            ("autoencode", build_autoencode)):
        runs = [run for kind, run in found if kind == task]
        if not runs:
            continue
        with gr.Accordion(task):
            run = gr.Dropdown(runs, value=runs[0], label="Run", visible=len(runs) > 1)
            build_one(desk, run, task)
    missing = [task for task in TRAINED_BY if task not in {kind for kind, _ in found}]
    if missing:
        gr.Markdown(f"Below `{desk.runs}` there is no run yet of what is listed here. Train one, then start the page anew:\n\n"
                    + "\n".join(f"- **{task}**: `{TRAINED_BY[task]}`" for task in missing))


def build_fill_mask(desk: Desk, run: Any, task: str) -> None:
    import gradio as gr

    from calico.scripts.perceiver_tasks.fill_mask import BLANK

    text = gr.Textbox(f"This is a {BLANK}.", label=f"Text, {BLANK} where something is missing")
    ask = gr.Button("Fill in", variant="primary", elem_id="perceiver-fill")
    table = gr.Dataframe(headers=["text", "probability of a byte"], interactive=False, elem_id="perceiver-filled")

    def fill(run: str, text: str) -> list[list[Any]]:
        with told(), desk.lock:
            return [[words, round(chance, 3)] for words, chance in filled(run, text)]

    ask.click(fill, [run, text], table, api_visibility="private")


def build_text(desk: Desk, run: Any, task: str) -> None:
    import gradio as gr

    text = gr.Textbox("A waste of an evening.", label="Text")
    build_answer(desk, run, task, text)


def build_file(desk: Desk, run: Any, task: str) -> None:
    import gradio as gr

    sample: Any
    if task == "classify-image":
        sample = gr.Image(type="filepath", image_mode=None, label="Picture", height=240, elem_classes="pixels")
    else:
        label = "Sound" if task == "classify-audio" else "Point cloud (.npy) or mesh"
        sample = gr.File(type="filepath", label=label, height=140)
    build_answer(desk, run, task, sample)


def build_answer(desk: Desk, run: Any, task: str, sample: Any) -> None:
    import gradio as gr

    ask = gr.Button("Classify", variant="primary", elem_id=f"perceiver-{task}")
    answer = gr.Label(num_top_classes=TOP, label="Classes")

    def classify_one(run: str, sample: str | None) -> dict[str, float]:
        with told(), desk.lock:
            return classes(run, task, sample)

    ask.click(classify_one, [run, sample], answer, api_visibility="private")


def build_flow(desk: Desk, run: Any, task: str) -> None:
    import gradio as gr

    with gr.Row():
        first, second = (gr.Image(type="filepath", image_mode=None, format="png", label=label, height=240, min_width=140,
                                  elem_classes="pixels") for label in ("First picture", "Next picture"))
        flow = gr.Image(label="Motion", interactive=False, format="png", height=240, min_width=140, elem_classes="pixels",
                        elem_id="perceiver-flow-picture")
    with gr.Row(elem_classes="keys"):
        example = gr.Button("An example", elem_id="perceiver-flow-example")
        ask = gr.Button("Show the motion", variant="primary", elem_id="perceiver-flow")
    words = gr.Markdown(elem_id="perceiver-flow-words")

    def move(run: str, first: str | None, second: str | None) -> tuple[np.ndarray, str]:
        with told(), desk.lock:
            return motion(run, first, second)

    example.click(moved_pair, None, [first, second], api_visibility="private")
    ask.click(move, [run, first, second], [flow, words], api_visibility="private")


def build_autoencode(desk: Desk, run: Any, task: str) -> None:
    import gradio as gr

    from calico.scripts.common.film import encode_mp4

    with gr.Row():
        number = gr.Slider(0, MovingShapes.HELD_OUT - 1, value=0, step=1, label="Made clip")
        ask = gr.Button("Through the latents", variant="primary", elem_id="perceiver-autoencode")
    players = []
    for label in ("In", "Out"):
        with gr.Row():
            players += [gr.Video(label=label, interactive=False, height=240, autoplay=True, loop=True,
                                 elem_id=f"perceiver-film-{label.lower()}"),
                        gr.Audio(label=f"{label}: sound", interactive=False, elem_id=f"perceiver-sound-{label.lower()}")]
    answer = gr.Label(num_top_classes=TOP, label="Classes")
    words = gr.Markdown(elem_id="perceiver-autoencode-words")

    def show(run: str, number: float) -> list[Any]:
        with told(), desk.lock:
            found = reconstruction(run, int(number))
            folder, shown = Path(tempfile.mkdtemp(prefix="calico-clip-")), list[Any]()
            for name, (pictures, sound) in (("in", found.given), ("out", found.made)):
                film = folder / f"{name}.mp4"
                encode_mp4(pictures.repeat(LARGER, axis=1).repeat(LARGER, axis=2), film, FPS, hold=0)
                shown += [str(film), (found.rate, sound)]
            return [*shown, found.chances, found.words]

    ask.click(show, [run, number], [*players, answer, words], api_visibility="private")
