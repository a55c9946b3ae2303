"""Models of symbols: (batch, length) int64."""

from math import sqrt

import torch
from torch import Tensor, nn

from edgehold.core.errors import ConfigError


class CharGru(nn.Module):
    """Embedding, one gated recurrent layer, one linear layer: scores of the next symbol at every place.

    (batch, length) int64 -> (batch, length, symbols). Written out instead of `nn.GRU`, which knows no per-record gradients
    under vmap; gates as in Cho et al. 2014 with the reset inside, as `nn.GRU` has them.
    """

    def __init__(self, symbols: int, embedding: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, embedding)
        self.inward = nn.Linear(embedding, 3 * hidden, bias=bias)
        self.across = nn.Linear(hidden, 3 * hidden, bias=bias)
        self.outward = nn.Linear(hidden, symbols, bias=bias)
        self.hidden = hidden
        for layer in (self.inward, self.across):
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -1 / sqrt(hidden), 1 / sqrt(hidden))

    def forward(self, x: Tensor) -> Tensor:
        inward = self.inward(self.embedding(x))
        state = torch.zeros_like(inward[:, 0, : self.hidden])
        states = []
        for place in range(x.shape[1]):
            a_reset, a_update, a_new = inward[:, place].chunk(3, 1)
            b_reset, b_update, b_new = self.across(state).chunk(3, 1)
            update = torch.sigmoid(a_update + b_update)
            new = torch.tanh(a_new + torch.sigmoid(a_reset + b_reset) * b_new)
            state = new + update * (state - new)
            states.append(state)
        outputs: Tensor = self.outward(torch.stack(states, 1))
        return outputs


def char_gru(shape: tuple[int, ...], outputs: int, embedding: int = 8, hidden: int = 128, bias: bool = True) -> CharGru:
    """`CharGru` of as many symbols as outputs. 61,897 parameters for 65 characters."""
    if len(shape) != 1 or embedding < 1 or hidden < 1:
        raise ConfigError(
            f"records of shape {shape}, embedding = {embedding}, hidden = {hidden}; this model takes texts (length,)"
        )
    return CharGru(outputs, embedding, hidden, bias)


class BagOfWords(nn.Module):
    """Mean of the words' vectors, one linear layer. Word 0 is the end of the text and counts nothing.

    (batch, length) int64 -> (batch, outputs).
    """

    def __init__(self, buckets: int, embedding: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(buckets, embedding)
        self.outward = nn.Linear(embedding, outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        there = (x != 0).unsqueeze(2).to(torch.float32)
        total = (self.embedding(x) * there).sum(1)
        scores: Tensor = self.outward(total / there.sum(1).clamp(min=1))
        return scores


def bag_of_words(
    shape: tuple[int, ...], outputs: int, buckets: int = 8192, embedding: int = 32, bias: bool = True
) -> BagOfWords:
    """`BagOfWords`; buckets as in the loader. 262,210 parameters for 8,192 words and two classes."""
    if len(shape) != 1 or buckets < 2 or embedding < 1:
        raise ConfigError(
            f"records of shape {shape}, buckets = {buckets}, embedding = {embedding}; this model takes texts (length,)"
        )
    return BagOfWords(buckets, embedding, outputs, bias)
