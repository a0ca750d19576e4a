"""COCO captions and VQAv2 questions as records: the same objects that a line of JSON Lines holds.

    COCO captions (Chen et al., arXiv:1504.00325)
        {"images": [{"id": 7, "file_name": "7.jpg"}], "annotations": [{"image_id": 7, "caption": "a cat"}]}
        -> {"image": "7.jpg", "captions": ["a cat"], "image_id": 7}

    VQAv2 (Goyal et al., arXiv:1612.00837), questions and annotations
        {"data_subtype": "val2014", "questions": [{"image_id": 7, "question": "what?", "question_id": 70}]}
        {"annotations": [{"question_id": 70, "answers": [{"answer": "cat"}, ...]}]}
        -> {"image": "COCO_val2014_000000000007.jpg", "question": "what?", "answers": ["cat", ...], "question_id": 70}
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

Entries: TypeAlias = list[tuple[str, dict[str, Any]]]   # (place to name in errors, record)


def coco_entries(content: Mapping[str, Any]) -> Entries:
    """One record per image that has captions; for captions whose image is not listed, `image` is None."""
    names = {image["id"]: image["file_name"] for image in content["images"]}
    captions: dict[Any, list[str]] = {}
    for annotation in content["annotations"]:
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    return [(f"image id {key}", {"image": names.get(key), "captions": said, "image_id": key})
            for key, said in captions.items()]


def vqa_entries(questions: Mapping[str, Any], annotations: Mapping[str, Any]) -> Entries:
    """One record per question; for one that nobody answered, `answers` is empty."""
    answers = {a["question_id"]: [answer["answer"] for answer in a["answers"]] for a in annotations["annotations"]}
    subset = questions.get("data_subtype")
    entries = []
    for question in questions["questions"]:
        key = question["question_id"]
        image = question.get("image") or f"COCO_{subset}_{question['image_id']:012d}.jpg"
        entries.append((f"question id {key}", {"image": image, "question": question["question"],
                                               "answers": answers.get(key, []), "question_id": key}))
    return entries
