"""Image files that a command line names: files, folders of them, patterns."""

import glob
from collections.abc import Iterable
from pathlib import Path

from classification.class_folders import image_files


def find_images(words: Iterable[str]) -> list[Path]:
    """The files among `words` and the images in and under the folders, in order; hidden ones are left out.

    A word that is no path is a pattern, `**` any folders: quoted patterns of a shell, or one that has none.
    Raises FileNotFoundError for a word that nothing fits, ValueError for a folder without images."""
    found: list[Path] = []
    for word in words:
        paths = [word] if Path(word).exists() else sorted(glob.glob(word, recursive=True))
        if not paths:
            raise FileNotFoundError(f"{word}: no such image or folder")
        for path in map(Path, paths):
            if not path.is_dir():
                found.append(path)
                continue
            images = list(image_files(path))
            if not images:
                raise ValueError(f"{path}: no images in this folder")
            found += images
    return found
