import copy
import io
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from calico.tokenizers.text import TextTokenizer, check_fits
from calico.tokenizers.vocabulary import Vocabulary, VocabularyConfig

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
LOOKS_SPECIAL = st.lists(
    st.sampled_from(
        [
            "<0x41>",
            "<unk>",
            "</s>",
            "<end>",
            " ",
            "  ",
            "\n",
            "\x00",
            "\u2581",
            "go",
            "\u0301",
            "\ufeff",
            "\ufffd",
            "\U0001f431",
            "\x05",
            "\t",
        ]
    ),
    max_size=12,
).map("".join)


@settings(max_examples=300, deadline=None)
@example("")
@example("  leading, double  and trailing  ")
@example("a\u2581b \u2581\u2581")
@example("\n\r\n\u2028\x00\x05")
@given(value=ANY_TEXT | LOOKS_SPECIAL)
def test_every_string_comes_back(text: TextTokenizer, value: str) -> None:
    ids = text.encode(value)
    assert ids.dtype == np.int32
    assert ((ids >= 0) & (ids < text.size)).all()
    assert text.decode(ids) == value


def test_every_character_comes_back(text: TextTokenizer) -> None:
    characters = "".join(chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000)
    for start in range(0, len(characters), 50_000):
        assert text.decode(text.encode(characters[start : start + 50_000])) == characters[start : start + 50_000]


def test_empty_text_has_no_tokens(text: TextTokenizer) -> None:
    assert text.encode("").shape == (0,)
    assert text.decode([]) == ""


def test_frequent_words_are_short(text: TextTokenizer) -> None:
    assert len(text.encode("the red ball")) < len("the red ball") / 2
    assert [text.piece(i) for i in text.encode("17")] == ["1", "7"]  # digit by digit


def test_a_lone_surrogate_is_named(text: TextTokenizer) -> None:
    with pytest.raises(ValueError, match=r"surrogate U\+D800 at index 2"):
        text.encode("ab\ud800")
    with pytest.raises(ValueError, match="surrogate"):
        TextTokenizer.train(["ab\ud800"], 300)
    with pytest.raises(TypeError, match="bytes"):
        text.encode(b"ab")  # type: ignore[arg-type]


def test_ids_that_are_no_pieces_are_named(text: TextTokenizer) -> None:
    for wrong in (-1, text.size):
        with pytest.raises(ValueError, match=f"id {wrong} is not a text piece"):
            text.decode([wrong])
        with pytest.raises(ValueError, match=f"id {wrong} is not a text piece"):
            text.piece(wrong)


def test_bytes_that_are_not_utf8_decode_to_the_replacement_character(text: TextTokenizer) -> None:
    first_byte = text.encode("\U0001f431")[:1]
    assert text.decode(first_byte) == "\ufffd"
    assert text.piece(int(first_byte[0])) == "<0xF0>"


@pytest.mark.parametrize(
    "corpus",
    [
        ["a"],
        [" x "],
        ["x" * 30_000],
        ["<0x41> <unk> </s>"],
        ["\u2581", "b"],
        ["a\nb\n\nc\x00"],
        ["".join(chr(0x4E00 + i) for i in range(2000))],
    ],
    ids=range(7),
)
@pytest.mark.parametrize("vocab_size", [260, 300, 1000])
def test_small_and_strange_corpora_train(corpus: list[str], vocab_size: int) -> None:
    tokenizer = TextTokenizer.train(corpus, vocab_size)
    assert 258 <= tokenizer.size <= vocab_size
    for value in (*corpus, "other \u00e9 text\n"):
        assert tokenizer.decode(tokenizer.encode(value)) == value


def test_training_is_deterministic_and_silent(capfd: pytest.CaptureFixture[str]) -> None:
    lines = [f"line {i} of the corpus, {i * i} words" for i in range(300)]
    first, again = (TextTokenizer.train(iter(lines), 320, seed=3, max_lines=100).to_bytes() for _ in range(2))
    other = TextTokenizer.train(lines, 320, seed=4, max_lines=100).to_bytes()
    assert first == again
    assert first != other
    assert capfd.readouterr() == ("", "")


def test_training_needs_text_and_room() -> None:
    with pytest.raises(ValueError, match="no text to train"):
        TextTokenizer.train(["", "  \n "], 300)
    with pytest.raises(ValueError, match="vocab_size=259 leaves no room.*at least 260"):
        TextTokenizer.train(["hello"], 259)


def test_save_load_copy_and_pickle_give_the_same_ids(text: TextTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "text.model"
    text.save(path)
    value = "go to the grey ball \u2581\n"
    for twin in (
        TextTokenizer.load(path),
        TextTokenizer.from_bytes(text.to_bytes()),
        copy.deepcopy(text),
        pickle.loads(pickle.dumps(text)),
    ):
        np.testing.assert_array_equal(twin.encode(value), text.encode(value))


def test_a_broken_file_is_named(text: TextTokenizer, tmp_path: Path) -> None:
    good = text.to_bytes()
    for name, content in {
        "empty": b"",
        "zeros": bytes(500),
        "html": b"<html>not found</html>",
        "cut": good[: len(good) // 2],
        "head": good[:3],
    }.items():
        path = tmp_path / f"{name}.model"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.model is "):
            TextTokenizer.load(path)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_model_of_other_making_keeps_text_as_it_is(tmp_path: Path, kind: str) -> None:
    model = foreign(kind, byte_fallback=True)
    (tmp_path / "theirs.model").write_bytes(model)
    text = TextTokenizer.load(tmp_path / "theirs.model")
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model)
    for strange in ("  two  spaces ", "\ufb01\u2460", "\u2581", "caf\u00e9 cafe\u0301"):
        assert theirs.decode(theirs.encode(strange)) != strange
        assert text.decode(text.encode(strange)) == strange
    inside = text.encode(" red ball").tolist()             # after a space the pieces are the model's own
    assert inside == theirs.encode("red ball")
    assert [text.piece(i) for i in inside] == [theirs.id_to_piece(i).replace("\u2581", " ") for i in inside]
    np.testing.assert_array_equal(TextTokenizer.from_bytes(text.to_bytes()).encode("go to"), text.encode("go to"))


def test_a_model_without_bytes_is_refused() -> None:
    letters = [chr(i) for i in range(0x4e00, 0x4e00 + 300)]
    with pytest.raises(ValueError, match="without a piece for byte .*calico tokenizer train"):
        TextTokenizer.from_bytes(foreign("bpe", lines=["".join(letters)] * 3, vocab_size=400))


def foreign(kind: str, *, lines: Sequence[str] = ("go to the red ball", "the ball is red") * 9, vocab_size: int = 300,
            byte_fallback: bool = False) -> bytes:
    """A model trained with SentencePiece's own defaults: it normalises, joins spaces and puts one first."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, vocab_size=vocab_size,
                                             model_type=kind, hard_vocab_limit=False, byte_fallback=byte_fallback,
                                             minloglevel=2)
    return model.getvalue()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_flipped_bytes_load_or_raise_value_error(text: TextTokenizer, data: st.DataObject) -> None:
    model = bytearray(text.to_bytes())
    for place in data.draw(st.lists(st.integers(0, len(model) - 1), min_size=1, max_size=5)):
        model[place] = data.draw(st.integers(0, 255))
    try:
        tokenizer = TextTokenizer.from_bytes(bytes(model))
    except ValueError as error:
        assert "the given bytes" in str(error)
    else:
        tokenizer.decode(tokenizer.encode("go to the ball \u00e9"))


def test_a_vocabulary_too_small_for_the_pieces_is_refused(text: TextTokenizer) -> None:
    check_fits(text, Vocabulary(VocabularyConfig(text=text.size)))
    with pytest.raises(ValueError, match=f"set vocabulary.text={text.size}"):
        check_fits(text, Vocabulary(VocabularyConfig(text=text.size - 1)))


def test_a_character_that_the_trainer_keeps_for_itself_costs_no_words() -> None:
    """SentencePiece skips lines with U+2585 without a word, and fails where none is left."""
    text = TextTokenizer.train(["zebra \u2585 zebra zebra zebra"] * 20 + ["the cat"], 300)
    assert "zebra" in [text.piece(i).strip() for i in text.encode("zebra zebra")]
    alone = TextTokenizer.train(["\u2581\u2585 only \u2585"], 300)
    for each in (text, alone):
        assert each.decode(each.encode("a \u2585\u2585 b")) == "a \u2585\u2585 b"


def test_every_id_is_a_piece_the_first_and_the_last_too(text: TextTokenizer) -> None:
    assert all(isinstance(text.decode([token]), str) for token in (0, 1, text.size - 1))
    assert text.decode(np.arange(text.size)) == text.decode(list(range(text.size)))
