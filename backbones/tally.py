"""Counts what layers cost from the shapes of their maps, without a tensor."""

from dataclasses import dataclass

Pair = tuple[int, int]


@dataclass(frozen=True)
class Map:
    """The shape of a map of one image."""

    channels: int
    height: int
    width: int

    @property
    def bytes(self) -> int:
        """In float32."""
        return 4 * self.channels * self.height * self.width


class Tally:
    """Adds up one part. Each layer takes the map that enters it and returns the one that leaves it."""

    def __init__(self) -> None:
        self.parameters = self.buffers = self.multiply_adds = self.activation_bytes = 0
        self.pooled_bytes = self.gathered_bytes = 0

    def conv(
        self, x: Map, channels: int, kernel: Pair = (1, 1), stride: Pair = (1, 1), groups: int = 1
    ) -> Map:
        out = Map(channels, -(-x.height // stride[0]), -(-x.width // stride[1]))
        weights = channels * (x.channels // groups) * kernel[0] * kernel[1]
        self.parameters += weights
        self.multiply_adds += weights * out.height * out.width
        if groups == 1 and kernel != (1, 1):
            self.gathered_bytes += Map(x.channels, out.height, out.width).bytes
        return self.keep(out)

    def norm(self, x: Map) -> Map:
        self.parameters += 2 * x.channels
        self.buffers += 2 * x.channels
        return self.keep(x)

    def conv_norm(self, x: Map, channels: int, kernel: int = 1, stride: int = 1) -> Map:
        return self.norm(self.conv(x, channels, (kernel, kernel), (stride, stride)))

    def fit(self, x: Map, channels: int, stride: int = 1) -> Map:
        """As `Layers.fit`."""
        return x if stride == 1 and x.channels == channels else self.conv_norm(x, channels, stride=stride)

    def pool(self, x: Map, stride: int) -> Map:
        out = Map(x.channels, -(-x.height // stride), -(-x.width // stride))
        self.pooled_bytes += out.bytes
        return self.keep(out)

    def factorized_reduction(self, x: Map, channels: int) -> Map:
        half = self.conv(x, channels // 2, stride=(2, 2))
        other = self.conv(x, channels - channels // 2, stride=(2, 2))
        return self.norm(Map(half.channels + other.channels, half.height, half.width))

    def keep(self, x: Map) -> Map:
        self.activation_bytes += x.bytes
        return x
