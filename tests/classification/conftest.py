import numpy as np
import pytest
from class_folders import photograph
from PIL import Image
from small_training import config

from classification.config import ImageDataConfig
from classification.data import open_images
from classification.train import run


@pytest.fixture(scope="session")
def digit_folders(tmp_path_factory):
    """Class folders of real digits: 3 classes, 10 training and 4 test images each, 16 px, PNG."""
    pytest.importorskip("sklearn")
    root = tmp_path_factory.mktemp("folders")
    for split, count in (("train", 10), ("test", 4)):
        images = open_images(ImageDataConfig(), split)
        for label, name in enumerate(["nought", "one", "two"]):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in np.flatnonzero(images.labels == label)[:count]:
                images.image(index).resize((16, 16), Image.Resampling.BILINEAR).save(folder / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def straight(tmp_path_factory, digit_folders):
    """One unbroken run for each number of workers, made when first asked for."""
    runs = {}

    def get(workers):
        if workers not in runs:
            runs[workers] = tmp_path_factory.mktemp("straight")
            run(config(runs[workers], digit_folders, workers=workers))
        return runs[workers]

    return get


@pytest.fixture
def clean(tmp_path):
    """Two classes, three images each in `train` and two in `val`, all different."""
    places = [(split, name, i) for split, n in (("train", 3), ("val", 2)) for name in "ab" for i in range(n)]
    for seed, (split, name, i) in enumerate(places):
        photograph(tmp_path / split / name / f"{i}.jpg", seed)
    return tmp_path
