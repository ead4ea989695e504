"""What scores were fitted on: tensors of each, and where they come from, in a file that executes nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..networks.network import Network
from ..schema.errors import FitError, brief
from ..schema.scores import Score
from .needs import HeadOutput
from .own import fingerprints

__all__ = ["Fit", "State", "identity", "states_of"]

State = Mapping[str, Tensor]
"""What a score keeps of what it was fitted on."""

_FORMAT = "gradunc fit 1"


@dataclass(frozen=True, eq=False)
class Fit:
    """Scores fitted on in-distribution frames, and what with.

    >>> fit = gv.fit(net, frames, scores="vim,knn")                                          # doctest: +SKIP
    >>> fit.save("fit.safetensors")                                                          # doctest: +SKIP
    >>> cache = gv.compute(net, others, out, scores="vim,knn", fit="fit.safetensors")        # doctest: +SKIP

    Attributes
    ----------
    states : mapping of str to mapping of str to Tensor
        Of each score, on the CPU.
    provenance : mapping
        What JSON holds: the network with the digest of its weights, its head and classes, what the features are of, and
        frames, number, seed and classes of the pixels.
    """

    states: Mapping[str, State]
    provenance: Mapping[str, Any]

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the scores."""
        return tuple(self.states)

    @property
    def source(self) -> str:
        """What the features are of: ``"head"`` or ``"layer:NAME"``."""
        return str(self.provenance["features"])

    @cached_property
    def digest(self) -> str:
        """Hash of all it holds, 32 hex digits."""
        digest = blake2b(json.dumps(self.provenance, sort_keys=True).encode(), digest_size=16)
        for name, tensor in sorted(self._tensors().items()):
            digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @property
    def summary(self) -> dict[str, Any]:
        """What a cache says of it: its digest, and on how many frames and pixels it stands."""
        told = {name: self.provenance[name] for name in ("pixels", "seed", "by", "features")}
        return {"digest": self.digest, "fitted_on": len(self.provenance["frames"]), **told}

    def __repr__(self) -> str:
        told = self.provenance
        return (
            f"<Fit of {', '.join(self.scores)} for {told['network']['name']}: {told['pixels']} pixels of "
            f"{len(told['frames'])} frames, by {told['by']}, features of {self.source}>"
        )

    def _tensors(self) -> dict[str, Tensor]:
        return {f"{score}/{name}": tensor for score, state in self.states.items() for name, tensor in state.items()}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it to a file, whole or not at all; an earlier fit there is replaced.

        Raises
        ------
        FitError
            If something else lies there, or it cannot be written.
        """
        file = Path(path)
        if file.exists():
            Fit.load(file)
        beside = file.with_name(f".{file.name}.{os.getpid()}")
        told = {"format": _FORMAT, "provenance": json.dumps(self.provenance), "digest": self.digest}
        try:
            beside.write_bytes(save({name: tensor.contiguous() for name, tensor in self._tensors().items()}, told))
            os.replace(beside, file)
        except (OSError, SafetensorError) as error:
            beside.unlink(missing_ok=True)
            raise FitError(f"{file}: the fit cannot be written ({error})") from error
        return file

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Fit:
        """Read a file that `save` wrote.

        Raises
        ------
        FitError
            If there is none, or it is damaged or something else.
        """
        file = Path(path)
        if not file.is_file():
            raise FitError(f"{file}: {'is no file' if file.exists() else 'does not exist'}; expected a fit")
        states: dict[str, dict[str, Tensor]] = {}
        try:
            with safe_open(file, "pt") as opened:
                told = opened.metadata() or {}
                if told.get("format") != _FORMAT:
                    raise FitError(f"{file}: is no fit of scores; expected a file that 'gradunc fit' wrote")
                provenance = json.loads(told["provenance"])
                for name in opened.keys():  # noqa: SIM118  no mapping
                    score, _, part = name.rpartition("/")
                    states.setdefault(score, {})[part] = opened.get_tensor(name)
            fit = cls({score: states[score] for score in provenance["scores"]}, provenance)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise FitError(
                f"{file}: cannot be read as a fit ({brief(error)}); it is damaged or something else"
            ) from error
        if told.get("digest") != fit.digest:
            raise FitError(f"{file}: is damaged, its content is not what was written; fit again")
        return fit

    def on(self, device: torch.device | str) -> Fit:
        """The same with its tensors on a device."""
        states = {
            score: {name: tensor.to(device) for name, tensor in state.items()} for score, state in self.states.items()
        }
        return Fit(states, self.provenance)

    def check_network(self, network: Network) -> None:
        """Check that a network is the one that it was made with.

        Raises
        ------
        FitError
            Naming what differs.
        """
        own, given = self.provenance["network"], identity(network)
        differences = [
            f"{what} {_brief(own.get(key))}, now {_brief(given[key])}"
            for key, what in _IDENTITY.items()
            if own.get(key) != given[key] and not (key == "classes" and None in (own.get(key), given[key]))
        ]
        if differences:
            raise FitError(
                f"the fit of {', '.join(self.scores)} is of another network, {own.get('name')!r}, than "
                f"{network.name!r}: it had {'; '.join(differences)}; fit again"
            )

    def check_pass(self, head: str, output: HeadOutput) -> None:
        """Check that the head of a forward pass is the one that it was made with.

        Raises
        ------
        FitError
            Naming what differs.
        """
        found = {"head": head, "n_classes": output.logits.shape[1]}
        for key, value in found.items():
            if self.provenance[key] != value:
                raise FitError(
                    f"the fit of {', '.join(self.scores)} is of {key} {self.provenance[key]!r}, but the network has "
                    f"{value!r}; fit again with the same network and settings"
                )

    def holds(self, content: str) -> bool:
        """Whether a frame of this content, whatever its name, is among those it was made with."""
        return content in self._contents

    @cached_property
    def _contents(self) -> frozenset[str]:
        return frozenset(self.provenance["frames"].values())


_IDENTITY = {
    "weights": "weights",
    "classes": "classes",
    "output": "output",
    "drop_channels": "left out channels",
    "normalize": "normalisation",
    "channels": "channels of the image",
}
"""What makes a network the same one, and in words."""


def identity(network: Network) -> dict[str, Any]:
    """What is kept of a network, as JSON holds it."""
    normalize = network.normalize
    return {
        "name": network.name,
        "weights": network.weights_digest(),
        "classes": None if network.classes is None else list(network.classes),
        "output": network.output,
        "drop_channels": list(network.drop_channels),
        "normalize": [list(part) for part in normalize] if normalize else None,
        "channels": network.preprocessing.channels,
    }


def _brief(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else text[:12] + "..."


def states_of(scores: Iterable[Score], fit: Fit | None) -> dict[str, State]:
    """States of the scores that need one.

    Raises
    ------
    FitError
        If there is no fit, or a score is not in it, or was another one then; the message names it.
    """
    needy = [score for score in scores if "fit" in score.needs]
    names = [score.name for score in needy]
    if needy and fit is None:
        raise FitError(
            f"{_listed(names)}: a fit is needed, and none was given; fit on in-distribution frames ('gradunc fit', "
            "gv.fit) and pass it (--fit FILE, fit=)"
        )
    if fit is None:
        return {}
    lacking = [name for name in names if name not in fit.states]
    if lacking:
        raise FitError(f"{_listed(lacking)}: not in the fit, which is of {', '.join(fit.scores)}; fit again with it")
    then = fit.provenance.get("own_scores", {})
    changed = [name for name, digest in fingerprints(names).items() if then.get(name) != digest]
    if changed:
        raise FitError(f"{_listed(changed)}: another function now than when it was fitted; fit again")
    return {score.name: fit.states[score.name] for score in needy}


def _listed(names: Sequence[str]) -> str:
    return f"{'score' if len(names) == 1 else 'scores'} {', '.join(map(repr, names))}"
