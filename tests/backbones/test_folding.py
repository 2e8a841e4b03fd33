"""`fold_batch_norms`: the same answers, and no norm folded that others depend on."""

import copy
import logging

import pytest
import torch
from torch import nn

from backbones.folding import fold_batch_norms
from benchmarks.calibration import calibrate


class Network(nn.Module):
    """conv, norm and other: layers that `run(self, x)` uses."""

    def __init__(self, run, other=None):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.other = other or nn.Conv2d(3, 3, 1, bias=False)
        self.run = run

    def forward(self, x):
        return self.run(self, x)


@pytest.mark.parametrize(
    ("run", "folded"),
    [
        (lambda net, x: net.norm(net.conv(x)), 1),
        (lambda net, x: net.norm(x), 0),
        (lambda net, x: net.norm(net.conv(x).relu()), 0),
        (lambda net, x: net.norm(y := net.conv(x)) + y, 0),
        (lambda net, x: net.norm(net.conv(x)) + net.conv(x.relu()), 0),
        (lambda net, x: net.norm(net.conv(x)) + net.norm(net.other(x)), 0),
    ],
    ids=["pair", "no convolution", "ReLU between", "two readers", "shared convolution", "shared norm"],
)
def test_only_a_norm_that_alone_reads_a_convolution_is_folded(run, folded):
    torch.manual_seed(0)
    net, x = calibrate(Network(run), size=8).eval(), torch.randn(2, 3, 8, 8)
    whole = copy.deepcopy(net)
    assert fold_batch_norms(net) == folded
    assert isinstance(net.norm, nn.BatchNorm2d) == (folded == 0)
    torch.testing.assert_close(net(x), whole(x))


def test_a_network_that_cannot_be_followed_stays_as_it_is_and_the_log_says_so(caplog):
    net = Network(lambda net, x: net.norm(net.conv(x)) if x.sum() > 0 else x).eval()
    with caplog.at_level(logging.INFO):
        assert fold_batch_norms(net) == 0
    assert isinstance(net.norm, nn.BatchNorm2d)
    assert "Batch norm is not folded: torch.fx cannot follow Network" in caplog.text


def test_a_norm_without_running_statistics_is_refused():
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    net = Network(lambda net, x: net.other(net.norm(net.conv(x))), norm).eval()
    with pytest.raises(ValueError, match="batch norm without running statistics cannot be folded"):
        fold_batch_norms(net)
