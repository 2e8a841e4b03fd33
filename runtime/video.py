"""Video files as pictures, and pictures as video files; PyAV, which holds FFmpeg, is the extra `video`."""

import importlib.util
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from PIL import Image, ImageOps

from backbones.files import existing
from celltransfer import not_installed

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv")
USUAL_RATE = Fraction(25)
"""Pictures a second where a file does not say."""


class Header(NamedTuple):
    """What a file says before its pictures are decoded. frames: 0 where it does not say. rate: a second."""

    frames: int
    rate: Fraction


def is_video(path: str | os.PathLike[str]) -> bool:
    """By the name alone."""
    return Path(path).suffix.lower() in SUFFIXES


def check_installed(path: str | os.PathLike[str]) -> None:
    """Raises ModuleNotFoundError with the command that installs what reading the video `path` takes."""
    if importlib.util.find_spec("av") is None:
        raise not_installed(str(path), "av", "video")


def count(path: str | os.PathLike[str]) -> int:
    """Frames as the file's header says; 1 where it does not, or cannot be read."""
    try:
        return max(1, header(path).frames)
    except (ValueError, OSError):
        return 1


def header(path: str | os.PathLike[str]) -> Header:
    """Raises FileNotFoundError, or ValueError that names the file."""
    import av

    try:
        with _opened(path) as container:
            stream = _stream(container, path)
            return Header(stream.frames, stream.average_rate or USUAL_RATE)
    except av.FFmpegError as error:
        raise _unread(path, error) from None


def frames(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """The pictures of a video in their order, upright, in 8-bit RGB.

    Raises FileNotFoundError, or ValueError that names the file, where it cannot be read or not to its end."""
    import av

    try:
        with _opened(path) as container:
            stream = _stream(container, path)
            for frame in container.decode(stream):
                picture = frame.to_image()
                # Of phones, which store pictures on their side; counterclockwise, as Pillow turns.
                yield picture.rotate(frame.rotation, expand=True) if frame.rotation else picture
    except av.FFmpegError as error:
        raise _unread(path, error) from None


class VideoWriter:
    """Pictures of one size to a video in H.264, which browsers play; the file is there once all are in it."""

    def __init__(self, path: Path, rate: Fraction) -> None:
        self.path, self.rate = path, rate
        self.part = path.with_name(f".{path.stem}.part{path.suffix}")
        self.container: Any = None

    def write(self, picture: Image.Image) -> None:
        """An odd side gets a line of black: H.264 stores colours in blocks of two by two."""
        import av

        even = ImageOps.expand(picture, (0, 0, picture.width % 2, picture.height % 2))
        if self.container is None:
            self.part.parent.mkdir(parents=True, exist_ok=True)
            self.container = av.open(self.part, "w")
            self.stream = self.container.add_stream("libx264", rate=self.rate)
            self.stream.width, self.stream.height, self.stream.pix_fmt = even.width, even.height, "yuv420p"
        self.container.mux(self.stream.encode(av.VideoFrame.from_image(even)))

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.container is None:
            return
        if kind is None:
            self.container.mux(self.stream.encode())
        self.container.close()
        if kind is None:
            os.replace(self.part, self.path)
        else:
            self.part.unlink(missing_ok=True)


def _opened(path: str | os.PathLike[str]) -> Any:
    import av

    return av.open(existing(path, "video"))


def _stream(container: Any, path: str | os.PathLike[str]) -> Any:
    if not container.streams.video:
        raise ValueError(f"{path}: this file has sound, but no pictures")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return stream


def _unread(path: str | os.PathLike[str], error: Exception) -> ValueError:
    reason = getattr(error, "strerror", None) or error
    return ValueError(f"{path}: cannot be read as a video: {reason}")
