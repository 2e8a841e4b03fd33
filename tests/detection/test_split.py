"""Training and mini-val images from several annotation files."""

import json
from pathlib import Path

import pytest

from detection.data.annotations import read_coco
from detection.split import main

BOX = {"category_id": 1, "bbox": [1, 2, 3, 4]}
MASK = {"counts": 'abc`\\"}', "size": [30, 40]}


def write(folder: Path, name: str, ids: range, year: int = 2014, **changes) -> Path:
    """An annotation file with two boxes per image; every first one's mask has signs that JSON has, too."""
    split = name.removeprefix("instances_").removesuffix(str(year))
    content = {
        "info": {"year": year},
        "licenses": [{"id": 1}],
        "images": [
            {
                "id": i,
                "file_name": f"COCO_{split}2014_{i:012d}.jpg" if year == 2014 else f"{i:012d}.jpg",
                "width": 40,
                "height": 30,
                "license": 1,
            }
            for i in ids
        ],
        "annotations": [
            {
                "id": 10 * i + k,
                "image_id": i,
                "category_id": 1 + k,
                "bbox": [1, 2, 3, 4],
                "iscrowd": 1 - k,
                "segmentation": [[1.5, 2]] if k else MASK,
            }
            for i in ids
            for k in (0, 1)
        ],
        "categories": [{"id": 2, "name": "cat"}, {"id": 1, "name": "dog"}],
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content | changes))
    return path


@pytest.fixture
def coco2014(tmp_path):
    return [
        write(tmp_path, "instances_train2014", range(100, 130)),
        write(tmp_path, "instances_val2014", range(200, 220)),
    ]


def split(files, output: Path, *more: str) -> tuple[dict, dict]:
    assert main([*map(str, files), "--output", str(output), *more]) == 0
    return tuple(json.loads((output / f"{name}.json").read_text()) for name in ("train", "minival"))


def test_what_is_read_is_not_overwritten(coco2014, tmp_path, capsys):
    source = coco2014[1].rename(tmp_path / "train.json")
    before = source.read_bytes()
    assert main([str(source), "--output", f"{tmp_path}/", "--minival", "8"]) == 1
    assert "train.json is read and would be overwritten: choose another --output" in capsys.readouterr().err
    assert source.read_bytes() == before
    assert not (tmp_path / "minival.json").exists()


def ids(content, kind="images"):
    return {element["id"] for element in content[kind]}


def test_the_minival_is_drawn_from_val2014_and_the_rest_is_for_training(coco2014, tmp_path, capsys):
    train, minival = split(coco2014, tmp_path / "out", "--minival", "8")
    assert len(minival["images"]) == 8
    assert ids(minival) < set(range(200, 220))
    assert ids(train) | ids(minival) == {*range(100, 130), *range(200, 220)}
    assert not ids(train) & ids(minival)
    assert {a["image_id"] for a in minival["annotations"]} == ids(minival)
    assert len(train["annotations"]) == 2 * len(train["images"])
    assert "8 drawn from the 20 images of val2014, seed 0" in capsys.readouterr().out


def test_annotations_keep_their_masks_and_images_their_keys(coco2014, tmp_path):
    train, minival = split(coco2014, tmp_path / "out", "--minival", "8")
    both = [a for part in (train, minival) for a in part["annotations"]]
    given = [a for path in coco2014 for a in json.loads(path.read_text())["annotations"]]
    assert sorted(both, key=lambda a: a["id"]) == sorted(given, key=lambda a: a["id"])
    assert minival["images"][0]["license"] == 1
    assert train["licenses"] == [{"id": 1}]
    assert "8 drawn from the 20 images of val2014" in minival["info"]["description"]


def test_images_of_several_folders_have_their_folder_in_their_name(coco2014, tmp_path):
    split(coco2014, tmp_path / "out", "--minival", "8")
    coco, _ = read_coco(tmp_path / "out" / "train.json")
    assert {str(name).split("/COCO_")[0] for name in coco.file_names} == {"train2014", "val2014"}


def test_one_file_alone_keeps_its_names(coco2014, tmp_path):
    _, minival = split(coco2014[1:], tmp_path / "out", "--minival", "8")
    assert minival["images"][0]["file_name"].startswith("COCO_val2014_")


def test_a_byte_order_mark_and_nan_are_read(coco2014, tmp_path):
    content = json.loads(coco2014[1].read_text())
    content["annotations"][0]["area"] = float("nan")
    coco2014[1].write_text(json.dumps(content), encoding="utf-8-sig")
    train, minival = split(coco2014, tmp_path / "out", "--minival", "8")
    assert len(train["images"]) + len(minival["images"]) == 50


def test_what_is_drawn_depends_on_ids_and_seed_only(coco2014, tmp_path):
    draws = [
        ids(split(files, tmp_path / str(number), "--minival", "8", "--seed", seed)[1])
        for number, (files, seed) in enumerate([(coco2014, "0"), (coco2014[::-1], "0"), (coco2014, "1")])
    ]
    assert draws[0] == draws[1] != draws[2]


def test_coco_2017_says_that_it_draws_from_all(tmp_path, capsys):
    files = [
        write(tmp_path, "instances_train2017", range(100, 130), 2017),
        write(tmp_path, "instances_val2017", range(200, 205), 2017),
    ]
    _, minival = split(files, tmp_path / "out", "--minival", "20")
    assert len(minival["images"]) == 20
    assert "drawn from all of 35 images, whose names do not tell" in capsys.readouterr().out


def test_a_list_of_ids_is_taken_as_it_is(coco2014, tmp_path):
    listed = tmp_path / "ids.txt"
    listed.write_text("203\n105\n219\n")
    _, minival = split(coco2014, tmp_path / "out", "--minival-ids", str(listed))
    assert ids(minival) == {203, 105, 219}


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"ids": range(129, 140)}, "overlap: both have image id 129 (1 such ids)"),
        (
            {"ids": range(200, 220), "annotations": [BOX | {"id": 1000, "image_id": 200}]},
            "overlap: both have annotation id 1000",
        ),
        (
            {"ids": range(200, 220), "annotations": [BOX | {"id": 1, "image_id": 100}]},
            "image_id is not among the ids of images: 1 (annotation 1: image_id = 100)",
        ),
        (
            {"ids": range(200, 220), "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "gnu"}]},
            "has other categories than",
        ),
        ({"ids": range(200, 220), "annotations": [{"id": 1}]}, "annotations: image_id is missing"),
        ({"ids": range(200, 220), "images": [{"id": 1}]}, "images: file_name is missing"),
        ({"ids": range(200, 220), "annotations": None}, "the key 'annotations' is missing"),
    ],
)
def test_files_that_do_not_go_together_are_refused(tmp_path, capsys, second, message):
    ids = second.pop("ids")
    files = [write(tmp_path, "instances_train2014", range(100, 130)), write(tmp_path, "b", ids, **second)]
    code = main([*map(str, files), "--minival", "3", "--output", str(tmp_path / "out")])
    assert code == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--minival", "20"], "--minival 20: must be less than the 20 images of val2014"),
        (["--minival-ids", "ids.txt"], "ids.txt: 1 of 2 ids are of no image, first 7"),
        (["--minival-ids", "words.txt"], "words.txt: 'x' is no image id"),
        (["--minival-ids", "long.txt"], "1111' is no image id"),
        (["--minival-ids", "none.txt"], "none.txt: no such list of image ids"),
    ],
)
def test_an_impossible_minival_is_refused(coco2014, tmp_path, capsys, monkeypatch, more, message):
    monkeypatch.chdir(tmp_path)
    Path("ids.txt").write_text("203\n7\n")
    Path("words.txt").write_text("203 x\n")
    Path("long.txt").write_text("1" * 5000)
    assert main([*map(str, coco2014), *more, "--output", "out"]) == 1
    assert message in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_fraction_is_drawn_by_name_and_written_beside_the_annotations(tmp_path, capsys):
    path = write(tmp_path, "labels", range(100, 150))
    assert main([str(path), "--fraction", "0.2"]) == 0
    train, val = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("train", "val"))
    assert (len(train["images"]), len(val["images"])) == (40, 10)
    kept = json.loads(path.read_text())["images"]
    assert sorted(image["id"] for image in train["images"] + val["images"]) == [image["id"] for image in kept]
    assert capsys.readouterr().out.endswith("labels.json: val = 10 of 50 images, by name, seed 0\n")
    assert main([str(path), "--fraction", "0.2"]) == 1
    assert (
        capsys.readouterr().err == f"{tmp_path}/train.json is there already: choose a folder with --output\n"
    )


def test_a_stratified_draw_keeps_the_share_of_the_rarest_category(tmp_path):
    path = write(tmp_path, "labels", range(100))
    content = json.loads(path.read_text())
    for box in content["annotations"]:  # a dog in every image, a cat in 10, nothing in 10
        box["category_id"] = 2 if box["image_id"] < 10 and box["id"] % 10 else 1
    content["annotations"] = [box for box in content["annotations"] if box["image_id"] < 90]
    path.write_text(json.dumps(content))
    for seed in "012":
        output = tmp_path / seed
        assert (
            main([str(path), "--fraction", "0.2", "--stratify", "--seed", seed, "--output", str(output)]) == 0
        )
        val = json.loads((output / "val.json").read_text())
        ids = {image["id"] for image in val["images"]}
        assert [len(ids & set(part)) for part in (range(10), range(10, 90), range(90, 100))] == [2, 16, 2]


def test_stratify_goes_with_a_fraction_alone(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(write(tmp_path, "labels", range(5))), "--minival", "2", "--stratify"])
    assert capsys.readouterr().err.endswith("--stratify goes with --fraction\n")
