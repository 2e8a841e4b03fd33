"""CIFAR-10's Python batches as Python 2 wrote the official ones: opcodes, order and memo."""

import struct

import numpy as np


def batch(pixels: np.ndarray, labels: list[int], name: bytes = b"testing batch 1 of 1") -> bytes:
    """pixels: `[N, 3072]` uint8. Begins as the official `test_batch` does, byte for byte."""
    memo = iter(range(1, 1 << 20))

    def put(data: bytes) -> bytes:
        index = next(memo)
        return data + (b"q" + bytes([index]) if index < 256 else b"r" + struct.pack("<I", index))

    def text(value: bytes) -> bytes:
        return put(b"U" + bytes([len(value)]) + value)

    def number(value: int) -> bytes:
        if 0 <= value < 256:
            return b"K" + bytes([value])
        return b"M" + struct.pack("<H", value) if 0 <= value < 1 << 16 else b"J" + struct.pack("<i", value)

    content = pixels.tobytes()
    parts = [b"\x80\x02", put(b"}"), b"(", text(b"batch_label"), text(name), text(b"labels"), put(b"]"), b"("]
    parts += [number(label) for label in labels]
    parts += [b"e", text(b"data"), put(b"cnumpy.core.multiarray\n_reconstruct\n"), put(b"cnumpy\nndarray\n")]
    parts += [put(number(0) + b"\x85"), text(b"b"), put(b"\x87"), put(b"R"), b"(", number(1)]
    parts += [put(number(len(pixels)) + number(pixels.shape[1]) + b"\x86"), put(b"cnumpy\ndtype\n")]
    parts += [text(b"u1"), number(0), number(1), put(b"\x87"), put(b"R"), b"(", number(3), text(b"|")]
    parts += [b"NNN", number(-1), number(-1), number(0), put(b"t"), b"b", b"\x89"]
    parts += [put(b"T" + struct.pack("<i", len(content)) + content), put(b"t"), b"b"]
    parts += [text(b"filenames"), put(b"]"), b"(", *(text(b"a.png") for _ in labels), b"e", b"u."]
    return b"".join(parts)
