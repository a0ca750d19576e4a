"""The Perceiver's figures for `calico bench perceiver`: against transformers and other libraries, same weights, in turns.

    forward_, step_vs_transformers   a 224x224 picture with 64 Fourier bands, 256x512 latents, one cross-attention and 6 layers
                                     in 4 blocks with the same weights, 1000 classes, fp32; step: forward and backward
    forward_, step_vs_best_peer      the same task, the fastest of the other libraries that are installed
    short_text_vs_transformers       the released language model, 64 of its 2,048 bytes in use: with each library's
                                     defaults, ours in bf16 where the machine has it; _float32, _bfloat16: both in that format
    flow_memory_vs_transformers      peak memory of one forward of the released flow model on 368x496 pixels
    chunked_decode_vs_reencode       the released autoencoder, a clip of 16 frames in 128 chunks: encoded once;
                                     transformers encodes it again for each chunk

Other libraries are measured where they are installed, else their figures are null: `pip install transformers
perceiver-pytorch`; krasserm's perceiver-io runs from its source only.
"""

import multiprocessing as mp
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calico.agent.hardware import acting_dtype
from calico.agent.perceiver.fourier import fourier_grid
from calico.agent.perceiver.hugging_face import load_hf
from calico.agent.perceiver.layers import LatentConfig
from calico.agent.perceiver.sizes import named_size
from calico.agent.perceiver.tasks import Autoencoder, build
from calico.scripts.benchmarks.interleaved import peer, seconds
from calico.scripts.common.memory import PROCESSES, own_peak

BANDS, SIDE, LATENTS, WIDTH, LAYERS, BLOCKS, HEADS, CLASSES = 64, 224, 256, 512, 6, 4, 8, 1000    # the image task
TEXT_BYTES = 64
FLOW_SIZE = (368, 496)
CHUNKS, CHUNKS_TIMED = 128, 2     # all cost the same, so that few are measured

Run = Callable[[], Any]


def bench_perceiver(turns: int) -> dict[str, Any]:
    """All figures; above 1 Calico is better, except for the memory, where below 1 is."""
    return {**bench_image(turns), **bench_text(turns), **bench_flow_memory(), **bench_chunks(turns)}


def medians(turns: int, candidates: dict[str, Run]) -> dict[str, float]:
    """Median seconds of each side, run in turns after one that does not count."""
    return dict(zip(candidates, seconds(turns, *candidates.values()), strict=True))


# ---- pictures --------------------------------------------------------------------------------------------------------------

def bench_image(turns: int) -> dict[str, Any]:
    """Forward, and forward with backward, of one picture."""
    torch.manual_seed(0)
    theirs = transformers_classifier()
    ours = load_hf(theirs.state_dict(), theirs.config.to_dict())
    picture, label = torch.randn(1, 3, SIDE, SIDE), torch.tensor([3])
    with torch.inference_mode():
        same(ours(picture), theirs(inputs=picture).logits)
    answers: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {
        "calico": (ours, lambda: ours(picture)), "transformers": (theirs, lambda: theirs(inputs=picture).logits)}
    for name, build_peer in (("perceiver-pytorch", lucidrains_answer), ("perceiver-io", krasserm_answer)):
        try:
            answers[name] = build_peer(picture)
        except ImportError:
            continue
    forward = medians(turns, {name: torch.inference_mode()(answer) for name, (_, answer) in answers.items()})
    step = medians(turns, {name: with_gradient(model, answer, label) for name, (model, answer) in answers.items()})
    found: dict[str, Any] = {}
    for what, taken in (("forward", forward), ("step", step)):
        peers = [taken[name] for name in ("perceiver-pytorch", "perceiver-io") if name in taken]
        found[f"{what}_vs_transformers"] = taken["transformers"] / taken["calico"]
        found[f"{what}_vs_best_peer"] = min(peers) / taken["calico"] if peers else None
        found[f"{what}_seconds"] = taken
    return found


def with_gradient(model: nn.Module, answer: Callable[[], Tensor], label: Tensor) -> Run:
    def run() -> None:
        model.zero_grad()
        F.cross_entropy(answer(), label).backward()
    return run


def transformers_classifier() -> Any:
    """Hugging Face's, random weights, no dropout."""
    transformers = peer("transformers")
    return transformers.PerceiverForImageClassificationFourier(transformers.PerceiverConfig(
        num_latents=LATENTS, d_latents=WIDTH, d_model=261, num_blocks=BLOCKS, num_self_attends_per_block=LAYERS,
        num_self_attention_heads=HEADS, num_cross_attention_heads=1, attention_probs_dropout_prob=0.0, image_size=SIDE,
        num_labels=CLASSES)).eval()


def lucidrains_answer(picture: Tensor) -> tuple[nn.Module, Callable[[], Tensor]]:
    """perceiver-pytorch with the same sizes. In its favour its feed-forwards, by default gated and four times as wide, are made
    as narrow as ours, and the Fourier features are computed before."""
    from perceiver_pytorch.perceiver_io import FeedForward, PerceiverIO

    grid = fourier_grid((SIDE, SIDE), BANDS, (SIDE, SIDE), torch.device("cpu"))
    model: Any = PerceiverIO(depth=LAYERS, dim=grid.shape[1] + 3, queries_dim=WIDTH, logits_dim=CLASSES, num_latents=LATENTS,
                        latent_dim=WIDTH, cross_heads=1, latent_heads=HEADS, cross_dim_head=grid.shape[1] + 3,
                        latent_dim_head=WIDTH // HEADS).eval()
    for module in model.modules():
        if isinstance(module, FeedForward):
            module.net = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
    model.layers, model.attn_residuals = (nn.ModuleList([*parts] * BLOCKS) for parts in (model.layers, model.attn_residuals))
    query = nn.Parameter(torch.randn(1, WIDTH))
    return model, lambda: model(torch.cat([picture.flatten(2).mT, grid[None]], dim=-1), queries=query)[:, 0]


def krasserm_answer(picture: Tensor) -> tuple[nn.Module, Callable[[], Tensor]]:
    """perceiver-io with the same sizes."""
    latent = LatentConfig(latents=LATENTS, width=WIDTH, blocks=BLOCKS, layers=LAYERS, heads=HEADS)
    model, moved = krasserm_classifier(SIDE, BANDS, latent, CLASSES).eval(), picture.permute(0, 2, 3, 1).contiguous()
    return model, lambda: model(moved)


def krasserm_classifier(side: int, bands: int, latent: LatentConfig, labels: int) -> nn.Module:
    """perceiver-io's classifier of pictures (B, side, side, 3)."""
    from perceiver.model.vision import image_classifier as theirs

    return theirs.ImageClassifier(theirs.ImageClassifierConfig(
        encoder=theirs.ImageEncoderConfig(
            image_shape=(side, side, 3), num_frequency_bands=bands, num_cross_attention_heads=1,
            num_self_attention_heads=latent.heads, num_self_attention_layers_per_block=latent.layers,
            num_self_attention_blocks=latent.blocks),
        decoder=theirs.ClassificationDecoderConfig(num_classes=labels, num_output_query_channels=latent.width,
                                                 num_cross_attention_heads=1),
        num_latents=latent.latents, num_latent_channels=latent.width))


def same(ours: Tensor, theirs: Tensor) -> None:
    """Raises RuntimeError unless both give the same outputs: else their speeds do not compare."""
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    if not difference < 1e-4:
        raise RuntimeError(f"the two sides differ by {difference:.1e} of the largest output")


# ---- text ------------------------------------------------------------------------------------------------------------------

def bench_text(turns: int) -> dict[str, Any]:
    """The language model on a short text, which transformers reads padded to 2,048 bytes, as its documentation shows, and
    decodes at all 2,048 positions. Nine tenths of the work are the 26 layers on the latents, the same for both."""
    transformers = peer("transformers")
    torch.manual_seed(0)
    theirs = transformers.PerceiverForMaskedLM(transformers.PerceiverConfig(qk_channels=256, v_channels=1280)).eval()
    ours = load_hf(theirs.state_dict(), theirs.config.to_dict())
    mask = (torch.arange(2048) < TEXT_BYTES).long()[None]
    ids = torch.randint(6, 262, (1, 2048)) * mask
    candidates: dict[str, Callable[[], Tensor]] = {"calico": lambda: ours(ids[:, :TEXT_BYTES]),
                                              "transformers": lambda: theirs(inputs=ids, attention_mask=mask).logits}
    with torch.inference_mode():
        same(candidates["calico"](), candidates["transformers"]()[:, :TEXT_BYTES])
    runs = {name: torch.inference_mode()(answer) for name, answer in candidates.items()}
    found = {"float32": medians(turns, runs)}
    chosen = acting_dtype(torch.device("cpu"), "auto")
    if chosen == torch.bfloat16:
        for model in (ours, theirs):
            model.bfloat16()
        found["bfloat16"] = medians(turns, runs)
    fastest = found.get("bfloat16", found["float32"])
    return {"short_text_vs_transformers": found["float32"]["transformers"] / fastest["calico"],
            **{f"short_text_vs_transformers_{name}": taken["transformers"] / taken["calico"] for name, taken in found.items()},
            "short_text_seconds": found}


# ---- flow ------------------------------------------------------------------------------------------------------------------

def bench_flow_memory() -> dict[str, Any]:
    """Peak memory of a process that loads the libraries, makes the model and runs it once."""
    megabytes = {}
    for name, side in (("calico", our_flow), ("transformers", transformers_flow)):
        with ProcessPoolExecutor(1, mp.get_context("spawn")) as apart:
            megabytes[name] = apart.submit(side, torch.get_num_threads()).result()
    return {"flow_memory_vs_transformers": megabytes["calico"] / megabytes["transformers"], "flow_memory_megabytes": megabytes}


@torch.inference_mode()
def our_flow(threads: int) -> float:
    """Megabytes."""
    torch.set_num_threads(threads)
    build(named_size("optical-flow-perceiver")).eval()(torch.zeros(1, 2, 3, *FLOW_SIZE))
    return peak_megabytes()


@torch.inference_mode()
def transformers_flow(threads: int) -> float:
    """Megabytes."""
    torch.set_num_threads(threads)
    transformers = peer("transformers")
    model = transformers.PerceiverForOpticalFlow(transformers.PerceiverConfig(
        num_latents=2048, d_latents=512, d_model=322, num_self_attends_per_block=24, num_self_attention_heads=16,
        num_cross_attention_heads=1, train_size=list(FLOW_SIZE))).eval()
    model(inputs=torch.zeros(1, 2, 27, *FLOW_SIZE))
    return peak_megabytes()


def peak_megabytes() -> float:
    """Peak resident memory of this process so far."""
    if not PROCESSES.exists():
        raise ValueError("peak memory is read from /proc, which this system does not have; run this on Linux")
    return own_peak() / 2**20


# ---- video -----------------------------------------------------------------------------------------------------------------

@torch.inference_mode()
def bench_chunks(turns: int) -> dict[str, Any]:
    """A whole clip in 128 chunks."""
    transformers = peer("transformers")
    torch.manual_seed(0)
    theirs = transformers.PerceiverForMultimodalAutoencoding(transformers.PerceiverConfig(
        num_latents=784, d_latents=512, d_model=704, num_self_attends_per_block=8, num_self_attention_heads=8,
        num_cross_attention_heads=1, num_labels=700)).eval()
    ours = load_hf(theirs.state_dict(), theirs.config.to_dict())
    assert isinstance(ours, Autoencoder)
    inputs = {"image": torch.rand(1, 16, 3, 224, 224), "audio": torch.randn(1, 30720, 1), "label": torch.zeros(1, 700)}
    pixels, sounds = ours.chunks(CHUNKS)["image"], torch.arange(ours.config.audio_grid[0]).tensor_split(CHUNKS)
    parts = [{"image": some, "audio": sound, "label": None} for some, sound in zip(pixels, sounds, strict=True)]

    def reencoded() -> Any:
        return [theirs(inputs=inputs, subsampled_output_points=points).logits for points in parts[:CHUNKS_TIMED]]

    latents = ours.encode(inputs)
    moved = ours.decoder.move(latents)

    for points, expected in zip(parts, reencoded(), strict=False):
        for name, made in ours.decode(latents, points, moved).items():
            same(made, expected[name])
    taken = medians(turns, {
        "encode": lambda: ours.decoder.move(ours.encode(inputs)), "transformers": reencoded,
        "video": lambda: [ours.decode(latents, {"image": some}, moved) for some in pixels[:CHUNKS_TIMED]],
        "sound": lambda: ours.decode(latents, {"audio": torch.arange(ours.config.audio_grid[0]), "label": None}, moved)})
    encode, times = taken["encode"], CHUNKS / CHUNKS_TIMED
    decode, theirs_whole = times * taken["video"] + taken["sound"], times * taken["transformers"]
    return {"chunked_decode_vs_reencode": theirs_whole / (encode + decode),
            "chunked_decode_vs_own_reencode": (CHUNKS * encode + decode) / (encode + decode),
            "chunked_decode_seconds": {"calico": encode + decode, "calico_encode": encode, "transformers": theirs_whole}}
