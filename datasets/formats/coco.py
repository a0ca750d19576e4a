"""COCO captions, VQAv2 questions and SQuAD as records: the same objects that a line of JSON Lines holds.

    COCO captions (Chen et al., arXiv:1504.00325)
        {"images": [{"id": 7, "file_name": "7.jpg"}], "annotations": [{"image_id": 7, "caption": "a cat"}]}
        -> {"image": "7.jpg", "captions": ["a cat"], "image_id": 7}

    VQAv2 (Goyal et al., arXiv:1612.00837), questions and annotations
        {"data_subtype": "val2014", "questions": [{"image_id": 7, "question": "what?", "question_id": 70}]}
        {"annotations": [{"question_id": 70, "answers": [{"answer": "cat"}, ...]}]}
        -> {"image": "COCO_val2014_000000000007.jpg", "question": "what?", "answers": ["cat", ...], "question_id": 70}

    SQuAD (Rajpurkar et al., arXiv:1606.05250 and 1806.03822)
        {"data": [{"paragraphs": [{"context": "...", "qas": [{"id": "5", "question": "who?", "answers": [{"text": "Ada"}]}]}]}]}
        -> {"context": "...", "question": "who?", "answers": {"text": ["Ada"]}, "id": "5"}

Ids that are text in one file and numbers in the other are the same.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

Entries: TypeAlias = list[tuple[str, dict[str, Any]]]   # (position for errors, record)


def coco_entries(content: Mapping[str, Any]) -> Entries:
    """One record per image that has captions.

    Raises:
        ValueError: captions of an image that is not listed.
    """
    names = {str(image["id"]): image["file_name"] for image in content["images"]}
    captions: dict[str, list[str]] = {}
    ids: dict[str, Any] = {}
    for annotation in content["annotations"]:
        key = str(annotation["image_id"])
        captions.setdefault(key, []).append(annotation["caption"])
        ids.setdefault(key, annotation["image_id"])
    if lost := captions.keys() - names.keys():
        raise ValueError(f"{len(lost)} images with captions are not among its images, such as the id {min(lost)}")
    return [(f"image id {key}", {"image": names[key], "captions": said, "image_id": ids[key]})
            for key, said in captions.items()]


def vqa_entries(questions: Mapping[str, Any], annotations: Mapping[str, Any]) -> Entries:
    """One record per question; for one that nobody answered, `answers` is empty."""
    answers = {str(a["question_id"]): [answer["answer"] for answer in a["answers"]] for a in annotations["annotations"]}
    subset = questions.get("data_subtype")
    entries = []
    for question in questions["questions"]:
        key = question["question_id"]
        image = question.get("image") or f"COCO_{subset}_{int(question['image_id']):012d}.jpg"
        entries.append((f"question id {key}", {"image": image, "question": question["question"],
                                               "answers": answers.get(str(key), []), "question_id": key}))
    return entries


def squad_entries(content: Mapping[str, Any]) -> Entries:
    """One record per question; see dialogues.py for those that the text does not answer."""
    return [(f"question id {asked['id']}", {"context": paragraph["context"], "question": asked["question"], "id": asked["id"],
                                            "answers": {"text": [answer["text"] for answer in asked["answers"]]}})
            for article in content["data"] for paragraph in article["paragraphs"] for asked in paragraph["qas"]]
