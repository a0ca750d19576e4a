"""What `calico pretrain`, `finetune` and `probe` share: the reader for each modality, batches, vectors and probes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from calico.agent.data2vec.batches import Inputs, pooled
from calico.agent.data2vec.encoders import SpeechEncoder, VisionEncoder
from calico.agent.data2vec.probe import knn_accuracy, linear_accuracy
from calico.agent.hardware import autocast
from calico.datasets.file_store import FileSource, FileStore
from calico.datasets.formats.hub import local
from calico.datasets.images import ImageStore
from calico.datasets.samples.labelled import Labelled, read_pictures, read_sounds, read_texts
from calico.datasets.samples.unlabelled import Unlabelled, read_pieces, read_unlabelled
from calico.datasets.sounds import SoundStore
from calico.datasets.streams import stream
from calico.scripts.common import console
from calico.tokenizers.text import TextTokenizer

HELD_OUT = 0.2          # fraction of the samples, by a hash of each, that no encoder and no classifier learns from
DETAIL = 2              # pictures are kept at so many times the encoder's side, for crops
PROBED = 2000           # labelled samples of each split that a probe looks at during training
BATCH = 256             # samples that are encoded together


def open_unlabelled(paths: list[str], inputs: Inputs, most_skipped: int) -> Unlabelled:
    """Pictures or sounds to learn from, as the encoder wants them; what was left out or resampled is reported."""
    stores: list[FileStore] = []

    def open_store(path: Path | FileSource) -> FileStore:
        match inputs.encoder:
            case VisionEncoder():
                stores.append(ImageStore(path, max_side=DETAIL * inputs.encoder.config.image_size, cache_bytes=1 << 30))
            case SpeechEncoder():
                stores.append(SoundStore(path, rate=inputs.encoder.config.sample_rate))
        return stores[-1]

    found = read_unlabelled([local(path) for path in paths], open_store, inputs.problem, most_skipped,
                            console.with_progress("read"))
    note_skipped(found, [store for store in stores if isinstance(store, SoundStore)])
    return found


def open_tokens(readers: Any, text: TextTokenizer, longest: int) -> Unlabelled:
    found = read_pieces(readers, text.encode, longest, console.with_progress("read"))
    note_skipped(found, [])
    return found


def note_skipped(found: Unlabelled, sounds: list[SoundStore]) -> None:
    for reason in found.skipped[:3]:
        console.note(f"left out: {reason}")
    if len(found.skipped) > 3:
        console.note(f"left out: {len(found.skipped)} samples in all")
    for store in sounds:
        for rate, number in sorted(store.own_rates.items()):
            if rate != store.rate:
                console.note(f"{store.path}: {number} sounds of {rate} Hz were resampled to {store.rate} Hz")


def open_labelled(path: str, inputs: Inputs, label: str) -> Labelled:
    """Samples with classes, as the encoder wants them.

    Raises:
        ValueError: nothing of the encoder's modality there, or samples too short for it; what the readers say.
    """
    where = local(path)
    match inputs.encoder:
        case VisionEncoder():
            found = read_pictures(where, DETAIL * inputs.encoder.config.image_size, console.with_progress("read"), label)
        case SpeechEncoder():
            found, _ = read_sounds(where, inputs.encoder.config.sample_rate, label, console.with_progress("read"))
        case _:
            found = read_texts(where, label)
    for remark in found.remarks:
        console.note(f"{path}: {remark}")
    faults = [(i, reason) for i, reason in enumerate(inputs.problem(sample, 1) for sample in found.samples) if reason]
    if faults:
        raise ValueError(f"{len(faults)} of {len(found)} samples in {path} cannot be used, the first is number {faults[0][0]}: "
                         f"{faults[0][1]}; remove them")
    return found


@torch.inference_mode()
def embed(inputs: Inputs, samples: Iterable[Any]) -> np.ndarray:
    """float32 (n, width): one vector per whole sample."""
    encoder, listed = inputs.encoder, list(samples)
    device = next(encoder.parameters()).device
    vectors = np.zeros((len(listed), encoder.width), np.float32)
    for chosen in by_length(listed, BATCH):
        with autocast(device, "auto"):
            made = pooled(encoder, tuple(tensor.to(device) for tensor in inputs([listed[i] for i in chosen])))
        vectors[chosen] = made.float().cpu().numpy()
    return vectors


class Probe:
    """Neighbours and a linear layer on vectors of labelled samples, the same samples each time."""

    def __init__(self, data: Labelled, most: int = PROBED) -> None:
        """most: samples of the training part, and of the held-out part, that are looked at."""
        rng = stream(0, "probe")
        self.train, self.held_out = (np.sort(rng.permutation(split)[:most]) for split in data.split(HELD_OUT))
        self.data = data

    def __call__(self, vectors: Callable[[list[Any]], np.ndarray], per_class: int | None = None,
                 draws: int = 1) -> dict[str, float]:
        """Accuracies on the held-out samples.

        Args:
            vectors: samples to float32 (n, width).
            per_class: learn from so many samples of each class, chosen anew in each of `draws` whose mean counts.
        """
        data, truth = self.data, self.data.labels[self.held_out]
        train, test = (vectors([data.samples[i] for i in split]) for split in (self.train, self.held_out))
        found: dict[str, list[float]] = {"knn": [], "linear": []}
        for draw in range(draws):
            chosen = np.arange(len(self.train))
            if per_class is not None:
                chosen = some_per_class(chosen, data.labels[self.train], per_class, draw)
            labels = data.labels[self.train][chosen]
            found["knn"].append(knn_accuracy(train[chosen], labels, test, truth))
            found["linear"].append(linear_accuracy(train[chosen], labels, test, truth))
        return {name: float(np.mean(values)) for name, values in found.items()}


def by_length(samples: Sequence[Any], size: int) -> Iterator[list[int]]:
    """Numbers of the samples in batches of like length, which saves padding."""
    order = sorted(range(len(samples)), key=lambda i: len(samples[i]))
    for start in range(0, len(order), size):
        yield order[start:start + size]


def some_per_class(numbers: np.ndarray, labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """`per_class` of the numbered samples from each class, or all where a class has fewer.

    Raises:
        ValueError: none would be left.
    """
    if per_class < 1:
        raise ValueError(f"{per_class} labels per class leave nothing to learn from; give at least 1")
    mixed = stream(seed, "classes").permutation(numbers)
    return np.sort(np.concatenate([mixed[labels[mixed] == label][:per_class] for label in np.unique(labels[numbers])]))
