"""Each shape of a dialogue becomes the same messages, and no text can forge a marker."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calico.datasets.documents import Dialogue, DialogueReader
from calico.datasets.formats.dialogues import extra_of, messages_of
from calico.datasets.images import encode_file
from calico.datasets.sources import document_parts
from calico.tokenizers.document import encode_document
from calico.tokenizers.text import TextTokenizer
from calico.tokenizers.tokens import Kind
from calico.tokenizers.vocabulary import SPECIALS, Vocabulary


def said(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Role and words of each message; a picture or sound reads as <its name>."""
    def words(content: Any) -> str:
        entries = [{"type": "text", "text": content}] if isinstance(content, str) else content
        return "".join(e["text"] if e["type"] == "text" else f"<{e[e['type']]}>" for e in entries)
    return [(message["role"], words(message["content"])) for message in messages]


@pytest.mark.parametrize(("value", "expected"), [
    ({"messages": [{"role": "user", "content": "hi"}]}, [("user", "hi")]),
    ({"turns": ["hi", "hello", "bye"]}, [("user", "hi"), ("assistant", "hello"), ("user", "bye")]),
    ({"turns": [{"role": "system", "text": "be"}, {"role": "assistant", "text": "hi"}]},
     [("system", "be"), ("assistant", "hi")]),
    ({"turns": [{"role": "agent_2", "text": "hi", "mood": 1}, {"role": "agent_1", "content": "yo"},
                {"role": "agent_2", "text": "so"}]}, [("user", "hi"), ("assistant", "yo"), ("user", "so")]),
    ({"instruction": "add", "input": "1 1", "output": "2"}, [("user", "add\n\n1 1"), ("assistant", "2")]),
    ({"instruction": "add", "output": "2"}, [("user", "add"), ("assistant", "2")]),
    ({"question": "why?", "answer": "so"}, [("user", "why?"), ("assistant", "so")]),
    ({"image": "a.png", "question": "who?", "answers": ["x", "cat", "cat"]}, [("user", "<a.png>who?"), ("assistant", "cat")]),
    ({"image": "a.png", "statement": "it is red", "answer": "true"}, [("user", "<a.png>it is red"), ("assistant", "true")]),
    ({"file": "7.flac", "digit": 7, "speaker": "theo"}, [("user", "<7.flac>which digit is spoken?"), ("assistant", "seven")]),
    ({"file": "a.ogg", "label": "Dog_bark", "fold": 1}, [("user", "<a.ogg>what do you hear?"), ("assistant", "dog bark")]),
    ({"audio": "a", "text": "DROP IT"}, [("user", "<a>what is said?"), ("assistant", "DROP IT")]),
    ({"audio": "a.wav", "caption": "a Bell", "text": "x"}, [("user", "<a.wav>what do you hear?"), ("assistant", "a Bell")]),
    ({"file": "a.WAV", "question": "who?", "answer": "a man"}, [("user", "<a.WAV>who?"), ("assistant", "a man")]),
    ({"file": "a.png", "question": "who?", "answer": "a man"}, [("user", "<a.png>who?"), ("assistant", "a man")]),
])
def test_each_shape_becomes_messages(value: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert said(messages_of(value)) == expected


def test_what_else_stands_there_is_kept() -> None:
    assert extra_of({"image": "a", "question": "?", "answers": ["x"], "id": 3}) == {"answers": ["x"], "id": 3}
    assert extra_of({"file": "a.wav", "digit": 3, "speaker": "theo"}) == {"digit": 3, "speaker": "theo"}
    assert extra_of({"turns": ["a"], "image": "shown", "services": []}) == {"services": []}
    assert extra_of({"instruction": "a", "input": "b", "output": "c", "id": 1}) == {"id": 1}
    assert extra_of({"image_path": "a.png", "question": "?", "answer": "x", "path": "b"}) == {"path": "b"}
    assert extra_of({"question": "?", "answers": {"text": ["x", "y"], "answer_start": [0, 3]}}) == {"answers": ["x", "y"]}


@pytest.mark.parametrize(("value", "message"), [
    ({"chat": []}, "line 2: a dialogue needs one of messages, turns, .*; this has chat"), ({}, "line 2: .* this has nothing"),
    ({"turns": []}, "line 2: turns must be a list of at least one turn, got an empty one"),
    ({"turns": "hi"}, "line 2: turns must be a list"),
    ({"turns": ["a", {"role": "user", "text": "b"}]}, "line 2: turns must all be strings, or all objects"),
    ({"turns": [{"role": r, "text": "a"} for r in "abc"]}, "line 2: message 0 must be an object whose role .*got 'a'"),
    ({"turns": [{"role": "user"}]}, "line 2: message 0: content must be a string"),
    ({"instruction": "a"}, "line 2: no reply under one of output, response, completion; the record has instruction"),
    ({"instruction": None, "output": "a"}, "line 2: message 0: text must be a string"),
    ({"file": "a.mp4", "label": "dog"}, "line 2: a dialogue needs one of .*; this has file, label"),
    ({"audio": "a.wav", "fold": 1}, "line 2: a sound needs a question, or what is heard .* caption, digit, .*; this has audio"),
    ({"audio": 3, "label": "dog"}, "line 2: message 0: audio must be a string"),
    ({"audio": "a.wav", "text": 3}, "line 2: message 1: content must be a string"),
    ({"question": "a", "reply": "b"}, "line 2: no reply under one of answer, answers, output, .*; the record has question"),
    ({"question": "a", "answer": "b", "answers": ["c"]}, "line 2: give either 'answer' or 'answers'"),
    ({"question": "a", "answers": [1]}, "line 2: answers must be a list of at least one string"),
    ({"question": "a", "answer": {"b": "c"}}, "line 2: answer must be a list of at least one string"),
    ({"question": 5, "answer": "a"}, "line 2: message 0: text must be a string"),
    ({"question": " ", "answer": "a"}, "line 2: the question is empty"),
    ({"statement": "", "answer": "a"}, "line 2: the statement is empty"),
    ({"question": "a", "answer": "b", "image": "lost.png"}, "names images, but there is none"),
])
def test_a_wrong_dialogue_is_named_with_its_line(tmp_path: Path, value: object, message: str) -> None:
    (tmp_path / "d.jsonl").write_text(json.dumps({"question": "a", "answer": "b"}) + "\n" + json.dumps(value))
    with pytest.raises(ValueError, match=message) as caught:
        DialogueReader(tmp_path / "d.jsonl")
    assert "d.jsonl" in str(caught.value)


@pytest.mark.parametrize("shape", [
    {"messages": [{"role": "user", "content": "X"}, {"role": "assistant", "content": "X"}]}, {"turns": ["X", "X"]},
    {"instruction": "X", "output": "X"}, {"image": "a.png", "question": "X", "answer": "X"},
])
def test_no_text_can_forge_a_marker(tmp_path: Path, shape: dict[str, Any]) -> None:
    """Every way to write a marker is text: the special tokens are those of the two messages, whatever they say."""
    text = TextTokenizer.train(["what do you see? a cat"], 300)
    vocabulary = Vocabulary()
    forged = "".join(f"<{name}>{name}<|{name}|>[{name.upper()}]" for name in SPECIALS) + "</s><unk><0x41>\u2581\x00\x05"
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(encode_file(np.zeros((1, 1, 3), np.uint8)))
    (tmp_path / "d.jsonl").write_text(json.dumps(shape).replace('"X"', json.dumps(forged)))
    tokens = encode_document(document_parts(DialogueReader(tmp_path / "d.jsonl")[0]), vocabulary, text)
    markers = tokens.ids[tokens.kind == Kind.SPECIAL].tolist()
    assert markers == [vocabulary.user, vocabulary.end, vocabulary.assistant, vocabulary.end]
    words = tokens.ids[tokens.kind == Kind.TEXT] - vocabulary.text_start
    assert ((words >= 0) & (words < text.size)).all()
    assert text.decode(words) == forged * 2


@pytest.mark.parametrize(("value", "expected"), [
    ({"id": "1", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}], "system": "be"},
     [("system", "be"), ("user", "hi"), ("assistant", "yo")]),
    ({"image": "a.png", "conversations": [{"from": "human", "value": "<image>\nwho?"}, {"from": "gpt", "value": "Ada"}]},
     [("user", "<a.png>\nwho?"), ("assistant", "Ada")]),
    ({"images": ["a.png", "b.png"], "messages": [{"role": "user", "content": "<image> or <image>?"}]},
     [("user", "<a.png> or <b.png>?")]),
    ({"images": ["a.png"], "messages": [{"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image"}]}]},
     [("user", "see<a.png>")]),
    ({"image": "a.png", "turns": ["who?", "Ada"]}, [("user", "<a.png>who?"), ("assistant", "Ada")]),
    ({"turns": [{"role": "bot", "text": "can I help?"}, {"role": "User", "text": "I am Ada"}]},
     [("assistant", "can I help?"), ("user", "I am Ada")]),
    ({"turns": [{"role": "gpt", "text": "a"}, {"role": "human", "text": "b"}]}, [("assistant", "a"), ("user", "b")]),
    ({"turns": [{"role": "system", "text": "a"}, {"role": "human", "text": "b"}]}, [("system", "a"), ("user", "b")]),
    ({"turns": [{"role": "assistant", "text": "a"}, {"role": "human", "text": "b"}]}, [("assistant", "a"), ("user", "b")]),
    ({"messages": [{"role": "developer", "content": "a"}, {"role": "user", "content": "b"}]}, [("system", "a"), ("user", "b")]),
    ({"instruction": "and?", "input": "", "output": "left", "system": "a bard", "history": [["who?", "Ada"]]},
     [("system", "a bard"), ("user", "who?"), ("assistant", "Ada"), ("user", "and?"), ("assistant", "left")]),
    ({"instruction": "who?", "context": "Ada did.", "response": "Ada", "category": "qa"},
     [("user", "who?\n\nAda did."), ("assistant", "Ada")]),
    ({"prompt": "2+2=", "completion": "4"}, [("user", "2+2="), ("assistant", "4")]),
    ({"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
     [("user", "a"), ("assistant", "b")]),
    ({"context": "Ada did.", "question": "who?", "answers": {"text": ["Ada"], "answer_start": [0]}},
     [("user", "Ada did.\n\nwho?"), ("assistant", "Ada")]),
    ({"context": "Ada did.", "question": "where?", "answers": {"text": [], "answer_start": []}},
     [("user", "Ada did.\n\nwhere?"), ("assistant", "unanswerable")]),
    ({"question": "2+2?", "choices": ["3", "4"], "answer": "B"}, [("user", "2+2?\n\nA. 3\nB. 4"), ("assistant", "B")]),
    ({"question": "2+2?", "choices": ["3", "4"], "answer": 1}, [("user", "2+2?\n\nA. 3\nB. 4"), ("assistant", "B")]),
    ({"question": "2+2?", "options": {"x": "3", "y": "4"}, "answer": "4"},
     [("user", "2+2?\n\nx. 3\ny. 4"), ("assistant", "y")]),
    ({"question": "2+2?", "choices": {"text": ["3", "4"], "label": ["1", "2"]}, "answerKey": "2"},
     [("user", "2+2?\n\n1. 3\n2. 4"), ("assistant", "2")]),
    ({"question": "why?", "response": "so", "system_prompt": "be"}, [("system", "be"), ("user", "why?"), ("assistant", "so")]),
    ({"messages": [{"role": "user", "content": [
        {"type": "input_text", "text": "a"}, {"type": "image_url", "image_url": "a.png"}]}]},
     [("user", "a<a.png>")]),
    ({"messages": [{"role": "user", "content": "a"}], "prompt": "a"}, [("user", "a")]),    # what is said anyway is not dropped
    ({"messages": [{"role": "system", "content": "be"}, {"role": "user", "content": "a"}], "system": "be"},
     [("system", "be"), ("user", "a")]),
    ({"messages": [{"role": "user", "text": "a", "content": None}]}, [("user", "a")]),
    ({"image_path": "a.png", "question": "who?", "answer": "Ada"}, [("user", "<a.png>who?"), ("assistant", "Ada")]),
    ({"file_name": "a.WEBP", "instruction": "who?", "output": "Ada"}, [("user", "<a.WEBP>who?"), ("assistant", "Ada")]),
    ({"file_name": "a.wav", "transcription": "hi"}, [("user", "<a.wav>what is said?"), ("assistant", "hi")]),
    ({"audio": "a.wav", "sentence": "hi"}, [("user", "<a.wav>what is said?"), ("assistant", "hi")]),
    ({"image": "", "turns": ["hi", "yo"]}, [("user", "hi"), ("assistant", "yo")]),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {
        "type": "base64", "media_type": "image/png", "data": "iVBO"}}]}]}, [("user", "<data:image/png;base64,iVBO>")]),
    ({"question": "is it?", "passage": "it is.", "answer": True}, [("user", "it is.\n\nis it?"), ("assistant", "yes")]),
    ({"statement": "it is", "answer": False}, [("user", "it is"), ("assistant", "false")]),
    ({"question": "2+2?", "answer": 4}, [("user", "2+2?"), ("assistant", "4")]),
    ({"question": "who?", "answer": ["Ada", "Bo", "Bo"]}, [("user", "who?"), ("assistant", "Bo")]),
    ({"question": "who?", "answer": {"value": "Ada", "aliases": ["Ada", "A."]}}, [("user", "who?"), ("assistant", "Ada")]),
    ({"question": "who?", "answers": [{"text": "Ada", "answer_start": 3}]}, [("user", "who?"), ("assistant", "Ada")]),
    ({"question": "2+2?", "options": {"A": "3", "B": "4"}, "answer": "4", "answer_idx": "B"},
     [("user", "2+2?\n\nA. 3\nB. 4"), ("assistant", "B")]),
    ({"question": "2+2?", "choices": ["3", "four"], "answer": "(b)"}, [("user", "2+2?\n\nA. 3\nB. four"), ("assistant", "B")]),
    ({"question": "2+2?", "choices": ["0", "1", "4"], "answer": 2}, [("user", "2+2?\n\nA. 0\nB. 1\nC. 4"), ("assistant", "C")]),
])
def test_what_people_write_becomes_messages(value: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    before = json.dumps(value)
    assert said(messages_of(value)) == expected
    assert json.dumps(value) == before


@pytest.mark.parametrize(("value", "message"), [
    ({"turns": [{"role": "customer", "text": "a"}, {"role": "clerk", "text": "b"}]}, "message 0 must be .*got 'customer'"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "message 0 must be .*got 'tool'"),
    ({"messages": [{"role": "user", "content": "a"}], "tools": [{"name": "f"}]}, "the field 'tools' would be dropped: "
                                                                                 "messages"),
    ({"turns": ["a", "b"], "context": "c"}, "the field 'context' would be dropped: turns is read from turns; use, rename or "
                                            "remove it"),
    ({"question": "a", "answer": "b", "hint": "c"}, "the field 'hint' would be dropped: question and answer"),
    ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "message 0 has 'tool_calls', which would not "
                                                                               "be learnt"),
    ({"messages": [{"role": "assistant", "content": "a", "weight": 0.5}]}, "message 0: weight must be 0 or 1, got 0.5"),
    ({"instruction": "a", "input": "b", "context": "c", "output": "d"}, "give one of input, context"),
    ({"instruction": "a", "output": "d", "history": ["b"]}, "history must be a list of pairs"),
    ({"question": "a", "choices": ["b", "c"], "answer": "D"}, "the answer 'D' is none of the choices A, B"),
    ({"question": "a", "choices": 3, "answer": "D"}, "choices must be a list of 1 to 26 texts"),
    ({"question": "a", "choices": ["b", "c"], "correct": "B"}, "no answer under one of answer, answers, answerKey, answer_idx; "
                                                               "the record has question, choices, correct"),
    ({"question": "a", "choices": ["b", "c"], "answer": "b", "answer_idx": "B"}, "give one of answer, answer_idx: they name "
                                                                                 "different choices"),
    ({"prompt": "a", "completion": "b", "label": False}, "label is false: KTO marks a completion so that must not be learnt"),
    ({"prompt": "a", "completion": "b", "label": "False"}, "label is false"),
    ({"messages": [{"role": "assistant", "content": "a", "reasoning": "c"}]}, "message 0 has 'reasoning', which would not be"),
    ({"messages": [{"role": "assistant", "content": "a", "loss": 0.5}]}, "message 0: loss must be 0 or 1, got 0.5"),
    ({"turns": ["<video> what?", "b"], "video": "a.mp4"}, "the field 'video' would be dropped"),
    ({"image_url": "http://a.org/a.png", "question": "a", "answer": "b"}, "the field 'image_url' would be dropped"),
    ({"image": None, "turns": ["<image> what?", "b"]}, "<image> marks a place, but no image is named"),
    ({"images": ["a.png"], "turns": ["<image><image>", "b"]}, "there are more places for images than the 1 that are named"),
    ({"images": ["a.png", "b.png"], "turns": ["<image>", "b"]}, "2 images are named, but there are places for 1 only"),
])
def test_what_would_be_lost_is_refused(value: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        messages_of(value)


@pytest.mark.parametrize(("bad", "good"), [({"weight": 0}, {"weight": 1}), ({"weight": False}, {"weight": None}),
                                           ({"train": False}, {"train": True}), ({"loss": False}, {"loss": True}),
                                           ({"weight": 0, "train": True}, {})])
def test_a_message_of_weight_0_is_no_target(bad: dict[str, Any], good: dict[str, Any]) -> None:
    messages = messages_of({"messages": [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "bad", **bad},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "good", **good}]})
    text = TextTokenizer.train(["bad good a b"], 300)
    tokens = encode_document(document_parts(Dialogue(messages=messages)), Vocabulary(), text)
    words = tokens.ids[tokens.loss_mask & (tokens.kind == Kind.TEXT)] - Vocabulary().text_start
    assert text.decode(words) == "good" and tokens.loss_mask.sum() == len(words) + 1     # and its end
