"""RoIAlign on all cores beside torchvision's in one thread."""

import pytest
import torch
from torchvision.ops import roi_align as torchvision_roi_align

from detection.model.roi_align import roi_align


@pytest.fixture(params=(1, 2, 3, 40))
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def boxes(count, images, side):
    """Rows of the image's place and a box, some of them beyond the border, some without area."""
    corners = torch.rand(count, 2) * 1.2 * side - 0.1 * side
    sides = (torch.rand(count, 2) * 0.6 * side - 0.05 * side).clamp(min=0)
    place = torch.randint(images, (count, 1)).float()
    return torch.cat([place, corners, corners + sides], dim=1)


def theirs(feature_map, rois, size, stride):
    return torchvision_roi_align(feature_map, rois, size, 1 / stride, 0, aligned=True)


@pytest.mark.parametrize(
    ("images", "channels", "count", "size"), [(1, 8, 30, 7), (3, 5, 20, 17), (2, 4, 0, 7)]
)
def test_values_and_gradients_are_torchvisions_to_the_last_bit(threads, images, channels, count, size):
    one = torch.randn(images, channels, 12, 9).to(memory_format=torch.channels_last).requires_grad_()
    other = one.detach().clone().requires_grad_()
    rois = boxes(count, images, side=16 * 12)
    expected, found = theirs(one, rois, size, 16), roi_align(other, rois, size, 16)
    assert found.shape == (count, channels, size, size)
    assert torch.equal(found, expected)
    gradient = torch.randn_like(expected)
    expected.backward(gradient)
    found.backward(gradient)
    assert torch.equal(other.grad, one.grad)


def test_each_thread_has_channels_of_its_own(threads, monkeypatch):
    seen = []

    def counted(part, *rest, **more):
        seen.append(part.shape[1])
        return torchvision_roi_align(part, *rest, **more)

    monkeypatch.setattr("detection.model.roi_align.one_thread", counted)
    roi_align(torch.randn(1, 6, 12, 9), boxes(10, 1, side=144), 7, 16)
    assert sum(seen) == 6
    assert len(seen) == min(threads, 6)


def test_half_precision_gives_float32_crops_of_exact_boxes(threads):
    feature_map = torch.randn(1, 4, 12, 12).bfloat16()
    rois = boxes(10, 1, side=192)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        found = roi_align(feature_map, rois, 7, 16)
    assert torch.equal(found, theirs(feature_map.float(), rois, 7, 16))


def test_an_exported_program_holds_torchvisions_operator(threads):
    class Crops(torch.nn.Module):
        def forward(self, feature_map, rois):
            return roi_align(feature_map, rois, 7, 16)

    example = torch.randn(1, 4, 12, 9), boxes(10, 1, side=144)
    program = torch.export.export(Crops(), example)
    names = [node.target.name() for node in program.graph.nodes if node.op == "call_function"]
    assert "torchvision::roi_align" in names
    assert torch.equal(program.module()(*example), theirs(*example, 7, 16))
