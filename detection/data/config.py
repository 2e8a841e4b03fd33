"""Images and boxes for a detector as values: where they lie, at what size they are looked at."""

from dataclasses import dataclass, field
from pathlib import Path

from backbones.ranges import KEY, ConfigError, existing_folder, require
from detection.data.sizing import EvaluationSize, Fixed, ScaleJitter, ShortestEdge, TrainingSize, check_side
from runtime.config import MOST_PROCESSES

SPLITS = ("train", "val")
FOLDER_LAYOUTS = ("coco", "yolo", "voc")


@dataclass(kw_only=True)
class CocoDataConfig:
    """Group `data`: `coco`. Any data in COCO format; the layout's defaults are those of COCO 2017."""

    name: str = "coco"
    """Recorded with the results."""
    root: str | None = None
    """Folder of the data set, from which the paths of images and annotations start."""
    train_images: str = "train2017"
    """Folder of the training images."""
    train_annotations: str = "annotations/instances_train2017.json"
    """Annotation file of the training images."""
    val_images: str = "val2017"
    """Folder of the images for evaluation."""
    val_annotations: str = "annotations/instances_val2017.json"
    """Annotation file of the images for evaluation."""
    train_limit: int | None = None
    """Use only the first so many training images; None: all."""
    val_limit: int | None = None
    """The same for evaluation."""
    min_sizes: list[int] = field(default_factory=lambda: [640, 672, 704, 736, 768, 800])
    """Short side in pixels of a training image; one of them is drawn for each."""
    max_size: int = 1333
    """Long side in pixels that no image exceeds."""
    test_min_size: int = 800
    """Short side in evaluation."""
    fixed_size: int | None = None
    """Both sides in pixels of every image, its shape not kept, in training and evaluation, instead of the
    three sizes above; the paper's detector sees 600, 800 or 1200. None: the shape is kept."""
    flip: bool = True
    """Mirror half of the training images; wrong for text."""
    scale_jitter: list[float] | None = None
    """Large-scale jitter of training images instead of `min_sizes`: least and largest scale, such as
    [0.1, 2.0], of which one is drawn for each (Ghiasi et al. 2021)."""
    jitter_size: int = 1024
    """Side in pixels of the square in which a jittered image is fitted at scale 1, and cut or padded."""
    color_jitter: list[float] | None = None
    """Strengths of brightness, contrast, saturation (0..1) and hue (0..0.5), such as [0.4, 0.4, 0.4, 0.1]."""
    group_by_aspect: bool = False
    """Batches of wide images and of tall ones, which need less padding."""
    workers: int = 2
    """Processes that decode images."""

    def __post_init__(self) -> None:
        if not self.min_sizes:
            raise ConfigError(f"{KEY}min_sizes is empty, give at least one short side in pixels")
        for size in self.min_sizes:
            check_side("min_sizes", size)
        for key in ("max_size", "test_min_size", "fixed_size", "jitter_size"):
            if (side := getattr(self, key)) is not None:
                check_side(key, side)
        if self.fixed_size is not None and self.scale_jitter is not None:
            raise ConfigError(f"{KEY}fixed_size and {KEY}scale_jitter are both set, give one of them")
        self._check_jitter()
        require(self, "train_limit", "val_limit", least=1)
        require(self, "workers", least=0, limit=MOST_PROCESSES)

    def _check_jitter(self) -> None:
        scales, colors = self.scale_jitter, self.color_jitter
        if scales is not None and not (len(scales) == 2 and 0 < scales[0] <= scales[1] <= 10):
            raise ConfigError(f"{KEY}scale_jitter = {scales}, must be two rising scales in 0..10, or null")
        if colors is not None and not (
            len(colors) == 4 and all(0 <= c <= 1 for c in colors) and colors[3] <= 0.5
        ):
            raise ConfigError(
                f"{KEY}color_jitter = {colors}, must be brightness, contrast, saturation in 0..1 and hue in "
                "0..0.5, or null"
            )

    @property
    def evaluation_size(self) -> EvaluationSize:
        """At what size evaluation looks at images."""
        if self.fixed_size is not None:
            return Fixed(self.fixed_size)
        return ShortestEdge((self.test_min_size,), self.max_size)

    @property
    def training_size(self) -> TrainingSize:
        """At what sizes training looks at images."""
        if self.scale_jitter is not None:
            return ScaleJitter(self.scale_jitter[0], self.scale_jitter[1], self.jitter_size)
        if self.fixed_size is not None:
            return Fixed(self.fixed_size)
        return ShortestEdge(tuple(self.min_sizes), self.max_size)

    def size_told(self, split: str) -> str:
        """The size of the images of `split`, `train` or `val`, in words."""
        if self.scale_jitter is not None and split == "train":
            low, high = self.scale_jitter
            return f"{self.jitter_size} x {self.jitter_size} px at scales {low:g} to {high:g}"
        if self.fixed_size is not None:
            return f"{self.fixed_size} x {self.fixed_size} px"
        sides = self.min_sizes if split == "train" else [self.test_min_size]
        return f"short side {', '.join(map(str, sides))} px, long side at most {self.max_size} px"

    def prepare(self) -> Path:
        """The data's root. Raises ValueError or FileNotFoundError where there is none."""
        return existing_folder(self.root, "root", f"{self.train_images} and {self.train_annotations}")

    def places(self, split: str) -> tuple[Path, Path]:
        """The annotation file of `split`, `train` or `val`, and the folder of its images.

        Raises ValueError or FileNotFoundError where there is no root."""
        root = self.prepare()
        if split == "train":
            return root / self.train_annotations, root / self.train_images
        return root / self.val_annotations, root / self.val_images


@dataclass(kw_only=True)
class ScenesDataConfig(CocoDataConfig):
    """Group `data`: `scenes`. Written on first use; `root` None: a folder in the user's cache."""

    name: str = "scenes"
    """Recorded with the results."""
    train_scenes: int = 240
    """Training images."""
    val_scenes: int = 60
    """Images for evaluation."""
    scenes_seed: int = 0
    """Of the drawing; not the run's seed, so that runs compare."""
    train_images: str = "train"
    train_annotations: str = "annotations/train.json"
    val_images: str = "val"
    val_annotations: str = "annotations/val.json"
    min_sizes: list[int] = field(default_factory=lambda: [144])
    """Short side in pixels of a training image."""
    max_size: int = 192
    """Long side in pixels that no image exceeds."""
    test_min_size: int = 144
    """Short side in evaluation."""
    flip: bool = False
    """A mirrored digit is another sign."""
    workers: int = 0
    """Processes that decode images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "train_scenes", "val_scenes", least=4, limit=1_000_000)

    def prepare(self) -> Path:
        """Writes the scenes where they are not yet; returns their root.

        Raises ValueError when `root` holds scenes of other settings."""
        from detection.data import scenes  # needs NumPy and Pillow, which a configuration need not wait for

        return scenes.prepare(*scenes.place(self.root, self.train_scenes, self.val_scenes, self.scenes_seed))

    def extras(self) -> dict[str, str]:
        """See `runtime.config.check_extras`: the digits are needed where scenes are to be written."""
        from detection.data import scenes

        folder, _ = scenes.place(self.root, self.train_scenes, self.val_scenes, self.scenes_seed)
        return {} if (folder / scenes.WRITTEN).is_file() else {"sklearn": "demo"}


@dataclass(kw_only=True)
class FolderDataConfig(CocoDataConfig):
    """Group `data`: `folder`. Own photographs with their labels, in the layout of COCO, YOLO or VOC.

    What is not in COCO's format is converted into the user's cache, `$XDG_CACHE_HOME/celltransfer`."""

    name: str = "folder"
    """Recorded with the results."""
    root: str | None = None
    """The folder, or its data.yaml."""
    layout: str | None = None
    """`coco`, `yolo` or `voc`. None: the one that is found."""
    val_fraction: float = 0.2
    """Share of the images held out for validation where the folder has no split, drawn by their names."""
    split_seed: int = 0
    """Of that drawing; not the run's seed, so that runs compare."""
    train_images: str = ""
    train_annotations: str = ""
    val_images: str = ""
    val_annotations: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "layout", among=FOLDER_LAYOUTS)
        require(self, "val_fraction", above=0, below=1)
        for key in ("train_images", "train_annotations", "val_images", "val_annotations"):
            if getattr(self, key):
                raise ConfigError(f"{KEY}{key} belongs to data=coco; data=folder finds the files by itself")

    def prepare(self) -> Path:
        """The folder. Raises ValueError or FileNotFoundError where there is none."""
        if self.root is not None and self.root.lower().endswith((".yaml", ".yml")):
            return existing_folder(str(Path(self.root).parent), "root", "data.yaml")
        return existing_folder(self.root, "root", "images and their labels")

    def places(self, split: str) -> tuple[Path, Path]:
        """As `CocoDataConfig.places`. Logs the layout and the split when the images for evaluation are
        opened.

        Raises ValueError that lists what was found and expected, or each kind of fault in the labels."""
        from detection.data import (
            own_folder,  # needs NumPy and Pillow, which a configuration need not wait for
        )

        root = self.prepare()
        found = own_folder.open_folder(root, self.layout, self.val_fraction, self.split_seed)
        if split == "val":
            own_folder.log.info("%s: %s", root, found.told)
        return found.train if split == "train" else found.val
