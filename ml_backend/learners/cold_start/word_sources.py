"""Detectors that look for words: OWL-ViT, OWLv2 and Grounding DINO (transformers)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ml_backend.errors import BadInput
from ml_backend.learners.cold_start.hub import Hub
from ml_backend.learners.cold_start.settings import ColdStart
from ml_backend.learners.cold_start.source import Hits, Projection, array
from ml_backend.learners.embedding import EMBEDDING_DIM

__all__ = ["GroundedSource", "OwlSource", "prompts_of"]


def prompts_of(settings: ColdStart, labels: Sequence[str]) -> list[tuple[str, int]]:
    """What to look for: (name as it is put to the detector, index of the label). Raises BadInput when two
    labels would be looked for by the same name."""
    found: dict[str, int] = {}
    for index, label in enumerate(labels):
        names = [] if label in settings.only_synonyms else [label.replace("_", " ")]
        for name in (*names, *settings.synonyms.get(label, ())):
            if found.setdefault(name.casefold(), index) != index:
                raise BadInput(
                    f"{labels[found[name.casefold()]]!r} and {label!r} are both looked for as {name!r}",
                    field="options.synonyms",
                )
    return [(settings.prompt.replace("{}", name), index) for name, index in found.items()]


class _WordSource:
    """What both families share: the prompts, the network and its device."""

    words = True
    gives_masks = False
    embedding_dim = EMBEDDING_DIM

    def __init__(self, hub: Hub, settings: ColdStart, labels: Sequence[str]) -> None:
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        self.classes = tuple(labels)
        self._prompts = prompts_of(settings, labels)
        self._processor = hub.load(AutoProcessor)
        self._model = hub.load(AutoModelForZeroShotObjectDetection)
        names = ", ".join(name for name, _ in self._prompts)
        self.said = f"{hub.name} ({self._model.config.model_type}), looking for: {names}"
        self.nbytes = sum(tensor.nbytes for tensor in self._model.state_dict().values())
        self._threshold = settings.score_threshold
        self._project = Projection()
        self._device = torch.device("cpu")

    def find(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[Hits]:
        """See ``Source``."""
        return [self._find(image) for image in images]

    def move(self, device: torch.device) -> None:
        """See ``Source``."""
        self._device = device
        self._model.to(device)

    def _find(self, image: npt.NDArray[np.uint8]) -> Hits:
        raise NotImplementedError

    def _hits(self, probability: Tensor, box: Tensor, features: Tensor) -> Hits:
        """The best prompt of each box: ``probability`` (n, prompts), ``box`` (n, 4), ``features`` (n, f)."""
        score, prompt = probability.max(dim=1)
        label = np.array([label for _, label in self._prompts], np.int64)
        sure = score >= self._threshold
        return Hits(
            box=array(box[sure]),
            kind=label[prompt[sure].cpu().numpy()],
            score=array(score[sure]),
            embedding=self._project(features[sure]),
        )


class OwlSource(_WordSource):
    """See ``Source``. The features of a box are its class embedding, which is compared with the words."""

    def _find(self, image: npt.NDArray[np.uint8]) -> Hits:
        texts = [name for name, _ in self._prompts]
        given = self._processor(text=[texts], images=image, truncation=True, return_tensors="pt")
        given = given.to(self._device)
        said: Any = self._model(**given)
        boxes = self._processor.image_processor.post_process_object_detection(
            said, threshold=-1.0, target_sizes=[(image.shape[0], image.shape[1])]
        )[0]["boxes"]
        return self._hits(said.logits[0].sigmoid(), boxes, said.class_embeds[0])


class GroundedSource(_WordSource):
    """See ``Source``. The features of a box are those of its query in the last layer of the decoder.

    The library names a box by the tokens it fires on, which may belong to two names or to half of one. Here
    each name has the score of its best token, and a box the best name.
    """

    def __init__(self, hub: Hub, settings: ColdStart, labels: Sequence[str]) -> None:
        super().__init__(hub, settings, labels)
        names = [name.replace(".", " ").strip().lower() for name, _ in self._prompts]
        self._text = ". ".join(names) + "."
        self._spans = self._tokens_of(names)

    def _find(self, image: npt.NDArray[np.uint8]) -> Hits:
        given = self._processor(text=self._text, images=image, return_tensors="pt").to(self._device)
        said: Any = self._model(**given)
        token = said.logits[0].sigmoid()
        probability = torch.stack([token[:, span].amax(dim=1) for span in self._spans], dim=1)
        centre, size = said.pred_boxes[0][:, :2], said.pred_boxes[0][:, 2:]
        box = torch.cat([centre - size / 2, centre + size / 2], dim=1)
        box = box * box.new_tensor([image.shape[1], image.shape[0]] * 2)
        return self._hits(probability, box, said.last_hidden_state[0])

    def _tokens_of(self, names: Sequence[str]) -> list[list[int]]:
        """Positions of the tokens of each name in the text, which a full stop ends."""
        tokenizer = self._processor.tokenizer
        spans: list[list[int]] = []
        place = 1  # after the first token, which stands for the whole text
        for name in names:
            count = len(tokenizer(name, add_special_tokens=False)["input_ids"])
            spans.append(list(range(place, place + count)))
            place += count + 1
        return spans
