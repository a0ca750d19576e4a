"""From the paths of a config to a mixture of token streams."""

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, replace
from functools import cached_property
from glob import glob, has_magic
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from calico.agent.backbones import keeps_segments
from calico.agent.data2vec.pretrained import load_pretrained
from calico.agent.model import ModelConfig
from calico.datasets.mixture import Mixture, first_difference
from calico.datasets.open_data import open_data
from calico.datasets.reader import Reader, SourceOptions, Split, whole
from calico.scripts.common import console
from calico.scripts.common.settings import RunSettings, SourceSettings
from calico.tokenizers.text import TextTokenizer
from calico.tokenizers.tokens import SOUND_RATE
from calico.tokenizers.vocabulary import Vocabulary

TEXT_LINES = 200_000       # strings that a tokenizer is learnt from,
TEXT_CHARACTERS = 1 << 27  # and characters at most: texts may be larger than memory
NEEDS = {"mirror": "captioned pictures to mirror or crop; leave mirror and crop",
         "crop": "captioned pictures to mirror or crop; leave mirror and crop",
         "memory": "episodes whose steps could do without memory; leave memory"}


@dataclass(frozen=True)
class OpenedSource:
    """One source of the config and the reader of its data."""

    name: str
    data: Reader[Any]
    settings: SourceSettings

    @cached_property
    def splits(self) -> tuple[Split, Split]:
        """What is trained on and what is held out; see splits.py.

        Raises:
            ValueError: the data are too few to be divided.
        """
        held_out = self.settings.held_out
        if not held_out:
            return whole(self.data), Split(self.data, np.zeros(0, np.int64))
        try:
            return self.data.split(held_out)
        except ValueError as error:
            raise ValueError(f"{self.settings.path}: {error}") from error


def open_sources(settings: RunSettings) -> list[OpenedSource]:
    """Open every source; its name is the task's, or the path's last part.

    Raises:
        ValueError: no sources, or data that cannot be read.
    """
    if not settings.data.sources:
        raise ValueError("the mixture is empty; name data sets, such as data.sources='[{path: data/CartPole-v1}]' "
                         "(`calico collect CartPole-v1 --out data` makes that one)")
    opened: list[OpenedSource] = []
    for source in settings.data.sources:
        opened.append(open_source(source, {o.name for o in opened}))
    return opened


def expanded(sources: Iterable[SourceSettings]) -> list[SourceSettings]:
    """With `*` in a path, a source of the same settings for each folder or file that it matches and no other source names.

    Raises:
        ValueError: nothing matches.
    """
    sources = list(sources)
    named = {Path(source.path) for source in sources if not has_magic(source.path)}
    found = []
    for source in sources:
        if not has_magic(source.path):
            found.append(source)
            continue
        matching = [path for path in sorted(glob(source.path)) if Path(path) not in named]
        if not matching:
            raise ValueError(f"{source.path} matches nothing here; name the folder with the data, such as 'demos/*'")
        found += [replace(source, path=path) for path in matching]
    return found


def open_source(source: SourceSettings, taken: Set[str]) -> OpenedSource:
    """Open one source; `taken` are names that others have.

    Raises:
        ValueError: data that cannot be read, or a setting that is not for data of this kind.
    """
    data = open_data(source.path, images=source.images or None, max_side=source.max_side,
                     max_seconds=source.max_seconds)
    changed = {"mirror": source.mirror, "crop": source.crop < 1, "memory": source.memory is not None}
    for setting, missing in NEEDS.items():
        if changed[setting] and setting not in data.settings:
            raise ValueError(f"{source.path} has no {missing} out")
    name = data.task["name"] if data.task is not None else Path(source.path).stem
    return OpenedSource(source.path if name in taken else name, data, source)


def strings(opened: list[OpenedSource]) -> Iterator[str]:
    """All text that is trained on, for learning a tokenizer."""
    for source in opened:
        split, _ = source.splits
        yield from split.data.texts(split.numbers.tolist())


def limited(texts: Iterable[str]) -> Iterator[str]:
    """The first TEXT_LINES texts, or fewer where they are long: TEXT_CHARACTERS are enough to learn a tokenizer from."""
    characters = 0
    for text in islice(texts, TEXT_LINES):
        yield text
        characters += len(text)
        if characters >= TEXT_CHARACTERS:
            return


def text_tokenizer(settings: RunSettings, opened: list[OpenedSource]) -> TextTokenizer:
    """The configured SentencePiece model, a pre-trained text encoder's, or one learnt from the sources' own text."""
    if settings.data.tokenizer:
        return TextTokenizer.load(settings.data.tokenizer)
    encoder = settings.embedding.text
    if encoder is not None and (text := load_pretrained(encoder.encoder, "text").text) is not None:
        return text
    found = list(limited(strings(opened)))
    titles = sorted({o.data.task["name"] for o in opened if o.data.task is not None}) if settings.data.titles else []
    try:
        return TextTokenizer.train(found or ["calico"], settings.vocabulary.text, words=titles)
    except ValueError as error:
        raise ValueError(f"vocabulary.text={settings.vocabulary.text}: {error}") from error


def options_of(source: SourceSettings, settings: RunSettings, vocabulary: Vocabulary, text: TextTokenizer) -> SourceOptions:
    """How the rows of a source are made."""
    data, memory = settings.data, source.memory
    if not keeps_segments(settings.backbone):
        if memory is False:
            raise ValueError(f"{source.path}: memory=false needs a decoder with backbone.segments=true, in which a step can be "
                             "read alone; leave memory out")
        memory = True
    return SourceOptions(vocabulary=vocabulary, text=text, mirror=source.mirror, crop=source.crop, memory=memory,
                         titles=data.titles, prompt_probability=data.prompt_probability,
                         observation_text_loss=data.observation_text_loss, max_text_tokens=data.max_text_tokens,
                         numbers=data.numbers, text_every=data.text_every)


def task_specs(opened: list[OpenedSource], settings: RunSettings, vocabulary: Vocabulary,
               text: TextTokenizer) -> dict[str, dict[str, Any]]:
    """What a checkpoint keeps of each task: how it is tokenised, and what its data says about itself.

    Raises:
        ValueError: two data sets of one task that differ in their spaces.
    """
    specs: dict[str, dict[str, Any]] = {}
    for source in opened:
        spec = source.data.spec(options_of(source.settings, settings, vocabulary, text))
        if source.data.task is None or spec is None:
            continue
        name = source.data.task["name"]
        if difference := first_difference(spec["codec"], specs.setdefault(name, spec)["codec"]):
            raise ValueError(f"{source.settings.path} holds {name} with other spaces than a source before it: {difference}; "
                             "keep one of the two")
    return specs


def model_config(opened: list[OpenedSource], settings: RunSettings) -> ModelConfig:
    """The model that the settings ask for, with a block for sounds where a source plays some, and one for vectors."""
    sounds = any(source.data.has_sounds for source in opened)
    vectors = settings.data.numbers == "vector" and any(source.data.task for source in opened)
    embedding = replace(settings.embedding, sounds=settings.embedding.sounds or sounds,
                        vectors=settings.embedding.vectors or vectors)
    return replace(settings.model, embedding=embedding)


def resampled(opened: list[OpenedSource]) -> Iterator[str]:
    """One line for each source whose sounds have other sample rates than the stream."""
    for source in opened:
        if rates := source.data.other_rates():
            listed = ", ".join(f"{number} of {rate} Hz" for rate, number in sorted(rates.items()))
            yield f"{source.name}: sounds are resampled to {SOUND_RATE} Hz: {listed} among those looked at"


def remarked(opened: list[OpenedSource]) -> Iterator[str]:
    """One line for each source of which some pictures or sounds are not seen or heard as they are in the file."""
    for source in opened:
        if found := source.data.remarks():
            listed = "; ".join(f"{number} {remark}" for remark, number in found.most_common())
            yield f"{source.name}: of the pictures and sounds read so far {listed}"


def passed_over(mixture: Mixture) -> Iterator[str]:
    """One line for each source of which documents cannot be read."""
    for name, found in mixture.skipped.items():
        if found:
            yield (f"{name}: {len(found)} of the documents read so far cannot be read and are passed over: "
                   f"{next(iter(found.values()))}")


def build_mixture(opened: list[OpenedSource], settings: RunSettings, vocabulary: Vocabulary,
                  text: TextTokenizer, held_out: bool = False) -> Mixture:
    """The stream of batches, with `held_out` of what is not trained on; what has no targets is counted on stderr.

    Raises:
        ValueError: what Mixture says, of a source without any target among others.
    """
    splits = [source.splits[held_out] for source in opened]
    sources = [split.data.source(source.name, split.numbers, options_of(source.settings, settings, vocabulary, text))
               for source, split in zip(opened, splits, strict=True)]
    weights = {s.name: o.settings.weight for s, o in zip(sources, opened, strict=True)}
    mixture = Mixture(sources, weights, vocabulary=vocabulary, context=settings.backbone.context,
                      batch_size=settings.data.batch_size, seed=settings.training.seed)
    for remark in mixture.remarks:
        console.note(remark)
    return mixture
