"""The tab Encoders: which pictures lie nearest to one, in the vectors of the network or of a data2vec encoder."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from calico.agent import generate
from calico.agent.data2vec.batches import Inputs
from calico.agent.data2vec.pretrained import load_pretrained
from calico.agent.talk import TextGenerator
from calico.datasets.images import read_image
from calico.datasets.synthetic.captions import caption
from calico.envs.scenes import scenes
from calico.scripts.common.media_inputs import largest_side
from calico.scripts.web.desk import Desk, told
from calico.scripts.web.found import encoders
from calico.tokenizers.document import caption_parts

POOL = {"minigrid": 60, "lander": 30}     # pictures among which neighbours are looked for
FIRST_SEED = 2_000_000                    # of them: no data set's
NEAREST = 6
SHOWN = 18                                # of the pool, to choose one from


@lru_cache(maxsize=1)
def pool() -> tuple[list[np.ndarray], list[str]]:
    """Pictures of the worlds, and what is true of them."""
    drawn = [scene for world, count in POOL.items() for scene in scenes(world, range(FIRST_SEED, FIRST_SEED + count))]
    return [scene.image for scene in drawn], [caption(scene.facts) for scene in drawn]


class Vectors:
    """What turns pictures into vectors: the run itself, or a run of `calico pretrain`; the pool's are kept."""

    def __init__(self, desk: Desk, source: str) -> None:
        """Raises ValueError where the source is no encoder of pictures."""
        self.desk = desk
        self.inputs: Inputs | None = None
        if source == desk.run:
            self.writer = TextGenerator(desk.agent.network)
        else:
            pretrained = load_pretrained(source, "vision")
            self.inputs = Inputs(pretrained.encoder, pretrained.text)
        self.pool = self(pool()[0])

    def __call__(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """float32 (n, width), of length 1, around the mean of the pool."""
        with self.desk.lock:
            if self.inputs is not None:
                from calico.scripts.training.encoder_data import embed  # here and not above: it loads SciPy

                found = embed(self.inputs, pictures)
            else:          # the hidden state from which the network begins its caption
                prompts = [self.writer.prompt(caption_parts(picture, None)) for picture in pictures]
                read = generate.read(self.writer.model, prompts, self.desk.agent.network.vocabulary.pad)
                found = read.last.float().cpu().numpy()
        if not hasattr(self, "centre"):
            self.centre = found.mean(axis=0)
        centred = found - self.centre
        return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)


def nearest(vectors: Vectors, picture: np.ndarray) -> list[tuple[np.ndarray, str]]:
    """The NEAREST pictures of the pool with their cosine similarity and caption; the picture itself is left out."""
    pictures, captions = pool()
    likeness = vectors.pool @ vectors([picture])[0]
    others = [i for i in np.argsort(-likeness) if not np.array_equal(pictures[i], picture)][:NEAREST]
    return [(pictures[i], f"{likeness[i]:.2f}: {captions[i]}") for i in others]


def build(desk: Desk, tab: Any) -> None:
    """Put the tab's contents into `tab`, the open gradio.Tab."""
    import gradio as gr

    kept: dict[str, Vectors] = {}
    sources = [desk.run, *encoders(desk.runs)]
    side = largest_side(desk.agent.saved)
    pictures: Any = {"object_fit": "contain", "interactive": False, "allow_preview": False, "format": "png", "buttons": [],
                     "show_label": False, "elem_classes": "pixels"}
    source = gr.Dropdown(sources, value=sources[0], label="Vectors of", elem_id="encoders-source",
                         info="this run, and encoders of pictures; one is trained by: calico pretrain "
                              "pretrain_images 'data.paths=[pictures.zip]' out=runs/pictures")
    with gr.Row(elem_classes="board"):
        with gr.Column(scale=2, min_width=280):
            gr.Markdown("Choose a picture:")
            chosen = gr.Gallery(columns=6, height="auto", elem_id="encoders-pool", **pictures)
            own = gr.Image(type="filepath", image_mode=None, label="or your own", height=160, elem_classes="pixels",
                           sources=["upload", "clipboard"])
        with gr.Column(scale=3, min_width=280):
            gr.Markdown("Its nearest neighbours, with their cosine similarity and what they show:")
            found = gr.Gallery(columns=3, height="auto", elem_id="encoders-found", **pictures)

    def vectors(name: str) -> Vectors:
        if name not in kept:
            kept[name] = Vectors(desk, name)
        return kept[name]

    def fill() -> list[np.ndarray]:
        pictures, _ = pool()
        return pictures[::len(pictures) // SHOWN][:SHOWN]

    def choose(source: str, event: gr.SelectData) -> list[tuple[np.ndarray, str]]:
        with told():
            return nearest(vectors(source), fill()[int(event.index)])

    def look(source: str, path: str | None) -> list[tuple[np.ndarray, str]]:
        if path is None:
            return []
        with told():
            return nearest(vectors(source), read_image(Path(path).read_bytes(), side)[0])

    tab.select(fill, None, chosen, show_progress="hidden", api_visibility="private")       # drawn when they are first looked at
    chosen.select(choose, source, found, concurrency_limit=None, api_visibility="private")
    own.upload(look, [source, own], found, concurrency_limit=None, api_visibility="private")
