"""A training of a small classifier on class folders that takes seconds."""

from genotypes import TWO_BLOCKS

from backbones.config import BackboneConfig
from classification.config import ClassificationConfig, ImageDataConfig, RecipeConfig
from runtime.config import LoggerConfig, TrainerConfig

STEPS_PER_EPOCH, EPOCHS = 4, 3
AS_THEY_ARE = {"cutout": 0, "rand_augment": 0, "mixup_alpha": 0.0, "cutmix_alpha": 0.0}
"""Leaves the images and the batches alone."""


def config(run_dir, root, *, workers=0, recipe=None, **changes):
    """30 real digits of 16 px in three classes; everything random is switched on.

    workers: 0 keeps the images resident, 2 decodes them in two processes.
    """
    data = ImageDataConfig(
        name="imagefolder", root=str(root), resident=workers == 0, workers=workers, crop_padding=2, flip=False
    )
    backbone = BackboneConfig(
        name=str(TWO_BLOCKS), stem="cifar", cells_per_stage=1, filters=4, stem_filters=4, image_size=16
    )
    values = {"epochs": EPOCHS, "batch_size": 7, "lr": 0.05, "ema_decay": 0.9, "dropout": 0.2}
    values |= {"cutout": 4 if workers == 0 else 0, "rand_augment": 1, "mixup_alpha": 0.4, "cutmix_alpha": 1.0}
    return ClassificationConfig(
        run_dir=str(run_dir),
        data=data,
        backbone=backbone,
        recipe=RecipeConfig(**{**values, "drop_path_keep": 0.6, "label_smoothing": 0.1, **(recipe or {})}),
        trainer=TrainerConfig(device="cpu", threads=1, checkpoint_seconds=None, checkpoint_steps=1),
        logger=LoggerConfig(name="none"),
        **changes,
    )
