"""Models of images, (channels, height, width)."""

from torch import Tensor, nn

from edgehold.core.errors import ConfigError


def lenet(shape: tuple[int, ...], outputs: int, bias: bool = True) -> nn.Sequential:
    """conv 32, conv 64 (3 x 3), pool, fc 128: the network FRL and HideNseek report on MNIST.

    1,625,632 weights without biases on 1 x 28 x 28 and ten classes, 1,625,866 with them.
    """
    channels, height, width = _image(shape, 2)
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1, bias=bias),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1, bias=bias),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (height // 2) * (width // 2), 128, bias=bias),
        nn.ReLU(),
        nn.Linear(128, outputs, bias=bias),
    )


def small_cnn(shape: tuple[int, ...], outputs: int, bias: bool = True) -> nn.Sequential:
    """conv 16 (8 x 8, stride 2), conv 32 (4 x 4, stride 2), fc 32: the usual network of private training on MNIST.

    26,010 parameters on 1 x 28 x 28 and ten classes. Source: Papernot et al. 2020, arXiv:2007.14191, with ReLU.
    """
    channels, height, width = _image(shape, 16)
    down = [((((side - 2) // 2 + 1) - 1 - 4) // 2 + 1) - 1 for side in (height, width)]
    return nn.Sequential(
        nn.Conv2d(channels, 16, 8, stride=2, padding=3, bias=bias),
        nn.ReLU(),
        nn.MaxPool2d(2, stride=1),
        nn.Conv2d(16, 32, 4, stride=2, bias=bias),
        nn.ReLU(),
        nn.MaxPool2d(2, stride=1),
        nn.Flatten(),
        nn.Linear(32 * down[0] * down[1], 32, bias=bias),
        nn.ReLU(),
        nn.Linear(32, outputs, bias=bias),
    )


def conv8(shape: tuple[int, ...], outputs: int, bias: bool = True) -> nn.Sequential:
    """Pairs of 3 x 3 convolutions 64, 128, 256, 512 with a pool behind each pair, fc 256, 256.

    5,275,840 weights without biases on 3 x 32 x 32 and ten classes. Source: Ramanujan et al. 2020, arXiv:1911.13299.
    """
    channels, height, width = _image(shape, 16)
    layers: list[nn.Module] = []
    for wide in (64, 128, 256, 512):
        for _ in range(2):
            layers += [nn.Conv2d(channels, wide, 3, padding=1, bias=bias), nn.ReLU()]
            channels = wide
        layers.append(nn.MaxPool2d(2))
    layers.append(nn.Flatten())
    flat = 512 * (height // 16) * (width // 16)
    for wide in (256, 256):
        layers += [nn.Linear(flat, wide, bias=bias), nn.ReLU()]
        flat = wide
    return nn.Sequential(*layers, nn.Linear(flat, outputs, bias=bias))


class _Block(nn.Module):
    """Two 3 x 3 convolutions around a shortcut, each followed by group normalisation."""

    def __init__(self, before: int, after: int, stride: int, groups: int, bias: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(groups, after, affine=bias)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(groups, after, affine=bias)
        self.short = nn.Conv2d(before, after, 1, stride, bias=False) if stride > 1 or before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.relu(self.norm1(self.conv1(x)))
        return nn.functional.relu(self.norm2(self.conv2(y)) + self.short(x))


def resnet(
    shape: tuple[int, ...], outputs: int, width: int = 16, blocks: int = 1, groups: int = 8, bias: bool = True
) -> nn.Sequential:
    """Three stages of `blocks` residual blocks, of width, 2 and 4 times width; average pool; one linear layer.

    77,850 parameters on 3 x 32 x 32 and ten classes as it stands. blocks = 3 is the ResNet-20 of He et al. 2016 with group
    instead of batch normalisation, and shortcuts of 1 x 1 convolutions.
    """
    channels, _, _ = _image(shape, 4)
    if width < 1 or blocks < 1 or groups < 1 or width % groups:
        raise ConfigError(f"width = {width}, blocks = {blocks}, groups = {groups}; all at least 1, groups a divisor of width")
    layers: list[nn.Module] = [
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.GroupNorm(groups, width, affine=bias),
        nn.ReLU(),
    ]
    before = width
    for stage in range(3):
        for block in range(blocks):
            layers.append(_Block(before, width << stage, 2 if stage and not block else 1, groups, bias))
            before = width << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, outputs, bias=bias))


def _image(shape: tuple[int, ...], least: int) -> tuple[int, int, int]:
    if len(shape) != 3 or min(shape[1:]) < least:
        raise ConfigError(
            f"records of shape {shape}; this model takes images (channels, height, width) of at least {least} x {least}",
            field="model",
        )
    return shape[0], shape[1], shape[2]
