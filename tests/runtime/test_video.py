"""Videos as pictures, and back."""

import struct
import wave
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from runtime.video import VideoWriter, count, frames, header, is_video

RED, BLUE = (200, 20, 20), (20, 20, 200)


def halves(width: int, height: int, left=RED, right=BLUE) -> Image.Image:
    picture = Image.new("RGB", (width, height), right)
    picture.paste(left, (0, 0, width // 2, height))
    return picture


@pytest.fixture
def clip(tmp_path):
    """Of four frames, the last one another."""
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, Fraction(30000, 1001)) as writer:
        for number in range(4):
            writer.write(halves(64, 32) if number < 3 else halves(64, 32, BLUE, RED))
    return path


def near(picture: Image.Image, expected: Image.Image) -> bool:
    """Up to what compression changes, in the mean."""
    difference = np.asarray(picture, np.int16) - np.asarray(expected, np.int16)
    return picture.size == expected.size and np.abs(difference).mean() < 8


def test_what_is_written_is_read_back_frame_by_frame(clip):
    read = list(frames(clip))
    assert [near(picture, halves(64, 32)) for picture in read] == [True, True, True, False]
    assert near(read[3], halves(64, 32, BLUE, RED))
    assert header(clip) == (4, Fraction(30000, 1001))
    assert count(clip) == 4
    assert [path.name for path in clip.parent.iterdir()] == ["clip.mp4"]


def test_a_picture_with_odd_sides_gets_a_line(tmp_path):
    with VideoWriter(tmp_path / "odd.mp4", Fraction(5)) as writer:
        writer.write(halves(63, 31))
    (picture,) = frames(tmp_path / "odd.mp4")
    assert picture.size == (64, 32)
    assert near(picture.crop((0, 0, 63, 31)), halves(63, 31))


def test_a_video_of_a_phone_is_seen_upright(clip):
    """The track header of MP4 says how to turn: here a quarter clockwise, as for a phone held upright."""
    data = bytearray(clip.read_bytes())
    matrix = data.index(b"tkhd") + 44
    assert struct.unpack_from(">9i", data, matrix) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    struct.pack_into(">9i", data, matrix, 0, 1 << 16, 0, -(1 << 16), 0, 0, 32 << 16, 0, 1 << 30)
    clip.write_bytes(data)
    first = next(frames(clip))
    assert near(first, halves(64, 32).transpose(Image.Transpose.ROTATE_270))


def test_a_failure_leaves_no_half_of_a_file(tmp_path):
    def fail(writer):
        writer.write(halves(64, 32))
        raise KeyError

    with pytest.raises(KeyError), VideoWriter(tmp_path / "clip.mp4", Fraction(5)) as writer:
        fail(writer)
    assert list(tmp_path.iterdir()) == []
    with VideoWriter(tmp_path / "none.mp4", Fraction(5)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_video_is_named(tmp_path, clip):
    text, sound, cut = (tmp_path / name for name in ("text.mp4", "sound.mp4", "cut.mp4"))
    text.write_text("no video")
    with wave.open(str(sound), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))
    cut.write_bytes(clip.read_bytes()[:-300])
    for path, message in (
        (text, "cannot be read as a video: "),
        (sound, "this file has sound, but no pictures"),
        (cut, "cannot be read as a video: "),
    ):
        with pytest.raises(ValueError, match=f"{path.name}: {message}"):
            list(frames(path))
        assert count(path) == 1
    with pytest.raises(FileNotFoundError, match=r"none\.mp4: no such video"):
        list(frames(tmp_path / "none.mp4"))


def test_videos_are_known_by_their_names():
    assert [is_video(name) for name in ("a.mp4", "b.MOV", "c.d.mkv", "e.gif", "mp4")] == [True] * 3 + [
        False
    ] * 2
