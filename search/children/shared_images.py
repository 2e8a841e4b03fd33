"""The images of a search once per machine: files in the user's cache folder, mapped by every process.

An entry is a folder named by the digest of its content. Whoever uses it holds a shared lock on its pixels,
which ends with the process, however that ends; entries that nobody holds are deleted by the next user.
"""

import contextlib
import fcntl
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from runtime.cache import cache_folder
from search.children.images import ChildImages


def images_folder() -> Path:
    """Of all entries, in the user's cache."""
    return cache_folder() / "images"


@contextlib.contextmanager
def kept_on_disk(images: ChildImages) -> Iterator[Path]:
    """The folder of these images for `ChildImages.load`; deleted at the end unless another process uses it.

    Raises OSError, which names XDG_CACHE_HOME, where the files cannot be written."""
    cache = images_folder()
    folder = cache / _digest(images)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache):
            _delete_unused(cache, but=folder)
            if not folder.is_dir():
                temporary = folder.with_suffix(".tmp")
                temporary.mkdir()
                images.save(temporary)
                temporary.rename(folder)
            pixels = (folder / "pixels.npy").open("rb")
            fcntl.flock(pixels, fcntl.LOCK_SH)
    except OSError as error:
        error.add_note(
            f"Search workers share their images in {cache}; XDG_CACHE_HOME can name another folder."
        )
        raise
    try:
        with pixels:
            yield folder
    finally:
        with _locked(cache):
            _delete_unused(cache)


def _digest(images: ChildImages) -> str:
    digest = hashlib.sha256()
    for name, array in images.arrays().items():
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()[:32]


@contextlib.contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Entries appear and go only inside this block."""
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _delete_unused(cache: Path, but: Path | None = None) -> None:
    for folder in cache.iterdir():
        if folder.is_dir() and folder != but and not _in_use(folder / "pixels.npy"):
            shutil.rmtree(folder, ignore_errors=True)


def _in_use(pixels: Path) -> bool:
    try:
        with pixels.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:  # of a process that was killed while it wrote
        return False
    return False
