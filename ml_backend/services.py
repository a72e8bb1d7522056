"""What all routes of the app share. It is built once per process, and loads no model."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ml_backend.artifacts.model_versions import ModelRegistry
from ml_backend.artifacts.pool_reader import Pools
from ml_backend.artifacts.project_facts import FactsCache, ProjectFacts
from ml_backend.artifacts.task_orders import OrderCache
from ml_backend.artifacts.verdicts import VerdictCache
from ml_backend.errors import GroundswellError, ModelError, StorageError
from ml_backend.images.crops import CropStore
from ml_backend.images.signed_links import LinkSigner
from ml_backend.images.store import ImageStore
from ml_backend.learners.predictor_cache import PredictorCache
from ml_backend.metrics import Metrics
from ml_backend.settings import BackendSettings

if TYPE_CHECKING:
    from ml_backend.clicks.serving.service import ClickService
    from ml_backend.clicks.start_masks import Proposals

__all__ = ["PoolProposals", "Services"]

_log = logging.getLogger(__name__)


class PoolProposals:
    """The masks that a model found on a task, for clicks to start from.

    They come from the pool of the version in the facts (``model_version``), where ``GroundswellModel.click``
    puts the one that serves.
    """

    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    def proposals(self, project: ProjectFacts, task_id: int) -> Proposals | None:
        """Instances of one task; None when the pool does not hold the task or cannot be read."""
        from ml_backend.clicks.start_masks import Proposals
        from ml_backend.label_studio.regions import region_id

        version = project.model_version
        if not version:
            return None
        try:
            table = self._pools.of(project.project_id, version).read([task_id]).get(task_id)
        except StorageError as error:  # a click works without a start
            _log.warning("no proposals for task %s: %s", task_id, error)
            return None
        if table is None:
            return None
        whole = {
            label for target in project.config.wanted if target.is_of.one_per_label for label in target.labels
        }
        return Proposals(
            version,
            project.labels,
            table.instances(project.labels),
            frozenset(whole),
            tuple(region_id(str(key)) for key in table.key),
        )


@dataclass(slots=True)
class Services:
    """One of these serves all requests of a process. Every part may be used by several threads at once."""

    settings: BackendSettings
    metrics: Metrics
    facts: FactsCache
    images: ImageStore
    registry: ModelRegistry
    predictors: PredictorCache
    pools: Pools
    verdicts: VerdictCache
    orders: OrderCache
    crops: CropStore
    signer: LinkSigner
    _clicks: ClickService | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def from_settings(cls, settings: BackendSettings) -> Services:
        """Build all parts. Touches the disk only for the signing key."""
        images = ImageStore(settings)
        registry = ModelRegistry(settings.data_dir)
        metrics = Metrics()
        pools = Pools(settings.data_dir)
        return cls(
            settings=settings,
            metrics=metrics,
            facts=FactsCache(settings.data_dir),
            images=images,
            registry=registry,
            predictors=PredictorCache(registry, device_changed=metrics.device_changed),
            pools=pools,
            verdicts=VerdictCache(settings.data_dir),
            orders=OrderCache(settings.data_dir),
            crops=CropStore(settings.data_dir, images, pools=pools),
            signer=LinkSigner.from_settings(settings),
        )

    @property
    def clicks(self) -> ClickService:
        """The click service, built at the first click. Raises ModelError when a package for it is missing."""
        if self._clicks is None:
            with self._lock:
                if self._clicks is None:
                    self._clicks = self._build_clicks()
        return self._clicks

    def announce_clicks(self) -> None:
        """Say what answers clicks, in the log and for ``status``; in a thread, since it may import torch."""
        threading.Thread(target=self._announce_clicks, name="segmenter", daemon=True).start()

    def _announce_clicks(self) -> None:
        try:
            self.clicks.segmenters.announce()
        except GroundswellError as error:
            _log.error("%s", error)

    def _build_clicks(self) -> ClickService:
        try:
            from ml_backend.clicks.serving.service import ClickService
        except ImportError as error:
            raise ModelError(
                f"clicks need a package that is not installed ({error.name})",
                hint="Install groundswell completely",
            ) from error
        proposals = PoolProposals(self.pools)
        return ClickService(
            self.settings,
            self.images,
            proposals=proposals,
            observe=self.metrics.observe,
            device_changed=self.metrics.device_changed,
        )
