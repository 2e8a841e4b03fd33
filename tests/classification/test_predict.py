"""The command that names what is in image files: what it prints, for which files, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backbones import weights
from backbones.export import export
from backbones.genotype import Block, Cell, Genotype
from backbones.image_transforms import normalise
from backbones.network import NASNet
from backbones.spec import NetworkSpec
from classification import file_predictions, predict
from classification.config import ImageDataConfig
from classification.data import open_images
from classification.evaluation import evaluation_loader
from runtime.named_images import Unread, find_images

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = ["ant", "[bold]bee", "cat", "dog", "eel", "fly", "gnu"]
CELL = Cell.with_unused_concat(
    [Block(0, 1, "sep_conv_3x3", "identity"), Block(0, 0, "avg_pool_3x3", "conv_1x1")]
)


def network():
    """Of 7 classes that it tells apart, on 16 px; its statistics are those of noise."""
    torch.manual_seed(0)
    net = NASNet(NetworkSpec(Genotype(CELL, CELL), 1, 8, stem="cifar", stem_filters=8, image_size=16), 7)
    net.classes = NAMES
    net.train()
    for _ in range(100):
        net(torch.randn(8, 3, 16, 16))
    torch.nn.init.normal_(net.classifier.weight, std=3.0)
    return net.eval()


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    weights.save(network(), path)
    return str(path)


def write_pictures(folder):
    """One picture in every form that needs care, and a plain one."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    smooth = Image.fromarray(generator.integers(0, 256, (5, 4, 3), dtype=np.uint8)).resize((40, 50))
    smooth.save(folder / "plain.png")
    smooth.quantize(16).save(folder / "palette.png")
    smooth.convert("CMYK").save(folder / "cmyk.jpg")
    smooth.convert("L").save(folder / "grey.png")
    Image.fromarray(generator.integers(0, 2**16, (40, 30), dtype=np.uint16)).save(folder / "sixteen.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # lying on its side
    smooth.save(folder / "rotated.jpg", exif=exif)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data") / "test" / "all")


def as_json(capsys, *arguments):
    code = predict.main([*map(str, arguments), "--json", "--device", "cpu"])
    output = capsys.readouterr()
    return code, [json.loads(line) for line in output.out.splitlines()], output.err


@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_kind_of_image_is_seen_as_in_evaluation(weights_file, pictures, capsys, batch_size):
    code, lines, error = as_json(capsys, weights_file, pictures, "--batch-size", batch_size)
    assert (code, error) == (0, "")
    config = ImageDataConfig(name="imagefolder", root=str(pictures.parent.parent))
    images, net = open_images(config, "test"), weights.load(weights_file)
    (batch, _), *_ = evaluation_loader(images, config, net.preprocessing, torch.device("cpu"), batch_size=6)
    with torch.inference_mode():
        probabilities = net(normalise(batch, net.preprocessing)).softmax(dim=1)
    assert [line["image"] for line in lines] == [path.decode() for path in images.images]
    for line, row in zip(lines, probabilities, strict=True):
        best = row.topk(5)
        assert [guess["label"] for guess in line["top"]] == best.indices.tolist()
        assert [guess["class"] for guess in line["top"]] == [NAMES[k] for k in best.indices.tolist()]
        assert [guess["probability"] for guess in line["top"]] == pytest.approx(
            best.values.tolist(), abs=1e-6
        )
    assert len({tuple(guess["label"] for guess in line["top"]) for line in lines}) > 1  # so it can tell


def test_the_table_shows_names_as_they_are_and_probabilities(weights_file, pictures, capsys):
    assert predict.main([weights_file, str(pictures / "plain.png"), "--top", "9", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    (line,) = as_json(capsys, weights_file, pictures / "plain.png", "--top", 9)[1]
    assert len(line["top"]) == 7
    for guess in line["top"]:
        assert any(
            guess["class"] in row and f"{guess['probability']:.1%}" in row for row in shown.splitlines()
        )


def test_unreadable_files_are_named_and_the_others_go_on(weights_file, pictures, tmp_path, capsys):
    (tmp_path / "cut.png").write_bytes((pictures / "plain.png").read_bytes()[:300])
    (tmp_path / "text.jpg").write_text("no image")
    names = [tmp_path / "cut.png", pictures / "plain.png", tmp_path / "text.jpg", pictures / "grey.png"]
    code, lines, error = as_json(capsys, weights_file, *names, "--batch-size", 2)
    assert code == 1
    assert [line["image"] for line in lines] == list(map(str, names))
    *reasons, count = error.splitlines()
    assert [line.partition(":")[0] for line in reasons] == [str(names[0]), str(names[2])]
    assert count == "2 of 4 could not be read"
    assert [line["error"] for line in lines[::2]] == reasons
    assert lines[1::2] == as_json(capsys, weights_file, names[1], names[3], "--batch-size", 1)[1]


def test_a_word_that_nothing_fits_does_not_lose_the_others(weights_file, pictures, tmp_path, capsys):
    (tmp_path / "bare").mkdir()
    words = ["none.png", tmp_path / "bare", pictures / "grey.png"]
    code, lines, error = as_json(capsys, weights_file, *words)
    reasons = ["none.png: no such image or folder", f"{words[1]}: no images in this folder"]
    assert (code, error.splitlines()) == (1, [*reasons, "2 of 3 could not be read"])
    assert lines[:2] == [
        {"image": str(word), "error": reason} for word, reason in zip(words, reasons, strict=False)
    ]
    assert lines[2:] == as_json(capsys, weights_file, words[2])[1]
    assert predict.main([weights_file, *map(str, words), "--device", "cpu"]) == 1
    shown = "".join(capsys.readouterr().out.split())
    assert "none.png│nosuchimageorfolder" in shown


def test_names_reach_the_terminal_without_control_characters(pictures, tmp_path, capsys):
    net = network()
    net.classes = [f"\x1b[31m{name}" for name in NAMES]
    weights.save(net, tmp_path / "backbone.safetensors")
    name = tmp_path / "\x1b[2Ja\n.png"
    name.write_bytes((pictures / "plain.png").read_bytes())
    bad = tmp_path / "\x07.png"
    bad.write_bytes(b"no image")
    words = [str(tmp_path / "backbone.safetensors"), str(name), str(bad), "--device", "cpu"]
    assert predict.main(words) == 1
    printed = capsys.readouterr()
    assert {one for one in printed.out + printed.err if not one.isprintable()} == {"\n"}
    assert r"\x1b[31mant" in printed.out
    _, (seen, unread), _ = as_json(capsys, *words)
    assert (seen["image"], unread["image"]) == (str(name), str(bad))
    assert seen["top"][0]["class"].startswith("\x1b[31m")


def test_a_batch_without_any_readable_file_is_passed_over(weights_file, pictures, tmp_path, capsys):
    (tmp_path / "text.jpg").write_text("no image")
    arguments = [tmp_path / "text.jpg", pictures / "plain.png", "--batch-size", 1]
    code, lines, _ = as_json(capsys, weights_file, *arguments)
    assert (code, [list(line) for line in lines]) == (1, [["image", "error"], ["image", "top"]])


def test_a_fused_network_says_the_same(weights_file, pictures, capsys, monkeypatch):
    plain = as_json(capsys, weights_file, pictures)[1]
    monkeypatch.setattr(file_predictions, "FUSE_FROM", 1)
    assert file_predictions.load(weights_file, "cpu", 1).fused
    fused = as_json(capsys, weights_file, pictures)[1]
    for one, other in zip(plain, fused, strict=True):
        assert [guess["class"] for guess in other["top"]] == [guess["class"] for guess in one["top"]]
        probabilities = [[guess["probability"] for guess in line["top"]] for line in (one, other)]
        assert probabilities[1] == pytest.approx(probabilities[0], abs=1e-5)


def test_weights_without_names_number_their_classes(tmp_path, pictures, capsys):
    net = network()
    net.classes = None
    weights.save(net, tmp_path / "backbone.safetensors")
    (line,) = as_json(capsys, tmp_path / "backbone.safetensors", pictures / "grey.png", "--top", 1)[1]
    assert line["top"][0]["class"] == f"class {line['top'][0]['label']}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.png"], "none.png: no such image or folder"),
        (["{pictures}", "--device", "foo"], "device = 'foo', expected auto, cpu, cuda or cuda:<number>"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(weights_file, pictures, capsys, arguments, message):
    words = [word.format(pictures=pictures) for word in arguments]
    assert predict.main([weights_file, *words]) == 1
    assert capsys.readouterr().err == f"{message}\n"


def test_files_folders_and_patterns_are_found_in_order(pictures, tmp_path, monkeypatch):
    (tmp_path / "[x].png").write_bytes(b"")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a.JPG").write_bytes(b"")
    (tmp_path / "deep" / "note.txt").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert find_images(["[x].png", "deep"]) == ([Path("[x].png"), Path("deep/er/a.JPG")], [])
    assert find_images(["**/*.JPG"]) == ([Path("deep/er/a.JPG")], [])
    assert find_images([f"{pictures}/*.jpg"]) == ([pictures / "cmyk.jpg", pictures / "rotated.jpg"], [])
    (tmp_path / "bare").mkdir()
    nothing = Unread("bare", "bare: no images in this folder")
    assert find_images(["bare", "*.webp", "deep"]) == (
        [Path("deep/er/a.JPG")],
        [nothing, Unread("*.webp", "*.webp: no such image or folder")],
    )


def test_what_is_no_regular_file_is_found_and_never_opened(weights_file, pictures, tmp_path, capsys):
    """To open a FIFO would wait for ever. HEIC is told, not passed over."""
    folder = tmp_path / "folder"
    folder.mkdir()
    os.mkfifo(folder / "fifo.jpg")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "itself.jpg").symlink_to("itself.jpg")
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "plain.png").write_bytes((pictures / "plain.png").read_bytes())
    code, lines, error = as_json(capsys, weights_file, folder)
    assert (code, len(lines)) == (1, 5)
    told = [line.removeprefix(f"{folder}/") for line in error.splitlines()]
    assert told[:3] == [
        "fifo.jpg: expected an image file, but this is a FIFO",
        "gone.jpg: no such image file: a link to nowhere.jpg, which is absent",
        "itself.jpg: expected an image file, but too many levels of symbolic links",
    ]
    assert told[3].startswith(
        "phone.heic: cannot be read as an image: a HEIC picture, which is not read: convert"
    )
    assert told[4:] == ["4 of 5 could not be read"]


WITHOUT_TORCH = """
import sys
from classification.predict import main
code = main(sys.argv[1:])
assert "torch" not in sys.modules
sys.exit(code)
"""


def test_an_exported_file_names_the_same_without_pytorch(weights_file, pictures, tmp_path, capsys):
    export(weights_file, tmp_path / "net.onnx", "onnx")
    code, expected, _ = as_json(capsys, weights_file, pictures, "--top", 7)
    assert code == 0
    for engine in ("onnx", "openvino"):
        words = [tmp_path / "net.onnx", pictures, "--top", "7", "--json", "--engine", engine]
        command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, words)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert [line["image"] for line in found] == [line["image"] for line in expected]
        for ours, theirs in zip(found, expected, strict=True):
            probabilities = {guess["class"]: guess["probability"] for guess in theirs["top"]}
            assert {g["class"]: g["probability"] for g in ours["top"]} == pytest.approx(
                probabilities, abs=1e-4
            )
            assert ours["top"][0]["label"] == NAMES.index(ours["top"][0]["class"])


def test_an_engine_is_for_exported_files(weights_file, pictures, tmp_path, capsys):
    assert predict.main([weights_file, str(pictures), "--engine", "onnx"]) == 1
    assert predict.main([str(tmp_path / "none.xml"), str(pictures)]) == 1
    assert predict.main([str(tmp_path / "none.xml"), str(pictures), "--device", "cuda:1"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(
        f"{weights_file}: --engine onnx runs exported files, which end in .onnx or .xml"
    )
    assert lines[1] == f"{tmp_path / 'none.xml'}: no such exported file"
    assert lines[2] == "--device cuda:1: exported files run on the CPU"
