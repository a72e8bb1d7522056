"""One training of the classifier: features, cross-validation, the better of two ways, calibration."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ml_backend.learners.base import Progress, TrainSpec
from ml_backend.learners.classes.calibration import Calibration
from ml_backend.learners.classes.feature_model import FeatureModel
from ml_backend.learners.classes.features import MobileNetFeatures, read_local_features
from ml_backend.learners.classes.fine_tuning import Truth, describe_all, logits_of, train_network
from ml_backend.learners.classes.folds import fold_of, look_alikes, thumbnail, usable_folds
from ml_backend.learners.classes.logistic import balanced_weights, fit_linear
from ml_backend.learners.classes.network import ClassNetwork
from ml_backend.learners.classes.patches import PatchFeatures
from ml_backend.learners.classes.predictor import ClassConfig
from ml_backend.learners.classes.selection import Judged, cross_network, judge_linear
from ml_backend.learners.classes.settings import ClassifierSettings
from ml_backend.learners.classes.squares import Squares
from ml_backend.learners.classes.training_set import learnable, tag_matrix
from ml_backend.learners.training.images import image_cache_bytes
from ml_backend.learners.weights import published_weights

__all__ = ["Trained", "TrainingRun"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_LEARN_FROM = 500
"""Pictures that patch filters are learnt from."""


@dataclass(frozen=True, slots=True)
class Trained:
    """``said``: a sentence on the way that was chosen and why. ``cut_short``: the network was not tried,
    because this is an early version."""

    network: ClassNetwork
    config: ClassConfig
    said: str
    iterations: int = 0
    history: tuple[tuple[int, float], ...] = ()
    cut_short: bool = False


class TrainingRun:
    """Trains from ``spec``, whose examples have been checked; ``before`` is the version to go on from."""

    def __init__(
        self,
        spec: TrainSpec,
        settings: ClassifierSettings,
        device: torch.device,
        progress: Progress,
        before: tuple[ClassConfig, ClassNetwork] | None,
    ) -> None:
        self.spec, self.settings, self.device, self.progress = spec, settings, device, progress
        self.before = before
        self.tags = tag_matrix(spec.train, len(spec.labels))
        self.learn = learnable(self.tags, spec.labels, exclusive=spec.exclusive)
        mine = self.tags[:, self.learn.columns]
        self.truth = Truth(mine, balanced_weights(mine, exclusive=spec.exclusive), spec.exclusive)
        self._groups: Ints = np.zeros(0, np.int64)
        self._fold: Ints = np.zeros(0, np.int64)
        self._folds: list[int] = []
        self.published: tuple[dict[str, Tensor] | None, str] | None = None

    def go(self) -> Trained:
        """Train. The share that ``progress`` is told rises from 0 to 1."""
        settings = self.settings
        if not len(self.learn.columns):
            features, said = self._features(None)
            squares = self._squares(settings.side or features.side)
            self._teach(features, squares)
            network = self._empty(features, Calibration(1.0, np.zeros(0)))
            network.set_scale(describe_all(network, squares, device=self.device))
            return self._trained(network, "linear", squares.side, f"{said}; {self.learn.said}")
        linear: tuple[ClassNetwork, Judged] | None = None
        words = []
        if settings.method != "network" or self._is_early:
            side, linear, said = self._linear()
            words.append(f"a linear head on {said}: log loss {linear[1].loss:.3f}")
        if self._is_early or not self._wants_network:
            assert linear is not None
            early = self._trained(linear[0], "linear", side, self._sentence(words))
            return dataclasses.replace(early, cut_short=self._is_early and self._wants_network)
        judged, refused, said = self._judge_network(linear[1] if linear else None)
        words.append(f"the whole of {said}: " + (f"log loss {judged.loss:.3f}" if judged else refused))
        if linear is not None and (judged is None or judged.loss >= linear[1].loss):
            return self._trained(linear[0], "linear", side, self._sentence(words))
        assert judged is not None
        return self._final_network(judged, self._sentence(list(reversed(words))))

    @property
    def _is_early(self) -> bool:
        """An early version must be there soon: the linear head is."""
        return self.spec.seconds > 0

    @property
    def _wants_network(self) -> bool:
        enough = len(self.tags) >= self.settings.network_from
        return self.settings.method == "network" or (self.settings.method == "auto" and enough)

    def _sentence(self, words: list[str]) -> str:
        n, groups = len(self.tags), len(np.unique(self._groups))
        how = f"chosen by cross-validation over {n} pictures in {groups} groups of look-alikes"
        parts = [f"{words[0]} ({how}{'; ' + words[1] if words[1:] else ''})", self.learn.said]
        return "; ".join(part for part in parts if part)

    # features

    def _features(self, kind: str | None) -> tuple[FeatureModel, str]:
        """The feature model of the settings, or MobileNet where ``kind`` says so, and a sentence about it."""
        wanted = kind or self.settings.features
        if wanted == "patches":
            return PatchFeatures(), "filters learnt from patches of the pictures"
        if wanted not in ("auto", "mobilenet"):
            return read_local_features(Path(wanted)), f"frozen features of {Path(wanted).name}"
        if self.published is None:
            self.published = published_weights("mobilenet_v3_small", wanted=self.settings.weights)
        state, said = self.published
        if state is None and wanted == "auto":
            return PatchFeatures(), f"filters learnt from patches of the pictures ({said})"
        torch.manual_seed(self.spec.seed)
        features = MobileNetFeatures(published=state is not None)
        if state is not None:
            features.take(state)
        return features, f"MobileNetV3-small, {said}"

    def _squares(self, side: int) -> Squares:
        paths = [example.image for example in self.spec.train]
        return Squares(paths, side, cache_bytes=image_cache_bytes(0))

    def _teach(self, features: FeatureModel, squares: Squares) -> None:
        """Learn patch filters from some of the pictures, whatever their labels."""
        if isinstance(features, PatchFeatures):
            rng = np.random.default_rng(self.spec.seed)
            rows = rng.permutation(len(squares))[:_LEARN_FROM]
            features.learn([squares[int(i)] for i in rows], seed=self.spec.seed)

    def _split(self, squares: Squares) -> tuple[Ints, list[int]]:
        self._groups = look_alikes(np.stack([thumbnail(squares[i]) for i in range(len(squares))]))
        fold = fold_of(self._groups, self.truth.tags, folds=self.settings.folds, seed=self.spec.seed)
        if len(np.unique(fold)) < 2:  # one group of look-alikes: there is no better split than by pictures
            fold = fold_of(
                np.arange(len(fold)), self.truth.tags, folds=self.settings.folds, seed=self.spec.seed
            )
        return fold, list(usable_folds(fold))

    # the linear head

    def _linear(self) -> tuple[int, tuple[ClassNetwork, Judged], str]:
        features, said = self._features(None)
        squares = self._squares(self.settings.side or features.side)
        self.progress(0.02, f"features of {len(squares)} pictures: {said}")
        self._teach(features, squares)
        network = self._empty(features, Calibration(1.0, np.zeros(len(self.learn.columns))))
        described = describe_all(network, squares, device=self.device)
        network.set_scale(described)
        standard = network.standardised(described)
        self._fold, self._folds = self._split(squares)
        self.progress(0.12, "cross-validation of a linear head")
        penalty, judged = judge_linear(standard, self.truth, self._fold, self._folds, seed=self.spec.seed)
        fitted = fit_linear(
            standard, self.truth.tags, self.truth.weights, penalty=penalty, exclusive=self.spec.exclusive
        )
        k = len(self.spec.labels)
        weight, bias = np.zeros((network.dim, k)), np.zeros(k)
        weight[:, self.learn.columns], bias[self.learn.columns] = fitted.weight, fitted.bias
        network.set_head(weight, bias)
        self._calibrate(network, judged.calibration)
        return squares.side, (network, judged), said

    # the whole network

    def _judge_network(self, rival: Judged | None) -> tuple[Judged | None, str, str]:
        said = self._features("mobilenet")[1]
        squares = self._squares(self.settings.side or MobileNetFeatures.side)
        if rival is None:
            self._fold, self._folds = self._split(squares)
        parts = len(self._folds) + 1

        def train(number: int, inside: Ints, outside: Ints) -> Floats:
            network = self._small()
            place = self._folds.index(number)
            train_network(
                network,
                squares,
                inside,
                self.truth,
                self.settings,
                continues=False,
                device=self.device,
                seed=self.spec.seed + number,
                progress=lambda share, line: self.progress(
                    0.15 + 0.85 * (place + share) / parts, f"cross-validation {place + 1}: {line}"
                ),
                folder=self.spec.resume / f"fold-{number}" if self.spec.resume else None,
            )
            part = Squares([self.spec.train[int(i)].image for i in outside], squares.side, cache_bytes=0)
            return logits_of(network, describe_all(network, part, device=self.device))

        judged, refused = cross_network(train, self.truth, self._fold, self._folds, rival)
        return judged, refused, said

    def _final_network(self, judged: Judged, sentence: str) -> Trained:
        squares = self._squares(self.settings.side or MobileNetFeatures.side)
        network, continued = self._small(), False
        before = self.before
        if before is not None and before[0].method == "network":
            continued = self._take_before(network, *before)
        share = len(self._folds) / (len(self._folds) + 1)
        result = train_network(
            network,
            squares,
            np.arange(len(squares)),
            self.truth,
            self.settings,
            continues=continued,
            device=self.device,
            seed=self.spec.seed,
            progress=lambda done, line: self.progress(0.15 + 0.85 * (share + (1 - share) * done), line),
            folder=self.spec.resume / "final" if self.spec.resume else None,
        )
        whole = self._empty(network.features, judged.calibration)
        with torch.no_grad():
            whole.head.weight.zero_()
            whole.head.weight[self.learn.columns] = network.head.weight
            whole.head.bias[self.learn.columns] = network.head.bias
        whole.set_scale(describe_all(whole, squares, device=self.device))
        if continued and self.spec.start is not None:
            sentence = f"version {self.spec.start.name}; {sentence}"
        return self._trained(whole, "network", squares.side, sentence, result.steps, result.history)

    def _small(self) -> ClassNetwork:
        """A network to be trained, with the learnable labels alone."""
        features = self._features("mobilenet")[0]
        return ClassNetwork(features, len(self.learn.columns), exclusive=self.spec.exclusive)

    def _take_before(self, network: ClassNetwork, config: ClassConfig, old: ClassNetwork) -> bool:
        """Weights of an earlier version; label rows go by name. Whether there was anything to take."""
        if config.features != network.features.description():
            return False
        network.features.load_state_dict(old.features.state_dict())
        with torch.no_grad():
            for row, column in enumerate(self.learn.columns):
                label = self.spec.labels[int(column)]
                if label in config.labels:
                    network.head.weight[row] = old.head.weight[config.labels.index(label)]
                    network.head.bias[row] = old.head.bias[config.labels.index(label)]
        return True

    # putting together

    def _empty(self, features: FeatureModel, calibration: Calibration) -> ClassNetwork:
        network = ClassNetwork(features, len(self.spec.labels), exclusive=self.spec.exclusive)
        torch.nn.init.zeros_(network.head.weight)
        self._calibrate(network, calibration)
        return network

    def _calibrate(self, network: ClassNetwork, calibration: Calibration) -> None:
        shift = self.learn.fixed.copy()
        shift[self.learn.columns] = calibration.shift
        network.set_calibration(calibration.scale, shift, self.learn.unseen)

    def _trained(
        self,
        network: ClassNetwork,
        method: str,
        side: int,
        said: str,
        iterations: int = 0,
        history: tuple[tuple[int, float], ...] = (),
    ) -> Trained:
        labels, positive = self.spec.labels, self.settings.positive
        config = ClassConfig(
            labels=labels,
            exclusive=self.spec.exclusive,
            features=network.features.description(),
            side=side,
            method=method,
            positive=labels.index(positive) if positive else _rarest(self.tags),
            least=self.settings.least,
        )
        return Trained(network, config, said, iterations, history)


def _rarest(tags: Floats) -> int:
    """The label with the fewest examples, but some."""
    counts = tags.sum(axis=0)
    return int(np.argmin(np.where(counts > 0, counts, np.inf)))
