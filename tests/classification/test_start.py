"""Training that starts from a trained classifier: `init`."""

import pytest
import torch
from small_training import AS_THEY_ARE, config

from backbones import weights
from classification.start import start_from
from classification.train import run


@pytest.fixture
def trained(straight):
    return straight(0) / "backbone.safetensors"


def test_rows_of_equal_names_are_kept_and_the_rest_is_fresh(trained, caplog):
    theirs = weights.load(trained)
    old = theirs.state_dict()
    with caplog.at_level("INFO"):
        network = start_from(str(trained), ["four", "two", "nought"], auxiliary=False)
    assert caplog.messages == [
        f"starting from {trained}, which brings the network: the weights of 2 of 3 classes are kept, those "
        "of four are fresh"
    ]
    new = network.state_dict()
    assert new.keys() == old.keys()
    for name in ("classifier.weight", "classifier.bias"):
        assert torch.equal(new[name][1:], old[name][[2, 0]])
        assert not any(torch.equal(new[name][0], row) for row in old[name])
    assert all(torch.equal(new[name], old[name]) for name in new if not name.startswith("classifier."))
    assert network.preprocessing == theirs.preprocessing


def test_a_network_of_timm_is_started_from_too(tmp_path):
    timm = pytest.importorskip("timm")
    assert timm
    from backbones.factory import create

    network = create("timm/test_resnet", 2, image_size=32)
    weights.save(network, tmp_path / "backbone.safetensors", classes=["a", "b"])
    new, old = (
        start_from(str(tmp_path / "backbone.safetensors"), ["b", "c", "d"]).state_dict(),
        network.state_dict(),
    )
    changed = {name: tensor.shape for name, tensor in new.items() if tensor.shape != old[name].shape}
    assert len(changed) == 2
    assert all(torch.equal(new[name][0], old[name][1]) for name in changed)
    assert all(torch.equal(new[name], old[name]) for name in new if name not in changed)


def test_training_goes_on_from_the_weights_and_takes_the_files_network(trained, tmp_path, digit_folders):
    recipe = {"epochs": 1, "lr": 1e-9, "weight_decay": 0.0, "ema_decay": None, "dropout": 0.0, **AS_THEY_ARE}
    asked = config(tmp_path / "run", digit_folders, recipe=recipe, init=str(trained))
    asked.backbone.filters = 8  # the file has 4
    done = run(asked)
    new, old = weights.load(tmp_path / "run" / "backbone.safetensors"), weights.load(trained)
    assert new.spec == old.spec
    learned = [(new.get_parameter(name), parameter) for name, parameter in old.named_parameters()]
    assert all(torch.allclose(mine, theirs, atol=1e-6) for mine, theirs in learned)
    assert run(asked) == done
