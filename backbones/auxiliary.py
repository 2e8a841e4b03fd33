"""The auxiliary classifier, which helps training alone."""

from torch import Tensor, nn

from backbones.layers import Layers


class AuxiliaryHead(nn.Module):
    """Classifier on the last map before the second reduction, for training only. `[N, C, H, W]` to `[N, K]`.

    Reads the map after its ReLU.

    map_size: H and W; the head is tied to it. Source: TF-slim `nasnet.py`; docs/nasnet.md, section 4.5.
    """

    def __init__(self, layers: Layers, channels: int, map_size: int, num_classes: int) -> None:
        super().__init__()
        pooled = (map_size - 5) // 3 + 1
        self.reduce = nn.Sequential(
            nn.AvgPool2d(5, stride=3), layers.conv(channels, 128), layers.norm(128), nn.ReLU()
        )
        self.full_map = nn.Sequential(
            nn.Conv2d(128, 768, pooled, bias=False), layers.norm(768), nn.ReLU(), nn.Flatten()
        )
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.full_map(self.reduce(x)))
