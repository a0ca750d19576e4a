"""Losses of the Perceiver's optical flow, and of its autoencoder of video, sound and label.

Perceiver IO (arXiv:2107.14795), appendices on optical flow and on multimodal autoencoding.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..training.batch_part import Mean
from .inputs import space_to_depth
from .tasks import Autoencoder, Flow

FLOW_SCALE = 20.0                                             # pixels for an output of 1
WEIGHTS = {"image": 0.03, "audio": 1.0, "label": 1e-4}        # as published, of means over values


def end_point_error(flow: Tensor, truth: Tensor) -> Tensor:
    """Mean length of the difference of (..., 2), in pixels, over the pixels whose true flow is known, that is not NaN."""
    return end_point_errors(flow, truth).mean()


def end_point_errors(flow: Tensor, truth: Tensor) -> Tensor:
    """Lengths of the difference of (..., 2), in pixels, of the n pixels whose true flow is known: (n,)."""
    known = truth.isfinite().all(dim=-1)
    # the square root's derivative is infinite at zero
    return ((flow - truth)[known].square().sum(dim=-1) + 1e-8).sqrt()


def flow_loss(model: Flow, batch: Mapping[str, Tensor]) -> tuple[Mean, Mapping[str, Mean]]:
    """End-point error of frames (B, 2, 3, H, W) whose flow (B, H, W, 2) is known, and that of a flow of zero."""
    errors = end_point_errors(FLOW_SCALE * model(batch["frames"]).float(), batch["flow"])
    still = end_point_errors(torch.zeros_like(batch["flow"]), batch["flow"])
    return Mean(errors.sum(), len(errors)), {"zero_flow": Mean(still.sum(), len(still))}


def autoencoding_loss(model: Autoencoder, batch: Mapping[str, Tensor], weights: Mapping[str, float] = WEIGHTS,
                      ) -> tuple[Mean, Mapping[str, Mean]]:
    """L1 of the requested pixels and samples and cross-entropy of the label, weighted; and the unweighted parts.

    Args:
        batch: image (B, T, 3, H, W) in [0, 1], audio (B, samples) in [-1, 1], label int64 (B,); pixels int64 (n,) and patches
            int64 (m,): indices of what is decoded, of the video and of the sound; the paper decodes 512 of each.
        weights: of "image", "audio" and "label".
    """
    label = F.one_hot(batch["label"], model.config.labels).to(batch["image"].dtype)
    made = model({"image": batch["image"], "audio": batch["audio"], "label": label},
                 {"image": batch["pixels"], "audio": batch["patches"], "label": None})
    patches = space_to_depth(batch["image"], model.config.video_patch).flatten(1, 3)
    pixels = patches[:, batch["pixels"]]                                                            # (B, n, 3 per pixel)
    samples = batch["audio"].unflatten(1, (-1, model.config.patch))[:, batch["patches"]].flatten(1)  # (B, m * patch)
    parts = {"image": (made["image"].float() - pixels).abs().mean(), "audio": (made["audio"].float() - samples).abs().mean(),
             "label": F.cross_entropy(made["label"].float(), batch["label"])}
    loss, clips = torch.stack([weights[name] * part for name, part in parts.items()]).sum(), len(batch["image"])
    return Mean(loss * clips, clips), {name: Mean(part.detach() * clips, clips) for name, part in parts.items()}


def psnr(made: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, where the peak is 1: pixels in [0, 1], or samples in [-1, 1]."""
    return -10 * (made - truth).square().mean().log10()
