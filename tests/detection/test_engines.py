"""Laws of `detection.engines.base.Engine`, which every engine passes, and those of the torchvision engine."""

import dataclasses

import pytest
import torch

from backbones.factory import create
from backbones.timm_models import TimmNASNet
from backbones.zoo import resolve_spec
from detection.engines.base import Engine
from detection.engines.config import TorchvisionC4Config, TorchvisionFpnConfig
from detection.formats import Target
from detection.model.config import BoxHeadConfig, C4HeadConfig, RpnConfig

NUM_CLASSES = 3
LOSSES = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}


def backbone(**changes):
    torch.manual_seed(0)
    size = {"cells_per_stage": 1, "filters": 8, "stem_filters": 4, "image_size": 64}
    network = create("nasnet_a_mobile", **size | changes)
    network.remove_classifier()
    return network


def normalised(mean, std):
    network = backbone()
    network.preprocessing = dataclasses.replace(network.preprocessing, mean=mean, std=std)
    return network


def calibrated(network):
    """With statistics of some images, without which the maps of an untrained network are huge."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train().features(torch.rand(2, 3, 64, 96))
    return network


def target(*boxes, labels=()) -> Target:
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }


def images():
    """Three of different sizes; no side of the first divides by 32."""
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, *size, generator=generator) for size in ((70, 101), (96, 64), (33, 128))]


def targets():
    """Two objects, none, one that fills its image."""
    return [
        target((5, 6, 40, 60), (50, 3, 101, 70), labels=(2, 0)),
        target(),
        target((0, 0, 128, 33), labels=(1,)),
    ]


def same(one, other) -> bool:
    return all(torch.equal(a[key], b[key]) for a, b in zip(one, other, strict=True) for key in a)


class EngineContract:
    """A subclass gives the fixture `config`, whose `build` makes the engine; its score threshold is 0.

    `network` makes what it is built on."""

    def network(self):
        return backbone()

    @pytest.fixture
    def engine(self, config) -> Engine:
        network = self.network()
        torch.manual_seed(0)
        engine = config.build(network, NUM_CLASSES)
        assert isinstance(engine, Engine)
        return engine

    def losses(self, engine, images, targets):
        torch.manual_seed(2)
        return engine.train().losses(images, targets)

    def test_it_knows_its_classes_and_its_backbone(self, engine):
        assert engine.num_classes == NUM_CLASSES
        ours = {id(parameter) for parameter in engine.parameters()}
        assert {id(parameter) for parameter in engine.backbone.parameters()} < ours

    def test_losses_are_finite_positive_scalars_by_name(self, engine):
        losses = self.losses(engine, images(), targets())
        assert set(losses) == LOSSES
        for loss in losses.values():
            assert loss.shape == ()
            assert loss.dtype == torch.float32
            assert loss.isfinite()
            assert loss > 0

    def test_the_losses_reach_every_parameter(self, engine):
        torch.stack(list(self.losses(engine, images(), targets()).values())).sum().backward()
        for name, parameter in engine.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        assert any(parameter.grad.any() for parameter in engine.backbone.parameters())

    def test_every_loss_alone_reaches_the_backbone(self, engine):
        losses = self.losses(engine, images(), targets())
        for name, loss in losses.items():
            weight = next(engine.backbone.parameters())
            (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
            assert gradient.any(), name

    def test_images_without_objects_train_the_background_and_no_box(self, engine):
        losses = self.losses(engine, images()[:1], [target()])
        assert losses["loss_rpn_cls"] > 0
        assert losses["loss_cls"] > 0
        assert losses["loss_rpn_loc"] == losses["loss_box_reg"] == 0
        torch.stack(list(losses.values())).sum().backward()
        assert any(parameter.grad.any() for parameter in engine.backbone.parameters())

    def test_an_equal_seed_gives_equal_losses(self, engine):
        # The same weights: batch normalisation's running statistics do not enter the losses.
        assert self.losses(engine, images(), targets()) == self.losses(engine, images(), targets())

    def test_what_is_not_finite_is_an_error_and_no_loss(self, engine):
        with torch.no_grad():
            next(engine.backbone.parameters()).fill_(torch.nan)
        with pytest.raises(FloatingPointError):
            self.losses(engine, images(), targets())

    def test_what_is_given_is_left_as_it_was(self, engine):
        given_images, given_targets = images(), targets()
        self.losses(engine, given_images, given_targets)
        with torch.inference_mode():
            engine.eval().predict(given_images)
        assert all(torch.equal(a, b) for a, b in zip(given_images, images(), strict=True))
        assert same(given_targets, targets())

    def test_detections_lie_in_their_image_best_first(self, engine):
        with torch.inference_mode():
            predictions = engine.eval().predict(images())
        assert len(predictions) == len(images())
        for image, prediction in zip(images(), predictions, strict=True):
            boxes, scores, labels = prediction["boxes"], prediction["scores"], prediction["labels"]
            count = len(boxes)
            assert count > 0
            assert (boxes.shape, scores.shape, labels.shape) == ((count, 4), (count,), (count,))
            assert (boxes.dtype, scores.dtype, labels.dtype) == (torch.float32, torch.float32, torch.int64)
            assert (boxes >= 0).all()
            assert (boxes[:, 2] <= image.shape[2]).all()
            assert (boxes[:, 3] <= image.shape[1]).all()
            assert (boxes[:, 2:] > boxes[:, :2]).all()
            assert ((scores >= 0) & (scores <= 1)).all()
            assert (scores[:-1] >= scores[1:]).all()
            assert ((labels >= 0) & (labels < NUM_CLASSES)).all()

    @pytest.mark.parametrize("size", [(1, 1), (1, 500), (300, 2), (3, 3), (31, 33)])
    def test_images_smaller_than_the_network_needs_are_looked_at(self, engine, size):
        with torch.inference_mode():
            ((boxes, _, _),) = (tuple(one.values()) for one in engine.eval().predict([torch.rand(3, *size)]))
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] <= boxes.new_tensor([size[1], size[0]])).all()

    def test_small_images_are_trained_on(self, engine):
        losses = self.losses(engine, [torch.rand(3, 2, 100)], [target((0, 0, 50, 2), labels=(1,))])
        assert all(loss.isfinite() for loss in losses.values())

    @pytest.mark.parametrize(
        ("picture", "message"),
        [
            (
                torch.zeros(3, 40, 50, dtype=torch.uint8),
                r"images\[1\] is of torch\.uint8, expected a tensor of floats",
            ),
            (torch.zeros(3, 40, 50, dtype=torch.int64), r"images\[1\] is of torch\.int64, expected"),
            (torch.zeros(40, 50), r"images\[1\] has shape \(40, 50\), expected \[3, H, W\]"),
            (torch.zeros(1, 40, 50), r"images\[1\] has shape \(1, 40, 50\), expected \[3, H, W\]"),
            (torch.zeros(3, 0, 50), r"images\[1\] has shape \(3, 0, 50\), expected"),
            ("a.jpg", r"images\[1\] is of str, expected a tensor of floats"),
        ],
    )
    def test_images_of_another_form_are_refused(self, engine, picture, message):
        with pytest.raises(ValueError, match=message):
            engine.eval().predict([images()[0], picture])
        with pytest.raises(ValueError, match=message):
            engine.train().losses([images()[0], picture], targets()[:2])

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (
                target((5, 6, 5, 60), labels=(0,)),
                r"boxes\[0\] = \[5.0, 6.0, 5.0, 60.0\], expected 0 <= x1 < x2 <=",
            ),
            (
                target((0, 0, 9, 9), (5, 60, 40, 6), labels=(0, 0)),
                r"boxes\[1\] = \[5.0, 60.0, 40.0, 6.0\], exp",
            ),
            (target((5, 6, 40, torch.nan), labels=(0,)), r"boxes\[0\] = \[5.0, 6.0, 40.0, nan\], expected"),
            (
                target((5, 6, 140, 60), labels=(0,)),
                r"boxes\[0\] = \[5.0, 6.0, 140.0, 60.0\], expected .* <= 101",
            ),
            (target((-9, 6, 40, 60), labels=(0,)), r"boxes\[0\] = \[-9.0, 6.0, 40.0, 60.0\], expected"),
            (target((5, 6, 40, 60), labels=(NUM_CLASSES,)), r"labels\[0\] = 3, expected 0\.\.2"),
            (target((5, 6, 40, 60), labels=(-1,)), r"labels\[0\] = -1, expected 0\.\.2"),
            (
                target((5, 6, 40, 60), labels=(0, 1)),
                r"labels are \[2\] of torch\.int64, expected \[1\] of torch\.in",
            ),
            (target((5, 6, 40, 60)), r"labels are \[0\] of torch\.int64, expected \[1\]"),
            (
                {"boxes": torch.zeros(4), "labels": torch.zeros(1).long()},
                r"boxes are \[4\] of torch\.float32, expec",
            ),
            ({"boxes": torch.zeros(1, 5), "labels": torch.zeros(1).long()}, r"boxes are \[1, 5\] of"),
            (
                {"boxes": torch.zeros(1, 4).double(), "labels": torch.zeros(1).long()},
                r"boxes are \[1, 4\] of torch\.float64, expected \[R, 4\] of torch\.float32",
            ),
            ({"boxes": torch.ones(1, 4)}, "labels are no tensor, but NoneType"),
            ({"boxes": [[5, 6, 40, 60]], "labels": [0]}, "boxes are no tensor, but list"),
            (None, "NoneType, expected a dictionary of boxes and labels"),
            (
                {"boxes": torch.ones(1, 4), "labels": torch.zeros(1)},
                r"labels are \[1\] of torch\.float32, expected",
            ),
        ],
    )
    def test_targets_of_another_form_are_refused(self, engine, wrong, message):
        with pytest.raises(ValueError, match=rf"^targets\[1\]: {message}"):
            engine.train().losses([images()[1], images()[0]], [target(), wrong])

    def test_a_batch_in_one_tensor_is_refused(self, engine):
        with pytest.raises(ValueError, match=r"images are one tensor \(2, 3, 40, 50\), expected a list of"):
            engine.eval().predict(torch.zeros(2, 3, 40, 50))
        with pytest.raises(ValueError, match=r"images are one tensor \(2, 3, 40, 50\), expected a list of"):
            engine.train().losses(torch.zeros(2, 3, 40, 50), targets()[:2])

    def test_there_is_a_target_for_each_image(self, engine):
        with pytest.raises(ValueError, match="2 targets for 3 images"):
            engine.train().losses(images(), targets()[:2])

    def test_no_images_give_no_detections_and_no_losses(self, engine):
        assert engine.eval().predict([]) == []
        with pytest.raises(ValueError, match="no images to compute losses of"):
            engine.train().losses([], [])

    @pytest.mark.parametrize("precision", [torch.float64, torch.bfloat16])
    def test_weights_of_another_precision_are_refused(self, engine, precision):
        engine.to(precision)
        with pytest.raises(ValueError, match=rf"the weights are of {precision}, but .* call float\(\)"):
            engine.eval().predict(images())

    def test_looking_changes_nothing_and_is_repeated_exactly(self, engine):
        before = {name: value.clone() for name, value in engine.state_dict().items()}
        with torch.inference_mode():
            first, second = (engine.eval().predict(images()) for _ in range(2))
        assert same(first, second)
        assert all(torch.equal(value, before[name]) for name, value in engine.state_dict().items())

    def test_images_of_one_size_are_seen_alike_alone_and_together(self, engine):
        picture, other = images()[0], images()[0].flip(2)
        with torch.inference_mode():
            (alone,) = engine.eval().predict([picture])
            together = engine.predict([other, picture])[1]
        assert len(alone["boxes"]) == len(together["boxes"])
        for key in ("boxes", "scores"):
            torch.testing.assert_close(alone[key], together[key], rtol=1e-3, atol=1e-3)

    def test_weights_carry_over_to_a_new_engine(self, engine, config):
        other = config.build(self.network(), NUM_CLASSES)
        other.load_state_dict(engine.state_dict())
        with torch.inference_mode():
            assert same(engine.eval().predict(images()), other.eval().predict(images()))

    def test_a_copy_for_inference_finds_the_same_and_leaves_the_engine_alone(self, engine, config):
        engine = config.build(calibrated(self.network()), NUM_CLASSES)
        before = {name: value.clone() for name, value in engine.state_dict().items()}
        fast = engine.train().for_inference()
        assert engine.training
        assert all(torch.equal(value, before[name]) for name, value in engine.state_dict().items())
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fast.modules())
        with torch.inference_mode():
            for one, other in zip(fast.predict(images()), engine.eval().predict(images()), strict=True):
                assert len(one["boxes"]) > 0
                for key in ("boxes", "scores"):
                    torch.testing.assert_close(one[key], other[key], rtol=1e-3, atol=1e-3)
                assert torch.equal(one["labels"], other["labels"])


class TestTorchvisionFpn(EngineContract):
    @pytest.fixture
    def config(self):
        return TorchvisionFpnConfig(
            fpn_channels=8,
            rpn=RpnConfig(
                anchor_sizes=[8, 16, 32, 64, 128],
                batch_size_per_image=64,
                pre_nms_train=50,
                pre_nms_test=50,
                post_nms_train=40,
                post_nms_test=30,
            ),
            box_head=BoxHeadConfig(width=16, batch_size_per_image=16, pooled_size=3, score_threshold=0.0),
        )

    def test_a_backbone_with_other_strides_is_refused(self, config):
        cifar = create("nasnet_a_cifar", cells_per_stage=1, filters=4, stem_filters=4)
        with pytest.raises(
            ValueError, match="this backbone has 1, 2, 4: train the classifier with the imagenet"
        ):
            config.build(cifar, NUM_CLASSES)

    def test_a_network_in_timms_form_gives_the_same_detector(self, config):
        size = {"cells_per_stage": 1, "filters": 8, "stem_filters": 4, "image_size": 64}
        network = TimmNASNet(resolve_spec("nasnet_a_mobile", **size))
        network.remove_classifier()
        network.load_state_dict(backbone().state_dict())
        torch.manual_seed(0)
        one, two = (config.build(net, NUM_CLASSES) for net in (network, backbone()))
        two.load_state_dict(one.state_dict())
        with torch.inference_mode():
            assert same(one.eval().predict(images()), two.eval().predict(images()))

    def test_a_backbone_that_is_normalised_for_grey_is_refused(self, config):
        with pytest.raises(ValueError, match=r"preprocessing\.mean has 1 values, expected 3"):
            config.build(normalised([0.5], [0.5]), NUM_CLASSES)

    def test_images_are_normalised_by_the_mean_and_deviation(self, config):
        """Doubling both and the values of the images gives the same maps."""
        engine = config.build(normalised([0.2, 0.3, 0.4], [0.25] * 3), NUM_CLASSES)
        other = config.build(normalised([0.4, 0.6, 0.8], [0.5] * 3), NUM_CLASSES)
        other.load_state_dict(engine.state_dict())
        picture = images()[0]
        with torch.inference_mode():
            (one,), (two,) = engine.eval().predict([picture]), other.eval().predict([2 * picture])
        torch.testing.assert_close(one["scores"], two["scores"])


class TestTorchvisionC4(EngineContract):
    @pytest.fixture
    def config(self):
        return TorchvisionC4Config(
            rpn_channels=8,
            rpn=RpnConfig(
                anchor_sizes=[16, 48],
                batch_size_per_image=64,
                pre_nms_train=50,
                pre_nms_test=50,
                post_nms_train=40,
                post_nms_test=20,
            ),
            box_head=C4HeadConfig(batch_size_per_image=16, crop_size=5),
        )


class TestTorchvisionC4OnTimm(TestTorchvisionC4):
    def network(self):
        torch.manual_seed(0)
        network = create("timm/test_resnet")
        network.remove_classifier()
        return network
