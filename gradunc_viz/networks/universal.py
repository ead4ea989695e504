"""Query models of transformers, and what one of them takes besides an image.

OneFormer is told its task in words, "the task is semantic", as numbers of the tokens of CLIP's vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ..schema.errors import ModelError, brief

__all__ = ["SemanticTask", "told_its_task"]

_TASK = "the task is semantic"
_CLIP_TOKENS = (49406, 518, 10549, 533, 29119, 1550, 49407)
"""Of these words, between start and end, in the vocabulary of CLIP."""
_CLIP_VOCABULARY = 49408


class SemanticTask(nn.Module):
    """A OneFormer that takes an image alone.

    Parameters
    ----------
    net : OneFormerForUniversalSegmentation
    tokens : sequence of int
        Of its task, as many as it takes.
    """

    tokens: Tensor

    def __init__(self, net: nn.Module, tokens: list[int]) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("tokens", torch.tensor(tokens)[None])

    @property
    def config(self) -> Any:
        """The model's."""
        return self.net.config

    def forward(self, pixel_values: Tensor) -> Any:
        """What the model returns for images."""
        return self.net(pixel_values, self.tokens.expand(len(pixel_values), -1))


def told_its_task(
    net: nn.Module, source: str | None = None, options: Mapping[str, Any] = MappingProxyType({})
) -> nn.Module:
    """The network, told that its task is semantic if it wants to be told one.

    Parameters
    ----------
    net
        Of transformers.
    source
        Folder or name on the hub; None for a network that somebody made.
    options
        Of ``from_pretrained``.

    Raises
    ------
    ModelError
        If its words cannot be turned into tokens.
    """
    config: Any = getattr(net, "config", None)
    if getattr(config, "model_type", None) != "oneformer" or isinstance(net, SemanticTask):
        return net
    from transformers import AutoTokenizer

    length = int(config.task_seq_len)
    try:
        if source is None:
            raise LookupError("it comes from no folder")
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        made = tokenizer(_TASK, padding="max_length", max_length=length, truncation=True)
        given = list(zip(made["input_ids"], made["attention_mask"], strict=True))
        tokens = [token * kept for token, kept in given]
        read_back = tokenizer.decode([token for token, kept in given if kept], skip_special_tokens=True)
        read_back = "".join(read_back.split())
        if read_back != _TASK.replace(" ", ""):  # of a folder without one transformers makes an empty one
            raise ValueError(f"it reads {read_back!r} for {_TASK!r}")
    except Exception as error:  # a folder may hold none, or anything
        if config.text_encoder_vocab_size != _CLIP_VOCABULARY or length < len(_CLIP_TOKENS):
            where = type(net).__name__ if source is None else f"hf:{source}"
            raise ModelError(
                f"{where}: OneFormer is told its task in words, and there is no tokenizer to read them with "
                f"({brief(error)}); expected a tokenizer beside its weights, or {_CLIP_VOCABULARY} tokens of CLIP and "
                f"{len(_CLIP_TOKENS)} or more of them, not {config.text_encoder_vocab_size} and {length}"
            ) from error
        tokens = [*_CLIP_TOKENS, *[0] * (length - len(_CLIP_TOKENS))]
    return SemanticTask(net, tokens)
