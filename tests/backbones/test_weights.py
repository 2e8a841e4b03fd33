import dataclasses
import json
import math
import os
import re
import time

import pytest
import torch
from safetensors.torch import save_file

from backbones import create, load, save
from backbones.build import build
from backbones.spec import Preprocessing
from backbones.weights import check_storable, read_safetensors, write_safetensors


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = create(
        "nasnet_a_mobile", 3, cells_per_stage=1, filters=8, stem_filters=4, image_size=48, auxiliary=True
    )
    net.classes = ["a", "b", "<c>"]
    net.preprocessing = Preprocessing(48, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), crop=1.0)
    net(torch.randn(4, 3, 48, 48))  # moves the running statistics
    return net.eval()


def test_a_file_alone_gives_the_network_back(net, tmp_path):
    save(net, tmp_path / "backbone.safetensors", metrics={"top1": 0.5})
    again = load(tmp_path / "backbone.safetensors")
    x = torch.randn(2, 3, 48, 48)
    assert torch.equal(again(x), net(x))
    assert (again.spec, again.classes, again.preprocessing) == (net.spec, net.classes, net.preprocessing)
    assert not again.training
    assert read_safetensors(tmp_path / "backbone.safetensors", "backbone")[1]["metrics"] == {"top1": 0.5}


def test_create_takes_a_weights_file_and_refuses_to_change_its_network(net, tmp_path):
    path = tmp_path / "backbone.safetensors"
    save(net, path)
    x = torch.randn(2, 3, 48, 48)
    assert torch.equal(create(path).eval()(x), net(x))
    with pytest.raises(ValueError, match="the weights fit one network, so filters cannot be changed"):
        create(path, filters=8)


def rewritten(path, change):
    tensors, metadata = read_safetensors(path, "backbone")
    change(tensors, metadata)
    save_file(tensors, path, metadata={"celltransfer": json.dumps(metadata)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: m.update(format=9), "format = 9, this version reads format 2"),
        (lambda t, m: m.pop("format"), "format = None, this version reads format 2"),
        (lambda t, m: m.update(kind="detector"), "kind = 'detector', expected 'backbone'"),
        (lambda t, m: m.pop("network"), "safetensors: network is missing"),
        (lambda t, m: m["network"].pop("stem"), "network.stem is missing"),
        (
            lambda t, m: m["network"].pop("strided_average_counts_padding"),
            "network.strided_average_counts_padding is missing",
        ),
        (lambda t, m: m["network"].update(filters="x"), "network.filters = 'x', expected int"),
        (
            lambda t, m: m["network"].update(strided_average_counts_padding=1),
            "network.strided_average_counts_padding = 1, expected bool",
        ),
        (
            lambda t, m: m["network"]["genotype"]["normal"]["blocks"][1].update(left=5),
            r"normal.blocks\[1\].left = 5",
        ),
        (
            lambda t, m: m["network"].update(cells_per_stage=1.5),
            "network.cells_per_stage = 1.5, expected int",
        ),
        (
            lambda t, m: m["network"].update(depth=3),
            "network.depth is unknown, expected genotype, cells_per_st",
        ),
        (lambda t, m: m.update(num_classes="ten"), "safetensors: num_classes = 'ten', expected int"),
        (lambda t, m: m.update(num_classes=0), "safetensors: num_classes = 0, expected int >= 1"),
        (lambda t, m: m.update(classes=["a"]), r"safetensors: classes = \['a'\], expected 3 names"),
        (lambda t, m: m["preprocessing"].update(crop=3), "safetensors: preprocessing.crop = 3"),
        (lambda t, m: m["preprocessing"].update(scale=3), "preprocessing.scale is unknown, expected size"),
        (
            lambda t, m: m["preprocessing"].update(interpolation="foo"),
            "interpolation = 'foo', expected one of",
        ),
        (
            lambda t, m: m["preprocessing"].update(mean=["a", "b", "c"]),
            r"preprocessing.mean\[0\] = 'a', expected float",
        ),
        (lambda t, m: m["preprocessing"].update(mean=[0.5], std=[0.5]), "expected 3 values"),
        (lambda t, m: t.pop("classifier.bias"), "missing classifier.bias"),
        (lambda t, m: t.update(extra=torch.zeros(1)), "unexpected extra"),
        (
            lambda t, m: t.update({"classifier.bias": torch.zeros(7)}),
            r"classifier.bias is \(7,\), expected \(3,\)",
        ),
    ],
)
def test_a_foreign_file_is_refused_with_its_name_and_the_key(net, tmp_path, change, message):
    path = tmp_path / "backbone.safetensors"
    save(net, path)
    rewritten(path, change)
    with pytest.raises(ValueError, match=message) as error:
        load(path)
    assert str(path) in str(error.value)


def blocks(count, operation):
    """A cell of blocks that read their predecessors."""
    return {
        "blocks": [
            {"left": 1 + b, "right": 0, "left_op": operation, "right_op": "identity", "combine": "add"}
            for b in range(count)
        ],
        "concat": [1 + count],
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cells_per_stage": 10**6}, r"cells_per_stage = 1000000, but the file holds only \d+ tensors"),
        ({"cells_per_stage": 10**30}, "cells_per_stage = 10+, (but the file holds only|.*)"),
        ({"cells_per_stage": 60}, r"cells_per_stage = 60 takes at least \d+ tensors, the file holds \d+"),
        ({"filters": 10**9}, "filters = 1000000000, must be in 1..1000000"),
        ({"filters": 999_996}, "the weights do not fit the network: .*is .*, expected "),
        ({"stem_filters": 10**6}, r"stem\.0\.weight is \(4, 3, 3, 3\), expected \(1000000, 3, 3, 3\)"),
        ({"image_size": 10**9}, "image_size = 1000000000, must be in 1..4096"),
        ({"batch_norm_eps": 1e300}, r"batch_norm_eps = 1e\+300, must be in \(0, 1\]"),
        (
            {
                "genotype": {
                    "format": 1,
                    "normal": blocks(64, "sep_conv_7x7"),
                    "reduction": blocks(1, "identity"),
                }
            },
            "the weights do not fit the network: ",
        ),
        (
            {
                "genotype": {
                    "format": 1,
                    "normal": blocks(64, "identity"),
                    "reduction": blocks(64, "identity"),
                }
            },
            "the weights do not fit the network: ",
        ),
        (
            {
                "genotype": {
                    "format": 1,
                    "normal": blocks(100_000, "identity"),
                    "reduction": blocks(1, "identity"),
                }
            },
            "normal.blocks has 100000 blocks, expected at most 64",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_sizes_that_a_file_claims_are_held_against_its_tensors_first(net, tmp_path, change, message):
    """Each of them took minutes, or all memory, before it was refused."""
    path = tmp_path / "backbone.safetensors"
    save(net, path)
    rewritten(path, lambda _, metadata: metadata["network"].update(change))
    start = time.perf_counter()
    with pytest.raises(ValueError, match=message) as error:
        load(path)
    assert time.perf_counter() - start < 5
    assert str(path) in str(error.value)


@pytest.mark.parametrize("classes", [10**9, 10**30, 10**6])
def test_classes_that_a_file_claims_are_held_against_its_tensors(net, tmp_path, classes):
    path = tmp_path / "backbone.safetensors"
    net.classes = None
    save(net, path)
    rewritten(path, lambda _, metadata: metadata.update(num_classes=classes))
    with pytest.raises(
        ValueError, match=r"num_classes = 10+|classifier\.weight is \(3, .*expected \(1000000, "
    ):
        load(path)


@pytest.mark.parametrize("arguments", [{"layers": [10**6, 1, 1, 1]}, {"layers": [[[10**9]]]}, {"block": 3}])
def test_sizes_that_a_file_claims_of_a_network_of_timm(tmp_path, arguments):
    pytest.importorskip("timm")
    path = tmp_path / "backbone.safetensors"
    save(create("timm/resnet18_cifar", 3, channels=[4, 4, 4, 4]), path)
    rewritten(path, lambda _, metadata: metadata["network"]["arguments"].update(arguments))
    with pytest.raises(
        ValueError, match=r"network\.arguments holds 10+, its tensors are of at most|timm/"
    ) as error:
        load(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("depth", [100, 100_000])
@pytest.mark.parametrize("place", ["everything", "origin"])
def test_values_nested_too_deeply_are_refused(net, tmp_path, depth, place):
    path = tmp_path / "backbone.safetensors"
    save(net, path)
    deep = "[" * depth + "]" * depth
    tensors, metadata = read_safetensors(path, "backbone")
    metadata["network"]["genotype"]["origin"] = {"search": "HERE"}
    text = deep if place == "everything" else json.dumps(metadata).replace('"HERE"', deep)
    save_file(tensors, path, metadata={"celltransfer": text})
    with pytest.raises(
        ValueError, match=r"expected JSON under the metadata key .*nested (too deeply|deeper than 64)"
    ):
        load(path)


@pytest.mark.parametrize(
    "header",
    [
        b"\xff" * 8,
        (2**40).to_bytes(8, "little") + b"{}",
        (20).to_bytes(8, "little") + b"{" * 20,
        (100_000).to_bytes(8, "little") + b'{"a":' + b"[" * 99_995,
        (57).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[9999999999999],"data_offsets":[0,4]}}',
        (2).to_bytes(8, "little") + b"{}",
    ],
)
def test_a_broken_header_is_refused(tmp_path, header):
    path = tmp_path / "backbone.safetensors"
    path.write_bytes(header)
    with pytest.raises(ValueError, match=r"backbone\.safetensors: (not a backbone file|no metadata key)"):
        load(path)


def test_a_weights_file_that_is_no_regular_file_is_named(tmp_path):
    path = tmp_path / "backbone.safetensors"
    os.mkfifo(path)
    with pytest.raises(
        ValueError, match=r"backbone\.safetensors: expected a backbone file, but this is a FIFO"
    ):
        load(path)


def test_all_tensors_that_do_not_fit_are_listed(net, tmp_path):
    path = tmp_path / "backbone.safetensors"
    save(net, path)

    def change(tensors, _):
        del tensors["classifier.bias"]
        tensors |= {"extra": torch.zeros(1), "classifier.weight": torch.zeros(5)}

    rewritten(path, change)
    listed = (
        "missing classifier.bias; unexpected extra; of another shape classifier.weight is (5,), expected (3, "
    )
    with pytest.raises(ValueError, match=re.escape(listed)):
        load(path)


def of_type(dtype):
    def change(tensors):
        return {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for name, tensor in tensors.items()
        }

    return change


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_weights_of_another_precision_become_float32(net, tmp_path, dtype):
    path = tmp_path / "backbone.safetensors"
    save(net, path)
    tensors, metadata = read_safetensors(path, "backbone")
    write_safetensors(path, "backbone", of_type(dtype)(tensors), metadata)
    loaded = load(path)
    stored = net.state_dict()
    for name, tensor in loaded.state_dict().items():
        expected = stored[name].to(dtype).float() if tensor.is_floating_point() else stored[name]
        assert torch.equal(tensor, expected), name


def first(tensors, suffix):
    return next(name for name in tensors if name.endswith(suffix))


@pytest.mark.parametrize(
    ("suffix", "value", "message"),
    [
        ("weight", torch.nan, "holds numbers that are not finite"),
        ("bias", -torch.inf, "holds numbers that are not finite"),
        ("running_mean", torch.inf, "holds numbers that are not finite"),
        ("running_var", -0.5, "holds a variance of -0.5, expected 0 or more"),
    ],
)
def test_weights_that_cannot_be_computed_with_are_refused(net, tmp_path, suffix, value, message):
    path = tmp_path / "backbone.safetensors"
    save(net, path)
    tensors, metadata = read_safetensors(path, "backbone")
    name = first(tensors, suffix)
    tensors[name].view(-1)[-1] = value
    write_safetensors(path, "backbone", tensors, metadata)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: {re.escape(name)} {message}$"):
        load(path)


def test_numbers_that_float32_does_not_hold_are_refused(net, tmp_path):
    path = tmp_path / "backbone.safetensors"
    save(net, path)
    tensors, metadata = read_safetensors(path, "backbone")
    tensors = of_type(torch.float64)(tensors)
    tensors[first(tensors, "weight")].view(-1)[0] = 1e39
    write_safetensors(path, "backbone", tensors, metadata)
    with pytest.raises(ValueError, match="holds numbers that are not finite"):
        load(path)


def test_whole_numbers_are_no_weights(net, tmp_path):
    path = tmp_path / "backbone.safetensors"
    save(net, path)
    tensors, metadata = read_safetensors(path, "backbone")
    write_safetensors(path, "backbone", of_type(torch.int8)(tensors), metadata)
    with pytest.raises(ValueError, match=r"of another type .* is torch\.int8, expected torch\.float32"):
        load(path)


def test_what_json_cannot_hold_is_refused_before_the_training_by_its_key(net, tmp_path):
    check_storable(net, "net.safetensors")
    genotype = dataclasses.replace(net.spec.genotype, origin={"reward": math.inf})
    unsaid = build(dataclasses.replace(net.spec, genotype=genotype), net.num_classes)
    for attempt in (check_storable, save):
        with pytest.raises(ValueError, match=r"^net\.safetensors: network = .* cannot be stored|origin"):
            attempt(unsaid, "net.safetensors")


def test_a_fused_network_is_not_stored(net, tmp_path):
    with pytest.raises(ValueError, match=r"net.safetensors: a fused network cannot be stored"):
        save(net.fuse(), tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())


def test_what_could_not_be_built_again_is_not_stored(net, tmp_path):
    path = tmp_path / "net.safetensors"
    net.remove_classifier()
    fault = "the network is no longer the one that its spec describes: missing classifier.weight, classifier"
    with pytest.raises(ValueError, match=rf"net\.safetensors: {fault}"):
        save(net, path)
    net.preprocessing = Preprocessing(48, mean=(0.5,), std=(0.5,))
    with pytest.raises(ValueError, match=r"net\.safetensors: preprocessing.mean = .*expected 3 values"):
        save(net, path)
    assert not list(tmp_path.iterdir())


def test_files_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "backbone.safetensors"
    with pytest.raises(FileNotFoundError, match="no such backbone file"):
        load(path)
    path.write_bytes(b"PK\x03\x04" + b"\0" * 100)
    with pytest.raises(ValueError, match="not a backbone file in safetensors format"):
        load(path)
    save_file({"a": torch.zeros(1)}, path, metadata={"celltransfer": "[]"})
    with pytest.raises(ValueError, match=r"safetensors: metadata = \[\], expected object"):
        load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="no metadata key 'celltransfer'"):
        load(path)


def test_the_number_of_classes_is_checked_before_writing(net, tmp_path):
    with pytest.raises(ValueError, match="2 class names for a network of 3 classes"):
        save(net, tmp_path / "backbone.safetensors", classes=["a", "b"])
    assert not list(tmp_path.iterdir())


def test_any_tensors_travel_with_any_description(tmp_path):
    write_safetensors(
        tmp_path / "d.safetensors", "detector", {"w": torch.eye(2).t()}, {"engine": "torchvision"}
    )
    tensors, metadata = read_safetensors(tmp_path / "d.safetensors", "detector")
    assert torch.equal(tensors["w"], torch.eye(2))
    assert metadata["engine"] == "torchvision"
    assert metadata["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("kind", ["backbone", "detector"])
def test_files_of_format_1_say_what_to_do(tmp_path, kind):
    path = tmp_path / "old.safetensors"
    write_safetensors(path, kind, {"w": torch.zeros(1)}, {"format": 1})
    message = "old.safetensors: format = 1, this version reads format 2; format 1 named its tensors otherwise"
    with pytest.raises(ValueError, match=message):
        read_safetensors(path, kind)
