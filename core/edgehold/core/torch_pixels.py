"""Batches of images laid out pixel by pixel ("channels last"), for networks with max pools: the same numbers, sooner.

On a processor PyTorch takes the maximum of a window ten times as long where each channel lies by itself: half of a small
convolutional network's step (docs/benchmarks.md). The layout passes from layer to layer, so that the input alone is turned.
"""

from collections.abc import Callable

from torch import Tensor, nn

Turn = Callable[[Tensor], Tensor]
WIDEST = 64
"""Most channels of a convolution up to which it pays: with up to 512 (conv8) the convolutions lose what the pools gain."""


def layout_for(module: nn.Module, device: str) -> Turn:
    """What to do with a batch before `module` sees it on `device`: `by_pixel` where that pays and cannot matter, else nothing.

    It pays for a max pool between narrow layers on a processor, and cannot matter in a chain of torch's own layers: somebody
    else's code may ask how its input lies, as `Tensor.view` does.
    """
    chain = type(module) is nn.Sequential and all(type(part).__module__.startswith("torch.nn.") for part in module.modules())
    pools = any(isinstance(part, nn.MaxPool2d) for part in module.modules())
    narrow = all(part.out_channels <= WIDEST for part in module.modules() if isinstance(part, nn.Conv2d))
    return by_pixel if device == "cpu" and chain and pools and narrow else as_it_lies


def by_pixel(images: Tensor) -> Tensor:
    """The same (records, channels, height, width), all channels of a pixel side by side in memory; nothing else is changed.

    One channel needs no copy, but strides that say so: by its usual ones PyTorch takes it for channel by channel.
    """
    if images.dim() != 4:
        return images
    _, channels, height, width = images.shape
    strides = (height * width * channels, 1, width * channels, channels)
    return images.permute(0, 2, 3, 1).contiguous().as_strided(images.shape, strides)


def as_it_lies(batch: Tensor) -> Tensor:
    """The batch itself."""
    return batch
