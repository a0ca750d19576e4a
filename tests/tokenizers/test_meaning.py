import numpy as np
import pytest
from gymnasium import spaces

from calico.tokenizers.document import Sound, Special, caption_parts, encode_document
from calico.tokenizers.episode import Episode
from calico.tokenizers.meaning import meaning, meanings
from calico.tokenizers.spaces import AnyText
from calico.tokenizers.task import TaskCodec
from calico.tokenizers.text import TextTokenizer
from calico.tokenizers.tokens import ACTION, Kind, Tokens
from calico.tokenizers.vocabulary import Vocabulary


def test_each_kind_reads_as_words(text: TextTokenizer, vocabulary: Vocabulary) -> None:
    token = int(text.encode("ball")[0])
    assert meaning(token, Kind.TEXT, vocabulary, text) == repr(text.piece(token))
    assert meaning(token, Kind.TEXT, vocabulary, None) == f"piece {token}"
    assert meaning(text.size, Kind.TEXT, vocabulary, text) == f"piece {text.size}"
    assert meaning(vocabulary.discrete_start + 7, Kind.DISCRETE, vocabulary, text) == "7"
    assert meaning(vocabulary.continuous_start + 1023, Kind.CONTINUOUS, vocabulary, text) == "253.5"
    assert meaning(vocabulary.patch, Kind.PATCH, vocabulary, text) == "patch"
    assert meaning(vocabulary.pad, Kind.PAD, vocabulary, text) == "pad"
    assert meaning(vocabulary.user, Kind.SPECIAL, vocabulary, text) == "user"
    with pytest.raises(ValueError, match="is not of kind CONTINUOUS"):
        meaning(0, Kind.CONTINUOUS, vocabulary, text)


def test_a_sound_says_when_it_is_heard(vocabulary: Vocabulary) -> None:
    tokens = encode_document([Sound(np.ones(700)), Special("end")], vocabulary, None)
    assert meanings(tokens, vocabulary, None) == ["audio 0.00-0.04 s", "audio 0.04-0.08 s", "end"]


def episode_and_codec(vocabulary: Vocabulary, text: TextTokenizer) -> tuple[Episode, TaskCodec]:
    seen = spaces.Dict(
        {
            "say": AnyText(),
            "view": spaces.Box(0, 255, (16, 32), np.uint8),
            "where": spaces.Box(0, 1000, (2,)),
            "key": spaces.Discrete(3, start=10),
        }
    )
    done = spaces.Tuple([spaces.Box(-4, 4, (1,)), spaces.Discrete(4, start=-1), spaces.Text(3)])
    codec = TaskCodec(seen, done, vocabulary, text)
    return Episode(
        task="t",
        seed=0,
        observations={
            "say": np.array(["go", "", "the ball"], object),
            "view": np.zeros((3, 16, 32), np.uint8),
            "where": np.array([[0, 1000], [500, 1000], [0, 0]], np.float32),
            "key": np.array([10, 12, 11]),
        },
        actions={
            "0": np.array([[4.0], [-4.0]], np.float32),
            "1": np.array([-1, 2]),
            "2": np.array(["ab", "abc"], object),
        },
        demonstrated=np.ones(2, np.bool_),
        rewards=np.zeros(2),
        terminated=True,
        truncated=False,
    ), codec


def test_an_episode_reads_with_the_tasks_own_values(text: TextTokenizer, vocabulary: Vocabulary) -> None:
    episode, codec = episode_and_codec(vocabulary, text)
    tokens = codec.encode_episode(episode)
    words = meanings(tokens, vocabulary, text, codec)
    go = [repr(text.piece(i)) for i in text.encode("go")]
    view = ["patch rows 0-128 columns 0-64 of 128", "patch rows 0-128 columns 64-128 of 128"]

    def say(value: str) -> list[str]:
        pieces = [repr(text.piece(i)) for i in text.encode(value)]
        return pieces + ["end"] * (3 - len(pieces))

    assert words == [
        *go,
        *view,
        "10",
        "0.4883",
        "999.5",
        "separator",
        "3.996",
        "-1",
        *say("ab"),
        *view,
        "12",
        "500.5",
        "999.5",
        "separator",
        "-3.996",
        "2",
        *say("abc"),
    ]
    for start in range(len(tokens)):  # a window may begin anywhere
        seen = meanings(tokens[start:], vocabulary, text, codec)
        cut = 0
        while start + cut < len(tokens) and tokens.position[start + cut] == ACTION:
            cut += 1  # whose separator is outside the window
        assert seen[cut:] == words[start + cut :]


def test_without_a_codec_numbers_read_as_they_are(text: TextTokenizer, vocabulary: Vocabulary) -> None:
    episode, codec = episode_and_codec(vocabulary, text)
    words = meanings(codec.encode_episode(episode, 1), vocabulary, text)
    assert words[2:6] == ["2", "9.962e-05", "253.5", "separator"]


def test_documents_read_too(text: TextTokenizer, vocabulary: Vocabulary) -> None:
    tokens = encode_document(caption_parts(np.zeros((16, 16, 3), np.uint8), "the"), vocabulary, text)
    words = meanings(tokens, vocabulary, text)
    assert words[:2] == ["patch rows 0-128 columns 0-128 of 128", "separator"]
    assert words[-1] == "end"
    with pytest.raises(ValueError, match="one sequence"):
        meanings(Tokens.stack([tokens], vocabulary.pad), vocabulary, text)


def test_a_large_discrete_observation_reads_as_digits() -> None:
    vocabulary = Vocabulary()
    codec = TaskCodec(spaces.Discrete(5000), spaces.Discrete(2), vocabulary, None)
    tokens = codec.encode_observations([1025])[0]
    assert meanings(tokens, vocabulary, None, codec) == ["digit 1", "digit 1", "separator"]
