"""Weights of timm and pretrainedmodels give their answers here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from backbones import load
from backbones.__main__ import main
from backbones.foreign_weights import read_state_dict
from backbones.layers import Layers
from backbones.operations import OPERATIONS
from backbones.weights import convert
from benchmarks.calibration import calibrate

timm = pytest.importorskip("timm")
pretrainedmodels = pytest.importorskip("pretrainedmodels")
from timm.layers import create_pool2d  # noqa: E402  (behind the skip)
from timm.models.nasnet import NASNetALarge  # noqa: E402


def narrow_timm(num_classes=10):
    net = NASNetALarge(num_classes=num_classes, stem_size=16, num_features=192)
    return calibrate(net, size=224).eval()


@pytest.fixture(scope="module")
def timm_net():
    return narrow_timm()


@pytest.fixture(scope="module")
def mobile():
    net = pretrainedmodels.nasnetamobile(num_classes=1000, pretrained=None)
    return calibrate(net, images=2, size=224).eval()


def assert_equal_to(ours, theirs):
    """To 1e-4 of the largest value; and the images differ, so a constant would not pass."""
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()
    assert (theirs[0] - theirs[1]).abs().max() > 0.05 * theirs.abs().max()


def assert_answers_of_timm(net, size):
    x = torch.randn(2, 3, size, size)
    ours = convert(net.state_dict(), "timm")
    with torch.no_grad():
        assert_equal_to(ours(x), net(x))
        maps = ours.features(x)
        theirs = net.forward_intermediates(x, intermediates_only=True)
        assert [info["reduction"] for info in net.feature_info] == [2, 4, 8, 16, 32]
        for name, reference in zip(("c2", "c3", "c4", "c5"), theirs[1:], strict=True):
            assert_equal_to(maps[name], reference)
        assert_equal_to(ours.endpoints(x)["stem"], theirs[0])
        assert_equal_to(maps["c5"], net.forward_features(x))


@pytest.mark.parametrize("size", [331, 299, 320])
def test_a_narrow_network_of_timm_gives_its_features_and_logits(timm_net, size):
    assert_answers_of_timm(timm_net, size)


@pytest.mark.slow
@pytest.mark.parametrize("size", [331, 299, 320])
def test_nasnetalarge_of_timm_gives_its_features_and_logits(size):
    net = timm.create_model("nasnetalarge")
    assert_answers_of_timm(calibrate(net, size=160).eval(), size)


@pytest.mark.parametrize("size", [224, 256, 288])
def test_nasnetamobile_of_pretrainedmodels_gives_its_features_and_logits(mobile, size):
    x = torch.randn(2, 3, size, size)
    ours = convert(mobile.state_dict(), "pretrainedmodels")
    with torch.no_grad():
        features = mobile.features(x)
        assert_equal_to(ours.endpoints(x)["cell_11"], features)
        # Its head pools 7x7 windows, which are the whole map at 224 px only.
        assert_equal_to(ours(x), mobile.last_linear(features.relu().mean(dim=(2, 3))))
        if size == 224:
            assert_equal_to(ours(x), mobile(x))


def test_conversion_reads_sizes_and_preprocessing(timm_net, mobile):
    large = convert(timm_net.state_dict(), "timm")
    config = timm.create_model("nasnetalarge", num_classes=2, num_features=192).pretrained_cfg
    assert (large.num_classes, large.spec.filters, large.spec.stem_filters) == (10, 8, 16)
    assert (large.spec.cells_per_stage, large.spec.image_size, large.training) == (6, 331, False)
    given = large.preprocessing
    assert (3, given.size, given.size) == config["input_size"]
    assert (given.mean, given.std, given.crop) == (config["mean"], config["std"], config["crop_pct"])
    assert given.interpolation == config["interpolation"]

    small, settings = convert(mobile.state_dict(), "pretrainedmodels").preprocessing, mobile
    assert [3, small.size, small.size] == settings.input_size
    assert (list(small.mean), list(small.std)) == (settings.mean, settings.std)
    assert (small.crop, small.interpolation) == (0.875, "bilinear")  # pretrainedmodels.utils.TransformImage


def test_both_forms_of_a_state_dict_are_read(tmp_path):
    tensors = {"a.weight": torch.randn(2, 3), "b": torch.tensor(3)}
    save_file(tensors, tmp_path / "theirs.safetensors")
    torch.save(tensors, tmp_path / "plain.pth")
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "theirs.pth")
    for path in tmp_path.iterdir():
        read = read_state_dict(path)
        assert read.keys() == tensors.keys(), path
        assert all(torch.equal(read[name], tensors[name]) for name in tensors), path


def test_converted_weights_travel_in_our_file(timm_net, tmp_path, monkeypatch):
    checkpoint, output = tmp_path / "theirs.pth", tmp_path / "ours.safetensors"
    torch.save({"state_dict": timm_net.state_dict(), "epoch": 3}, checkpoint)
    arguments = ["--source", "timm", "--checkpoint", str(checkpoint), "--output", str(output)]
    monkeypatch.setattr("sys.argv", ["backbones", "convert", *arguments])
    main()
    net, again = convert(timm_net.state_dict(), "timm"), load(output)
    x = torch.randn(2, 3, 96, 96)
    assert torch.equal(again(x), net(x))
    assert (again.spec, again.preprocessing) == (net.spec, net.preprocessing)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "pretrainedmodels"], "--source pretrainedmodels downloads nothing.*--checkpoint FILE"),
        (["--source", "timm", "--checkpoint", "none.pth"], "none.pth: no such state dict file"),
        *(
            (
                ["--source", "timm", "--checkpoint", name],
                f"^{name}: not a state dict in PyTorch's or safetensors format, which holds tensors by name "
                "and nothing else$",
            )
            for name in ("junk.pth", "junk.safetensors", "objects.pth")
        ),
        (["--source", "timm", "--checkpoint", "list.pth"], "list.pth: holds list, expected names with"),
    ],
)
def test_a_file_that_cannot_be_converted_is_one_sentence(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    for name in ("junk.pth", "junk.safetensors"):
        Path(name).write_bytes(b"junk" * 100)
    torch.save([torch.zeros(1)], "list.pth")
    torch.save({"state_dict": {"w": torch.zeros(1)}, "epoch": Path("x")}, "objects.pth")
    monkeypatch.setattr("sys.argv", ["backbones", "convert", "--output", "out.safetensors", *arguments])
    with pytest.raises(SystemExit, match=message):
        main()
    assert not Path("out.safetensors").exists()


@pytest.mark.slow
def test_without_a_connection_a_download_is_one_sentence(tmp_path):
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "backbones", "convert", "--source", "timm"]
    output = tmp_path / "out.safetensors"
    done = subprocess.run([*command, "--output", output], capture_output=True, text=True, env=offline)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("the weights of timm's nasnetalarge cannot be had (")
    assert message.endswith("give them by --checkpoint FILE")
    assert not output.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("last_linear.bias"), "missing last_linear.bias"),
        (lambda d: d.pop("conv0.conv.weight"), "missing conv0.conv.weight"),
        (
            lambda d: d.pop("cell_17.comb_iter_0_left.bn_sep_1.running_mean"),
            "missing cell_17.comb_iter_0_left.bn_sep_1.running_mean",
        ),
        (lambda d: d.update(cell_18=torch.zeros(2)), "unexpected cell_18"),
        (
            lambda d: d.update({"cell_stem_1.path_2.conv.weight": torch.zeros(1, 2)}),
            r"cell_stem_1.path_2.conv.weight is \(1, 2\), expected \(2, 16, 1, 1\)",
        ),
        (lambda d: d.update({"conv0.bn.weight": [1]}), r"conv0.bn.weight is list, expected \(16,\)"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused_with_its_own_names(timm_net, change, message):
    state_dict = dict(timm_net.state_dict())
    change(state_dict)
    with pytest.raises(ValueError, match=f"timm's nasnetalarge: the weights do not fit.*{message}"):
        convert(state_dict, "timm")


def test_all_that_does_not_fit_is_listed_together(timm_net):
    state_dict = dict(timm_net.state_dict())
    del state_dict["conv0.bn.bias"], state_dict["last_linear.bias"]
    state_dict |= {"other": torch.zeros(1), "conv0.bn.weight": torch.zeros(3)}
    listed = (
        r"missing conv0.bn.bias, last_linear.bias; unexpected other; of another shape conv0.bn.weight is \(3"
    )
    with pytest.raises(ValueError, match=listed):
        convert(state_dict, "timm")
    with pytest.raises(ValueError, match=r"missing .* and [0-9]+ more; unexpected .* and [0-9]+ more"):
        convert({f"body.{name}": value for name, value in state_dict.items()}, "timm")
    with pytest.raises(ValueError, match="source = 'keras', expected one of timm, pretrainedmodels"):
        convert(state_dict, "keras")


def test_files_from_before_batch_norm_counted_its_batches_convert(timm_net):
    old = {key: t for key, t in timm_net.state_dict().items() if not key.endswith("num_batches_tracked")}
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert_equal_to(convert(old, "timm")(x), timm_net(x))


@pytest.mark.parametrize("size", [7, 8])
def test_average_pools_of_stride_2_count_their_padding_as_timm_does_where_the_spec_says_so(size):
    def pool(stride, counts):
        return OPERATIONS["avg_pool_3x3"].build(Layers("same", 1e-3, 0.1, counts), 1, 1, stride)

    ones = torch.ones(1, 1, size, size)
    corner = {7: (0, 0), 8: (-1, -1)}[size]  # an even size is padded after its end only
    assert pool(2, True)(ones)[0, 0][corner] == pytest.approx(4 / 9)
    x = torch.randn(2, 1, size, size + 1)
    theirs = create_pool2d("avg", 3, 2, padding="same", count_include_pad=False)
    torch.testing.assert_close(pool(2, True)(x), theirs(x))
    for plain in (pool(2, False), pool(1, False), pool(1, True)):
        torch.testing.assert_close(plain(ones), torch.ones_like(plain(ones)))
