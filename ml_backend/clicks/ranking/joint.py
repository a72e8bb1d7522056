"""A segmenter that answers a first click with the best of all candidates; everything later is as usual.

``JointSegmenter`` stands in front of the segmenter in use, for the clicks on one task. A further click
refines the chosen mask with that segmenter, so clicks are honoured as they always are.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor

import numpy as np
import numpy.typing as npt

from ml_backend.clicks.base import ClickResult, ClickSegmenter, Embedding, Prompt, StartMask
from ml_backend.clicks.ranking.candidates import Candidate, candidates_of, is_first
from ml_backend.clicks.ranking.ranker import Ranker
from ml_backend.clicks.start_masks import Proposals

__all__ = ["JointSegmenter"]

Pixels = Callable[[], npt.NDArray[np.uint8]]


class JointSegmenter:
    """See the head of this file. As stateless as its parts.

    Parameters
    ----------
    base : the segmenter in use
    ranker : chooses
    second : the project's own click network; where that is ``base``, the configured segmenter. It must see
        pixels (``persist`` False)
    proposals : of the task
    pixels : the picture, (H, W, 3) uint8 RGB; asked for at a first click only
    key : names ranking, second and proposals; part of every mask's key
    threads : where the second one runs beside the segmenter; None: one after the other
    """

    persist = False

    def __init__(
        self,
        base: ClickSegmenter,
        ranker: Ranker,
        *,
        second: ClickSegmenter | None,
        proposals: Proposals | None,
        pixels: Pixels,
        key: str,
        threads: Executor | None = None,
    ) -> None:
        self.base = base
        self.ranker = ranker
        self.second = second
        self.proposals = proposals
        self.pixels = pixels
        self.threads = threads
        self.name = f"{base.name}, ranked"
        self.encoder = f"{base.encoder}+{key}"
        self.nbytes = 0

    @property
    def device(self) -> str:
        """That of the segmenter in use."""
        return self.base.device

    def embed(self, image: npt.NDArray[np.uint8]) -> Embedding:
        """That of the segmenter in use."""
        return self.base.embed(image)

    def segment(self, embedding: Embedding, prompt: Prompt, start_mask: StartMask | None) -> ClickResult:
        """The chosen candidate for a first prompt (``is_first``); else what the segmenter in use says.

        Labels with one mask for all of a picture have no first clicks: each click corrects that mask.
        """
        whole = self.proposals is not None and prompt.label in self.proposals.whole
        goes_on = start_mask is not None and not start_mask.from_proposal
        if whole or goes_on or not is_first(prompt):
            return self.base.segment(embedding, prompt, start_mask)
        chosen = self.ranker.choose(self.candidates(embedding, prompt, start_mask), prompt, self.pixels())
        score = chosen.score if np.isfinite(chosen.score) else 0.0
        logits = None if chosen.logits is None else chosen.logits[None]
        return ClickResult(chosen.mask[None], np.array([min(max(score, 0.0), 1.0)], np.float32), logits)

    def candidates(self, embedding: Embedding, prompt: Prompt, start: StartMask | None) -> list[Candidate]:
        """All candidates for a first prompt; the second segmenter runs beside the first where it can."""
        second = self.second
        if second is None:
            return candidates_of(self.base, embedding, prompt, start, self.proposals, None)

        def ask() -> ClickResult:
            return second.segment(second.embed(self.pixels()), prompt, None)

        source = "network" if second.name == "project" else "configured"
        answer = ask if self.threads is None else self.threads.submit(ask).result
        return candidates_of(self.base, embedding, prompt, start, self.proposals, lambda _: answer(), source)
