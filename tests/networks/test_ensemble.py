from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import TinyNet
from torch import nn

import gradunc_viz as gv
from gradunc_viz.networks.ensemble import Ensemble, in_order
from gradunc_viz.networks.runner import Inference
from gradunc_viz.schema.errors import ModelError

CPU = torch.device("cpu")
IMAGE = np.random.default_rng(3).integers(0, 256, (24, 32, 3), "u1")


def ensemble(*networks, **options):
    return Ensemble([Inference(one, CPU, **options) for one in networks])


def named(seed, classes="abcd", **options):
    names = None if classes is None else list(classes)
    return gv.Network(TinyNet(seed).eval(), name=f"net {seed}", classes=names, **options)


def test_members_may_differ_in_all_but_their_classes():
    small = gv.Network(
        nn.Sequential(nn.Conv2d(3, 5, 3, stride=4, padding=1), nn.Conv2d(5, 5, 1)).eval(),
        name="small",
        drop_channels=[4],
        normalize="imagenet",
        preprocessing=gv.Preprocessing(size=(16, 16)),
    )
    runner = ensemble(named(0), small, named(1))
    x = runner.prepare(IMAGE, "a")
    assert [tuple(one.shape) for one in x.images] == [(1, 3, 24, 32), (1, 3, 16, 16)]  # shared where it is the same
    head = runner(x, "it")
    assert [tuple(one.head.logits.shape) for one in head.passes] == [(1, 4, 12, 16), (1, 5, 4, 4), (1, 4, 12, 16)]
    assert head.name == "classifier + 1"
    with torch.no_grad():
        alone = Inference(small, CPU)(x.images[1], "it").logits
    assert torch.equal(head.passes[1].head.logits, alone)


def test_members_with_other_classes():
    cases = [
        (named(0), gv.Network(TinyNet(1, 5).eval(), name="five"), "net 0 tells 4 classes apart and five 5"),
        (named(0), named(1, drop_channels=[0]), "net 0 tells 4 classes apart and net 1 3"),
        (named(0), named(1, "abdc"), "class 2 is 'c' for net 0 and 'd' for net 1"),
    ]
    for one, other, text in cases:
        runner = ensemble(one, other)
        with pytest.raises(ModelError, match=text):
            runner(runner.prepare(IMAGE, "a"), "it")
    runner = ensemble(named(0), named(1, None))  # one whose classes nobody named
    runner(runner.prepare(IMAGE, "a"), "it")


def test_members_that_take_other_images():
    grey = gv.Network(nn.Conv2d(1, 4, 1).eval(), name="grey")
    with pytest.raises(ModelError, match="net 0 has image channels 3 and grey 1"):
        ensemble(named(0), grey)


def test_a_member_that_fails_is_named():
    runner = ensemble(named(0), gv.Network(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(7, 7)).eval(), name="bad"))
    with pytest.raises(ModelError, match="frame 'a', bad"):
        runner(runner.prepare(IMAGE, "a"), "frame 'a'")


def test_the_order_in_which_they_are_given_makes_no_difference():
    one, two, nameless = named(1), named(2), named(0, None)
    assert in_order([nameless, two, one]) == in_order([one, nameless, two]) == [one, two, nameless]


def test_copies_are_no_ensemble():
    with pytest.warns(UserWarning, match="net 1 and net 1 have the same weights"):
        in_order([named(1), named(0), named(1)])
