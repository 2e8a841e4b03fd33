"""Mixup, CutMix and RandAugment against their formulas and torchvision's, and what keys their draws."""

import itertools
import random

import numpy as np
import pytest
import torch
from PIL import Image

from classification.device_images import DeviceImages
from classification.mixing import Mixing
from classification.module import classification_loss
from classification.rand_augment import OPERATIONS, SIGNED, RandAugment


def batch(count=6, size=9):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, size, size, generator=generator)
    return images.to(memory_format=torch.channels_last), torch.arange(count) % 4


def share(mixed, images):
    """What mixup took of each image, solved for from the pixels."""
    partner = images.roll(1, 0)
    return ((mixed - partner) * (images - partner)).sum() / (images - partner).square().sum()


def test_the_loss_of_mixed_images_is_the_mixture_of_the_losses():
    images, labels = batch()
    mixed, targets = Mixing(0.4, 0.0, 4, seed=1)(images, labels, epoch=0, batch=0)
    lam = share(mixed, images)
    assert 0.01 < lam < 0.99
    torch.testing.assert_close(mixed, lam * images + (1 - lam) * images.roll(1, 0))
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    logits, auxiliary = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(2))
    terms = classification_loss(0.1, 0.4)

    def loss(*given):
        return sum(terms(*given).values())

    expected = lam * loss(logits, auxiliary, labels) + (1 - lam) * loss(logits, auxiliary, labels.roll(1))
    torch.testing.assert_close(loss(logits, auxiliary, targets), expected)
    # And by hand: cross entropy against 0.9 of the blend plus 0.025 on every class.
    one_hot = torch.eye(4)[labels]
    blend = 0.9 * (lam * one_hot + (1 - lam) * one_hot.roll(1, 0)) + 0.025
    by_hand = sum(w * -(blend * x.log_softmax(1)).sum(1).mean() for w, x in ((1, logits), (0.4, auxiliary)))
    torch.testing.assert_close(loss(logits, auxiliary, targets), by_hand)


def test_cutmix_puts_a_rectangle_of_the_partner_and_shares_by_its_area():
    images, labels = batch(size=12)
    kept = images.clone()
    areas = []
    for number in range(20):
        mixed, targets = Mixing(0.0, 1.0, 4, seed=3)(images, labels, epoch=0, batch=number)
        other = (mixed != images).all(dim=1)
        rows, columns = other[0].any(1), other[0].any(0)
        assert torch.equal(other, (rows[:, None] & columns)[None].expand_as(other))
        for line in (rows, columns):  # without gaps
            assert line.int().diff().abs().sum() <= 2
        torch.testing.assert_close(mixed, torch.where(other[:, None], images.roll(1, 0), images))
        areas.append(other[0].float().mean())
        one_hot = torch.eye(4)[labels]
        torch.testing.assert_close(targets, (1 - areas[-1]) * one_hot + areas[-1] * one_hot.roll(1, 0))
    assert min(areas) < 0.1 < 0.4 < max(areas)
    assert torch.equal(images, kept)


def test_what_is_mixed_depends_on_seed_epoch_batch_and_rank_and_on_nothing_else():
    images, labels = batch()
    keys = list(itertools.product((1, 2), (0, 1), (0, 1), (0, 1)))
    drawn = []
    for seed, epoch, number, rank in keys:
        mixing = Mixing(0.2, 1.0, 4, seed)
        first = mixing(images, labels, epoch=epoch, batch=number, rank=rank)
        random.random(), torch.rand(1)
        second = Mixing(0.2, 1.0, 4, seed)(images, labels, epoch=epoch, batch=number, rank=rank)
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
        drawn.append(first[0][0].sum().item())
    assert len(set(drawn)) == len(keys)


def test_shares_follow_the_beta_distribution_and_half_the_batches_are_cut():
    images, labels = batch(count=2, size=2)
    shares = []
    for number in range(2000):
        mixed, targets = Mixing(0.5, 0.0, 4, seed=0)(images, labels, epoch=0, batch=number)
        shares.append(targets[0, 0].item())
    # Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1)).
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.var(shares) == pytest.approx(1 / 8, rel=0.08)
    images, labels = batch(count=2, size=8)
    both = Mixing(1.0, 1.0, 4, seed=0)
    blended = 0
    for number in range(400):
        mixed, _ = both(images, labels, epoch=0, batch=number)
        blended += not ((mixed == images) | (mixed == images.roll(1, 0))).all()
    assert blended == pytest.approx(200, abs=40)


@pytest.fixture(scope="module")
def picture():
    y, x = np.mgrid[:20, :24]
    channels = [9 * x + y, 5 * y + 40, 200 - 3 * x - 2 * y]
    return np.stack(channels, -1).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("magnitude", [0, 9, 17])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_torchvisions(name, magnitude, picture):
    from torchvision.transforms import v2

    theirs = v2.RandAugment(1, magnitude)
    key = {"identity": "Identity", "autocontrast": "AutoContrast"}.get(
        name, "".join(part.capitalize() for part in name.split("_"))
    )
    theirs._AUGMENTATION_SPACE = {key: v2.RandAugment._AUGMENTATION_SPACE[key]}
    place = list(OPERATIONS).index(name)
    for kind in (Image.fromarray(picture), torch.from_numpy(picture).permute(2, 0, 1).contiguous()):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            expected = {np.asarray(theirs(kind)).tobytes() for _ in range(12)}  # both signs
        expected = [np.frombuffer(pixels, np.uint8).astype(int) for pixels in expected]
        ours = RandAugment(1, magnitude, seed=0)
        found = [np.asarray(ours._apply(kind, place, turned)).ravel() for turned in (False, True)]
        for pixels in found:  # to one grey level, as torchvision's strengths are float32
            assert min(abs(pixels - other).max() for other in expected) <= 1
        assert np.array_equal(*found) == (len(expected) == 1)
        assert SIGNED[place] or len(expected) == 1


def test_images_of_a_batch_are_changed_as_each_alone():
    pixels = torch.randint(0, 256, (40, 3, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    augment, index = RandAugment(2, 9, seed=5), np.arange(100, 140)
    kept = pixels.clone()
    together = augment.batch(pixels, epoch=3, index=index)
    assert torch.equal(pixels, kept)
    for i in range(40):
        assert torch.equal(
            together[i : i + 1], augment.batch(pixels[i : i + 1], epoch=3, index=index[i : i + 1])
        )
    assert not torch.equal(together, augment.batch(pixels, epoch=4, index=index))


def test_every_operation_and_sign_is_drawn_equally_often():
    draws = RandAugment(2, 9, seed=0).draw(0, np.arange(14_000))
    for places, turned in draws:
        assert np.bincount(places, minlength=14) == pytest.approx(1000, abs=150)
        assert turned.mean() == pytest.approx(0.5, abs=0.02)
    assert np.corrcoef(draws[0][0], draws[1][0])[0, 1] == pytest.approx(0, abs=0.03)


def test_resident_images_are_augmented_in_training_only():
    pixels = torch.randint(0, 256, (16, 3, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    labels, index = torch.arange(16), np.arange(16)
    augment = RandAugment(2, 15, seed=7)
    options = {"crop_padding": 0, "flip": False, "mean": (0.0,) * 3, "std": (1 / 255,) * 3}
    images = DeviceImages(pixels, labels, rand_augment=augment, **options)
    trained, _ = images.batch(index, epoch=2, seed=7, train=True)
    torch.testing.assert_close(trained, augment.batch(pixels, epoch=2, index=index).float())
    evaluated, _ = images.batch(index, epoch=2, seed=7, train=False)
    torch.testing.assert_close(evaluated, pixels.float())
