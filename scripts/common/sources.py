"""From the paths of a config to a mixture of token streams."""

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from calico.agent.data2vec.pretrained import load_pretrained
from calico.agent.model import ModelConfig
from calico.datasets.documents import CaptionReader, DialogueReader
from calico.datasets.episodes import EpisodeReader
from calico.datasets.mixture import Mixture, first_difference
from calico.datasets.open_data import Data, open_data
from calico.datasets.sources import DocumentSource, EpisodeSource, PromptConfig, Source, TextSource
from calico.datasets.splits import Excerpts, document_key, split, split_texts
from calico.datasets.texts import TextReader
from calico.scripts.common.settings import RunSettings, SourceSettings
from calico.tokenizers.spaces import space_from_json
from calico.tokenizers.task import TaskCodec
from calico.tokenizers.text import TextTokenizer
from calico.tokenizers.tokens import SOUND_RATE
from calico.tokenizers.vocabulary import Vocabulary

TEXT_LINES = 200_000       # strings that a tokenizer is learnt from,
TEXT_CHARACTERS = 1 << 27  # and characters at most: texts may be larger than memory


@dataclass(frozen=True)
class Split:
    """What is trained on, or what is held out, of one data set: episodes or documents and the numbers of those that count."""

    data: Data | Excerpts
    numbers: np.ndarray

    def documents(self, limit: int | None = None) -> Iterator[Any]:
        """The documents, or the first `limit` of them."""
        return (self.data[int(number)] for number in self.numbers[:limit])


@dataclass(frozen=True)
class OpenedSource:
    """One source of the config and the reader of its data."""

    name: str
    data: Data
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
            match self.data:
                case TextReader() as texts:
                    train, held = split_texts(texts, held_out)
                    return whole(train), whole(held)
                case EpisodeReader() as reader:
                    splits = split(reader.seeds, held_out)
                case reader:
                    splits = split([document_key(document) for document in reader], held_out)
        except ValueError as error:
            raise ValueError(f"{self.settings.path}: {error}") from error
        return Split(self.data, splits[0]), Split(self.data, splits[1])


def whole(data: Data | Excerpts) -> Split:
    """All of it."""
    return Split(data, np.arange(len(data)))


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


def open_source(source: SourceSettings, taken: Set[str]) -> OpenedSource:
    """Open one source; `taken` are names that others have.

    Raises:
        ValueError: data that cannot be read, or a setting that is not for data of this kind.
    """
    data = open_data(source.path, images=source.images or None, max_side=source.max_side,
                     max_seconds=source.max_seconds)
    if (source.mirror or source.crop < 1) and not isinstance(data, CaptionReader):
        raise ValueError(f"{source.path} has no captioned pictures to mirror or crop; leave mirror and crop out")
    if source.shuffle_steps and not isinstance(data, EpisodeReader):
        raise ValueError(f"{source.path} has no episodes whose steps could be shuffled; leave shuffle_steps out")
    name = data.task["name"] if isinstance(data, EpisodeReader) else Path(source.path).stem
    return OpenedSource(source.path if name in taken else name, data, source)


def strings(opened: list[OpenedSource]) -> Iterator[str]:
    """All text that is trained on, for learning a tokenizer."""
    for source in opened:
        split, _ = source.splits
        numbers = split.numbers.tolist()
        match split.data:
            case EpisodeReader() as reader:
                for index in numbers:
                    first = reader.window(index, 0, 0).observations      # missions stay the same in an episode
                    yield from (str(leaf[0]) for leaf in first.values() if leaf.dtype == object and len(leaf))
            case CaptionReader() | DialogueReader() as reader:
                yield from reader.texts(numbers)
            case texts:
                yield from (texts[index] for index in numbers)


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
    try:
        return TextTokenizer.train(found or ["calico"], settings.vocabulary.text)
    except ValueError as error:
        raise ValueError(f"vocabulary.text={settings.vocabulary.text}: {error}") from error


def task_codec(reader: EpisodeReader, settings: RunSettings, vocabulary: Vocabulary, text: TextTokenizer) -> TaskCodec:
    """The codec of the task that a data set was recorded from.

    Raises:
        ValueError: the data does not name its spaces, or one does not fit the vocabulary; the message names the data.
    """
    try:
        observation, action = (space_from_json(reader.task[key]) for key in ("observation_space", "action_space"))
        return TaskCodec(observation, action, vocabulary, text, observation_text_loss=settings.data.observation_text_loss,
                         max_text_tokens=settings.data.max_text_tokens)
    except KeyError as error:
        raise ValueError(f"{reader.path} does not say what its {error.args[0]} is; collect it again") from None
    except ValueError as error:
        raise ValueError(f"{reader.path}, task {reader.task['name']}: {error}") from error


def task_specs(opened: list[OpenedSource], settings: RunSettings, vocabulary: Vocabulary,
               text: TextTokenizer) -> dict[str, dict[str, Any]]:
    """What a checkpoint keeps of each task: how it is tokenised, and what its data says about itself.

    Raises:
        ValueError: two data sets of one task that differ in their spaces.
    """
    specs: dict[str, dict[str, Any]] = {}
    for source in opened:
        if isinstance(source.data, EpisodeReader):
            name = source.data.task["name"]
            about = {k: v for k, v in source.data.task.items() if k not in ("observation_space", "action_space")}
            codec = task_codec(source.data, settings, vocabulary, text).to_json()
            if specs.setdefault(name, {"codec": codec, "data": about})["codec"] != codec:
                raise ValueError(f"{source.data.path} holds {name} with other spaces than a source before it: "
                                 f"{first_difference(codec, specs[name]['codec'])}; keep one of the two")
    return specs


def model_config(opened: list[OpenedSource], settings: RunSettings) -> ModelConfig:
    """The model that the settings ask for, with a block for sounds where a source plays some."""
    sounds = any(isinstance(source.data, DialogueReader) and source.data.has_sounds for source in opened)
    embedding = replace(settings.embedding, sounds=settings.embedding.sounds or sounds)
    return replace(settings.model, embedding=embedding)


def resampled(opened: list[OpenedSource]) -> Iterator[str]:
    """One line for each source whose sounds have other sample rates than the stream."""
    for source in opened:
        if isinstance(source.data, DialogueReader) and (rates := source.data.other_rates()):
            listed = ", ".join(f"{number} of {rate} Hz" for rate, number in sorted(rates.items()))
            yield f"{source.name}: sounds are resampled to {SOUND_RATE} Hz: {listed} among those looked at"


def build_mixture(opened: list[OpenedSource], settings: RunSettings, vocabulary: Vocabulary,
                  text: TextTokenizer, held_out: bool = False) -> Mixture:
    """The stream of batches; with `held_out` of what the sources do not train on."""
    prompt = PromptConfig(probability=settings.data.prompt_probability)
    sources: list[Source] = []
    for source in opened:
        split = source.splits[held_out]
        match split.data:
            case EpisodeReader() as reader:
                codec = task_codec(reader, settings, vocabulary, text)
                sources.append(EpisodeSource(source.name, reader, codec, prompt=prompt, select=split.numbers,
                                             shuffle_steps=source.settings.shuffle_steps))
            case CaptionReader() | DialogueReader() as reader:
                sources.append(DocumentSource(source.name, reader, vocabulary, text, select=split.numbers,
                                              mirror=source.settings.mirror, crop=source.settings.crop))
            case texts:
                sources.append(TextSource(source.name, texts, vocabulary, text))
    return Mixture(sources, {s.name: o.settings.weight for s, o in zip(sources, opened, strict=True)}, vocabulary=vocabulary,
                   context=settings.backbone.context, batch_size=settings.data.batch_size, seed=settings.training.seed)
