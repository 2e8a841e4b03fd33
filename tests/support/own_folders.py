"""Own photographs with their labels in every layout that `data=folder` reads."""

import json
from pathlib import Path

from label_folders import BOX, ROW, picture, put, xml

NAMES = [f"{letter}.png" for letter in "abcdefghij"]


def coco(names, folder=""):
    return json.dumps(
        {
            "images": [
                {"id": i, "file_name": folder + name, "width": 40, "height": 20}
                for i, name in enumerate(names)
            ],
            "annotations": [
                {"id": i + 1, "image_id": i, "category_id": 1, "bbox": BOX, "area": 200, "iscrowd": 0}
                for i in range(len(names))
            ],
            "categories": [{"id": 1, "name": "cat"}],
        }
    )


def labelled(root: Path, images: str, labels: str, suffix: str, names=NAMES) -> None:
    for name in names:
        picture(root / images / name)
        content = xml(name=name) if suffix == ".xml" else ROW
        put((root / labels / name).with_suffix(suffix), content)


def voc(root, images="images", labels="annots", names=NAMES):
    labelled(root, images, labels, ".xml", names)


def yolo(root, images="images", labels="labels", names=NAMES):
    labelled(root, images, labels, ".txt", names)
    put(root / "data.yaml", "names: [cat]\n")


def voc_lists(root):
    voc(root, "JPEGImages", "Annotations")
    for name, stems in {"train": "abcd", "val": "ef", "trainval": "abcdef", "cat_train": "a 1"}.items():
        put(root / "ImageSets/Main" / f"{name}.txt", "\n".join(stems))


def yolo_parts(root, parts):
    for (images, labels), names in parts.items():
        yolo(root, images, labels, names)


def yolo_by_yaml(root):
    yolo_parts(root, {("images/a", "labels/a"): NAMES[:6], ("images/b", "labels/b"): NAMES[6:8]})
    put(root / "data.yaml", "path: ../elsewhere\ntrain: images/a\nval: images/b\nnames: {0: cat}\n")


def yolo_by_lists(root):
    """As COCO for YOLO has them: labels of all images lie together."""
    yolo(root, "set/images", "set/labels")
    put(root / "set/train.txt", "\n".join(f"./images/{name}" for name in NAMES[:7]))
    put(root / "set/lists/val.txt", "\n".join([f"images/{name}" for name in NAMES[7:9]]) + "\n\n")
    lists = "path: set\ntrain: train.txt\nval: lists/val.txt\ntest: no.txt\nnames: [cat]\n"
    put(root / "data.yaml", lists)


def yolo_by_several_folders(root):
    yolo_parts(root, {(f"images/{part}", f"labels/{part}"): NAMES[:4] for part in "abc"})
    put(root / "more.txt", str(root / "images/c" / NAMES[0]))
    put(root / "data.yaml", "train: [images/a, images/b]\nval:\n- more.txt\nnames: [cat]\n")


def roboflow_yolo(root):
    yolo_parts(root, {(f"{part}/images", f"{part}/labels"): NAMES[:2] for part in ("train", "valid", "test")})
    put(
        root / "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [cat]\n",
    )
    put(root / "README.roboflow.txt", "")


def roboflow_voc(root):
    voc(root, "train", "train", NAMES[:6])
    voc(root, "valid", "valid", NAMES[6:])


def roboflow_coco(root):
    for part, names in (("train", NAMES[:6]), ("valid", NAMES[6:])):
        put(root / part / "_annotations.coco.json", coco(names))
        for name in names:
            picture(root / part / name)


def coco_parts(root):
    for part, names in (("train2017", NAMES[:6]), ("val2017", NAMES[6:])):
        put(root / "annotations" / f"instances_{part}.json", coco(names))
        put(root / "annotations" / f"captions_{part}.json", coco(names))
        for name in names:
            picture(root / "images" / part / name)


def coco_whole(root):
    put(root / "result.json", coco(NAMES, "images/"))
    put(root / "notes.json", "[]")
    for name in NAMES:
        picture(root / "images" / name)


def coco_with_test(root):
    for part, names in (("train", NAMES[:6]), ("test", NAMES[6:])):
        put(root / f"{part}.json", coco(names))
        for name in names:
            picture(root / part / name)


DRAWN = "no split: 20 % drawn for validation by seed 0 (2 of 10 images); 1 class"
LAYOUTS = {
    "VOC of a stranger": (voc, f"VOC layout, {DRAWN}", 8, 2),
    "VOC, other names": (lambda root: voc(root, "images", "annotations"), f"VOC layout, {DRAWN}", 8, 2),
    "VOC with lists": (
        voc_lists,
        "VOC layout: trained on train (4 images), scored on val (2 images); 1 class",
        4,
        2,
    ),
    "labels beside the images": (lambda root: voc(root, ".", "."), f"VOC layout, {DRAWN}", 8, 2),
    "in a folder in it": (lambda root: voc(root / "unpacked"), f"VOC layout, {DRAWN}", 8, 2),
    "YOLO": (yolo, f"YOLO layout, {DRAWN}", 8, 2),
    "YOLO, images and labels in one folder": (
        lambda root: yolo(root, "data", "data"),
        f"YOLO layout, {DRAWN}",
        8,
        2,
    ),
    "YOLO with splits": (
        lambda root: yolo_parts(
            root, {("images/train", "labels/train"): NAMES[:7], ("images/val", "labels/val"): NAMES[7:]}
        ),
        "YOLO layout: trained on train (7 images), scored on val (3 images); 1 class",
        7,
        3,
    ),
    "YOLO, split by data.yaml": (
        yolo_by_yaml,
        "YOLO layout: trained on train (6 images), scored on val (2 images); 1 class",
        6,
        2,
    ),
    "YOLO, lists in data.yaml": (
        yolo_by_lists,
        "YOLO layout: trained on train (7 images), scored on val (2 images); 1 class",
        7,
        2,
    ),
    "YOLO, several folders in data.yaml": (
        yolo_by_several_folders,
        "YOLO layout: trained on train (8 images), scored on val (1 image); 1 class",
        8,
        1,
    ),
    "Roboflow, YOLO": (
        roboflow_yolo,
        "YOLO layout (Roboflow export): trained on train (2 images), scored on val (2 images); "
        "test not used; 1 class",
        2,
        2,
    ),
    "Roboflow, VOC": (
        roboflow_voc,
        "VOC layout: trained on train (6 images), scored on valid (4 images); 1 class",
        6,
        4,
    ),
    "Roboflow, COCO": (
        roboflow_coco,
        "COCO layout: trained on train (6 images), scored on valid (4 images); 1 class",
        6,
        4,
    ),
    "COCO": (
        coco_parts,
        "COCO layout: trained on train2017 (6 images), scored on val2017 (4 images); 1 class",
        6,
        4,
    ),
    "COCO without a split": (coco_whole, f"COCO layout, {DRAWN}", 8, 2),
    "COCO with test alone": (
        coco_with_test,
        "COCO layout: trained on train (6 images), scored on test (4 images); 1 class",
        6,
        4,
    ),
}
