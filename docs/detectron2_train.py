"""Trains Faster R-CNN over one of our backbones with Detectron2's own trainer, on scenes of digits.

    python docs/detectron2_train.py --output runs/detectron2 [--weights backbone.safetensors] [--steps 400]

Nothing here is ours but the backbone and the pictures: the trainer, the loader, the detector and the
evaluation are Detectron2's, without its compiled extension. Two minutes on 2 CPU cores, AP about 0.2.
"""

import argparse
from pathlib import Path

from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import COCOEvaluator

import detection.engines.detectron2 as nasnet
from backbones.spec import Preprocessing
from backbones.weights import load
from detection.data.config import ScenesDataConfig


class Trainer(DefaultTrainer):
    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
        return COCOEvaluator(dataset_name, output_dir=cfg.OUTPUT_DIR, use_fast_impl=False)


def configuration(output: str, weights: str | None, steps: int) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file("Base-RCNN-FPN.yaml"))
    nasnet.add_config(cfg)  # after the file, whose backbone is a ResNet
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.BACKBONE.NAME = "build_nasnet_fpn_backbone"
    if weights is None:
        cfg.MODEL.NASNET.CELLS_PER_STAGE, cfg.MODEL.NASNET.FILTERS = 1, 16
        cfg.MODEL.NASNET.BATCH_NORM_MOMENTUM = 0.1
        preprocessing = Preprocessing(size=144)
    else:
        cfg.MODEL.NASNET.NAME = weights
        preprocessing = load(weights).preprocessing
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.PIXEL_MEAN = [255 * value for value in preprocessing.mean]
    cfg.MODEL.PIXEL_STD = [255 * value for value in preprocessing.std]

    cfg.MODEL.FPN.OUT_CHANNELS = 32
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16], [32], [64], [96], [128]]
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = 64
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 200
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 100
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 128
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 10
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 64
    cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION = 0.5

    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("digits_train",), ("digits_val",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (144,), 144
    cfg.INPUT.MAX_SIZE_TRAIN = cfg.INPUT.MAX_SIZE_TEST = 192
    cfg.INPUT.RANDOM_FLIP = "none"  # a mirrored digit is another sign

    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR = 2, 0.01
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = steps, (steps * 2 // 3, steps * 8 // 9)
    cfg.SOLVER.WARMUP_ITERS = steps // 8
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "norm"  # of each parameter
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 10.0
    cfg.SEED = 0
    cfg.OUTPUT_DIR = output
    return cfg


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", required=True, help="folder for Detectron2's files")
    parser.add_argument("--weights", help="a backbone.safetensors; without it a small network is new")
    parser.add_argument("--steps", type=int, default=400, help="batches of 2 images (default 400)")
    options = parser.parse_args()
    root = ScenesDataConfig().prepare()
    for split in ("train", "val"):
        annotations = root / "annotations" / f"{split}.json"
        register_coco_instances(f"digits_{split}", {}, str(annotations), str(root / split))
    Path(options.output).mkdir(parents=True, exist_ok=True)
    trainer = Trainer(configuration(options.output, options.weights, options.steps))
    trainer.resume_or_load(resume=True)
    trainer.train()


if __name__ == "__main__":
    main()
