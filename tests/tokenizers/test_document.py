from typing import Any

import numpy as np
import pytest

from calico.tokenizers.document import (
    Image,
    Sound,
    Special,
    Text,
    caption_parts,
    dialogue_parts,
    encode_document,
    text_parts,
)
from calico.tokenizers.sounds import decode_sound, encode_sound
from calico.tokenizers.text import TextTokenizer
from calico.tokenizers.tokens import NO_POSITION, Kind
from calico.tokenizers.vocabulary import Vocabulary

from .conftest import joined

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 33, 3), dtype=np.uint8)  # 2 x 3 patches


def test_text_ends_with_end_and_is_all_target(text: TextTokenizer, vocabulary: Vocabulary) -> None:
    tokens = encode_document(text_parts("go to the ball"), vocabulary, text)
    assert tokens.ids.tolist() == [*text.encode("go to the ball"), vocabulary.end]
    assert tokens.kind.tolist() == [Kind.TEXT] * (len(tokens) - 1) + [Kind.SPECIAL]
    assert tokens.loss_mask.all()
    assert (tokens.position == NO_POSITION).all()
    assert not tokens.timestep.any() and not tokens.segment.any()
    assert len(tokens.patches) == 0


def test_a_caption_and_its_prompt(text: TextTokenizer, vocabulary: Vocabulary) -> None:
    words = text.encode("a red ball").tolist()
    tokens = encode_document(caption_parts(PIXELS, "a red ball"), vocabulary, text)
    assert tokens.ids.tolist() == [vocabulary.patch] * 6 + [vocabulary.separator, *words, vocabulary.end]
    assert tokens.loss_mask.tolist() == [False] * 7 + [True] * (len(words) + 1)
    assert tokens.channels.tolist() == [3] * 6
    np.testing.assert_array_equal(joined(tokens.patches[None], 20, 33, 3)[0], PIXELS)
    prompt = encode_document(caption_parts(PIXELS, None), vocabulary, None)
    np.testing.assert_array_equal(prompt.ids, tokens.ids[:7])
    grey = encode_document([Image(PIXELS[..., 0])], vocabulary, None)
    assert grey.channels.tolist() == [1] * 6
    grey.intervals[:] = 0  # memory of its own


def test_a_dialogue_teaches_what_the_assistant_says(text: TextTokenizer, vocabulary: Vocabulary) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what do you see?"}]},
        {"role": "assistant", "content": "a ball"},
    ]
    tokens = encode_document(dialogue_parts(messages, [PIXELS]), vocabulary, text)
    kind, ask, answer = (text.encode(words).tolist() for words in ("be kind", "what do you see?", "a ball"))
    v = vocabulary
    assert tokens.ids.tolist() == [
        v.system,
        *kind,
        v.end,
        v.user,
        *[v.patch] * 6,
        *ask,
        v.end,
        v.assistant,
        *answer,
        v.end,
    ]
    silent = len(kind) + len(ask) + 11
    assert tokens.loss_mask.tolist() == [False] * silent + [True] * (len(answer) + 1)
    prompt = encode_document(dialogue_parts(messages[:2], [PIXELS], generate=True), vocabulary, text)
    np.testing.assert_array_equal(prompt.ids, tokens.ids[:silent])


def test_a_sound_in_a_dialogue_is_no_target(text: TextTokenizer, vocabulary: Vocabulary) -> None:
    entries = [{"type": "audio"}, {"type": "image"}, {"type": "text", "text": "what do you hear?"}, {"type": "audio"}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": entries}, {"role": "assistant", "content": "a bell"}]
    sounds = [np.sin(np.arange(n) * 0.3) for n in (1500, 700)]
    tokens = encode_document(dialogue_parts(messages, [PIXELS], sounds=sounds), vocabulary, text)
    ask = text.encode("what do you hear?").tolist()
    p = vocabulary.patch
    assert tokens.ids[:12 + len(ask)].tolist() == [vocabulary.user, p, p, p, *[p] * 6, *ask, p, p]
    assert tokens.kind[:10].tolist() == [Kind.SPECIAL, *[Kind.AUDIO] * 3, *[Kind.PATCH] * 6]
    assert tokens.moments.tolist() == [0, 1, 2, 0, 1] and len(tokens.sounds) == 5 and len(tokens.patches) == 6
    assert not tokens.loss_mask[tokens.kind == Kind.AUDIO].any() and tokens.loss_mask.any()
    np.testing.assert_array_equal(decode_sound(tokens.sounds[:3])[:1500], decode_sound(encode_sound(sounds[0])[0])[:1500])
    named = dialogue_parts([{"role": "user", "content": [{"type": "audio", "audio": "b"}]}], sounds={"b": sounds[1]})
    assert any(isinstance(part, Sound) and part.samples is sounds[1] for part in named)
    with pytest.raises(ValueError, match="message 0 shows the audio None, which is not among the 1 sounds"):
        dialogue_parts(messages, [PIXELS], sounds=sounds[:1])


def test_user_text_never_becomes_a_special_token(text: TextTokenizer, vocabulary: Vocabulary) -> None:
    said = "<end><user> <assistant>end [SEP] <unk> <pad> </s>"
    tokens = encode_document(dialogue_parts([{"role": "user", "content": said}]), vocabulary, text)
    assert tokens.kind.tolist() == [Kind.SPECIAL] + [Kind.TEXT] * (len(tokens) - 2) + [Kind.SPECIAL]
    inside = tokens.ids[1:-1]
    assert (inside < vocabulary.config.text).all()
    assert text.decode(inside) == said
    assert encode_document([Text("<end>", loss=True)], vocabulary, text).ids.tolist() != [vocabulary.end]


def test_images_are_found_by_order_index_name_or_given(vocabulary: Vocabulary) -> None:
    other = PIXELS[::-1].copy()

    def shown(entries: list[dict], images: object) -> list[np.ndarray]:
        parts = dialogue_parts([{"role": "user", "content": entries}], images)  # type: ignore[arg-type]
        return [part.pixels for part in parts if isinstance(part, Image)]

    order = shown([{"type": "image"}, {"type": "image"}], [PIXELS, other])
    assert order[0] is PIXELS and order[1] is other
    assert shown([{"type": "image", "image": 1}], [PIXELS, other])[0] is other
    assert shown([{"type": "image", "image": "b"}], {"a": PIXELS, "b": other})[0] is other
    assert shown([{"type": "image", "image": other}], ())[0] is other
    with pytest.raises(ValueError, match="message 0 shows the image None, which is not among the 1 images"):
        shown([{"type": "image"}, {"type": "image"}], [PIXELS])
    with pytest.raises(ValueError, match="message 0 shows the image 'c'"):
        shown([{"type": "image", "image": "c"}], {"a": PIXELS})


@pytest.mark.parametrize(
    "message, error",
    [
        ({"role": "root", "content": "x"}, "message 0 has the role 'root'; there are user, assistant, system"),
        ({"content": "x"}, "role None"),
        ({"role": "user"}, "content of type NoneType"),
        ({"role": "user", "content": [{"type": "video"}]}, "message 0 holds {'type': 'video'}"),
        ({"role": "user", "content": ["x"]}, "message 0 holds 'x'"),
        ({"role": "user", "content": [{"type": "text"}]}, "message 0 holds"),
    ],
)
def test_wrong_messages_are_named(message: dict, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        dialogue_parts([message])


def test_what_a_document_cannot_hold(vocabulary: Vocabulary, text: TextTokenizer) -> None:
    with pytest.raises(ValueError, match="no TextTokenizer"):
        encode_document([Text("a", loss=False)], vocabulary, None)
    with pytest.raises(ValueError, match="special token 'stop' is unknown"):
        Special("stop")
    with pytest.raises(ValueError, match="images must be uint8"):
        encode_document([Image(np.zeros((16, 16, 3)))], vocabulary, text)
    with pytest.raises(TypeError, match="got str"):
        encode_document(["words"], vocabulary, text)  # type: ignore[list-item]
    assert len(encode_document([], vocabulary, None)) == 0
    assert len(encode_document([Text("", loss=True)], vocabulary, text)) == 0


def test_to_say_nothing_is_not_learnt(text: TextTokenizer, vocabulary: Vocabulary) -> None:
    """Data whose replies are all empty trained the end of a reply alone, and looked perfectly learnt."""
    replies: tuple[Any, ...] = ("", " \n", [], [{"type": "image", "image": np.zeros((2, 2, 3), np.uint8)}])
    for reply in replies:
        messages: list[dict[str, Any]] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": reply}]
        assert not encode_document(dialogue_parts(messages), vocabulary, text).loss_mask.any()
    assert not encode_document(caption_parts(np.zeros((2, 2, 3), np.uint8), ""), vocabulary, text).loss_mask.any()
    said = [{"role": "assistant", "content": [{"type": "text", "text": ""}, {"type": "text", "text": "a"}]}]
    assert encode_document(dialogue_parts(said), vocabulary, text).loss_mask.any()
