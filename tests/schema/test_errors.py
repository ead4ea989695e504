"""An error of others is told by the line of its text that says something."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradunc_viz.schema.errors import brief, telling_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("what went wrong", "what went wrong"),
        ("\n\n  what went wrong\nand what else", "what went wrong"),
        ("Error(s) in loading:\n\tMissing key(s): a\n\tmore", "Error(s) in loading: Missing key(s): a"),
        ("=====\n-----\nwhat went wrong\n=====", "what went wrong"),
        (
            "Caught RuntimeError in replica 0.\nOriginal Traceback (most recent call last):\n  File 'x'\n"
            "RuntimeError: what went wrong\n",
            "RuntimeError: what went wrong",
        ),
        ("Traceback of TorchScript:\n  File 'x'\nbuiltins.ValueError: what\n\nsee above", "builtins.ValueError: what"),
    ],
)
def test_the_line_that_says_something(text, line):
    assert telling_line(RuntimeError(text)) == line
    assert brief(RuntimeError(text)) in (f"RuntimeError: {line}", line)


def test_an_error_without_text_is_told_by_its_code():
    def refuse() -> None:
        raise NotImplementedError

    with pytest.raises(NotImplementedError) as caught:
        refuse()
    assert brief(caught.value) == "NotImplementedError in 'raise NotImplementedError'"
    assert brief(KeyError()) == "KeyError"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript():
    net = torch.jit.script(nn.Conv2d(3, 4, 1))
    with pytest.raises(RuntimeError) as caught:
        net(torch.rand(1, 5, 4, 4))
    assert "to have 3 channels, but got 5 channels instead" in telling_line(caught.value)
