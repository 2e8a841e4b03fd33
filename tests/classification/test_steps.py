"""Every way of computing a step trains the same small network."""

import dataclasses

import pytest
import torch
from small_training import AS_THEY_ARE, config

from backbones.config import BackboneConfig
from classification.module import ClassificationModule
from classification.train import run
from runtime.resume import LAST

CALM = {**AS_THEY_ARE, "drop_path_keep": 1.0, "dropout": 0.0, "ema_decay": None, "lr": 0.002}
"""Switches off what is drawn by the network and the batch; small steps keep rounding small."""


def trained(folder, root, *, epochs=1, backbone=None, recipe=None, **trainer):
    """Weights and statistics as they are after `2 * epochs` calm steps of one kind of trainer.

    With batch norm in training, rounding grows: after 10 steps two layouts were once 0.006 apart."""
    values = {**CALM, "epochs": epochs, "batch_size": 12, **(recipe or {})}
    asked = config(folder, root, recipe=values, validate_every_epochs=None)
    asked.backbone = backbone or asked.backbone
    run(dataclasses.replace(asked, trainer=dataclasses.replace(asked.trainer, **trainer)))
    content = torch.load(folder / "checkpoints" / LAST, weights_only=True)
    assert content["global_step"] == 2 * epochs
    return content["state_dict"]


def assert_close(a, b, tolerance):
    assert a.keys() == b.keys()
    worst = max(float((a[key].double() - b[key].double()).abs().max()) for key in a)
    assert worst <= tolerance


@pytest.fixture(scope="module")
def plain_weights(tmp_path_factory, digit_folders):
    return trained(tmp_path_factory.mktemp("plain"), digit_folders)


@pytest.mark.parametrize(
    "trainer", [{"activation_memory": "checkpoint"}, {"activation_memory": "lean"}, {"channels_last": False}]
)
def test_a_faster_or_leaner_step_trains_the_same_network(tmp_path, digit_folders, plain_weights, trainer):
    assert_close(trained(tmp_path, digit_folders, **trainer), plain_weights, 1e-4)


@pytest.mark.slow
def test_a_compiled_step_trains_the_same_network(tmp_path, digit_folders):
    pytest.importorskip("timm")
    small = BackboneConfig(name="timm/test_resnet", image_size=32)  # cells take a minute to compile
    plain = trained(tmp_path / "plain", digit_folders, backbone=small)
    compiled = {"compile": True, "compile_backend": "aot_eager"}
    torch.compiler.reset()
    other = trained(tmp_path / "compiled", digit_folders, backbone=small, **compiled)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert_close(other, plain, 1e-4)


def test_bf16_trains_float_weights(tmp_path, digit_folders, plain_weights):
    other = trained(tmp_path, digit_folders, precision="bf16-mixed")
    assert all(other[key].dtype == value.dtype for key, value in plain_weights.items())
    assert any(not torch.equal(other[key], value) for key, value in plain_weights.items())
    assert all(value.isfinite().all() for value in other.values())


def test_activation_memory_is_refused_for_a_network_without_it(tmp_path, digit_folders):
    pytest.importorskip("timm")
    asked = config(tmp_path / "run", digit_folders)
    asked.backbone = BackboneConfig(name="timm/test_resnet", image_size=32)
    asked.trainer.activation_memory = "lean"
    with pytest.raises(ValueError, match=r"trainer\.activation_memory = lean is for networks"):
        run(asked)
    assert not (tmp_path / "run").exists()


def evaluate_norms_in_training(monkeypatch):
    """Batch norm with its running statistics in training, too: then a batch is the sum of its parts."""

    def freeze(self):
        for module in self.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()

    monkeypatch.setattr(ClassificationModule, "on_train_batch_start", lambda self, *_: freeze(self), False)


def test_accumulated_batches_equal_the_big_batch(tmp_path, digit_folders, monkeypatch):
    evaluate_norms_in_training(monkeypatch)
    big = trained(tmp_path / "big", digit_folders, epochs=5)
    parts = trained(tmp_path / "parts", digit_folders, epochs=5, recipe={"accumulate": 3})
    assert_close(parts, big, 1e-5)
