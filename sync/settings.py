"""Settings of the worker and the command line: environment, settings file, and projects' own options."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator

from ml_backend.config_file import PREFIX, config_path, read_config, source_of
from ml_backend.errors import BadInput
from ml_backend.server_address import OptionalServerAddress
from sync.database_url import with_password
from sync.executor_settings import ExecutorSettings

OrderMethod = Literal[
    "ours", "entropy", "margin", "quality", "mask_entropy", "tta", "max_probability", "random", "sequential"
]

__all__ = ["CROWD_DEFAULTS", "PROJECT_OPTIONS", "RESTORE_NOTE", "Settings", "load_settings"]

RESTORE_NOTE = ".restore/note.json"
"""file of the data directory that is there while a restore is under way"""


CROWD_DEFAULTS: Mapping[str, Any] = {
    "review_overlap_max": 5,
    "gold_share": 0.08,
    "repeat_share": 0.04,
    "min_answer_s": 0.6,
    "review_auto_s": None,
}
"""What ``crowd`` sets unless it is set otherwise: five answers at most, shares of gold and of hidden
repeats, a time floor a little below the 0.7 s per question of the published campaign (Papadopoulos et al.
2021), and no answers that a page gives by itself."""


class Settings(ExecutorSettings):
    """Settings of the worker and the CLI; those in PROJECT_OPTIONS can also be set per project."""

    database_url: SecretStr = Field(
        default=SecretStr(""),
        description="SQLAlchemy URL of the store, e.g. postgresql+psycopg://…; empty: SQLite inside data_dir",
    )

    database_password: SecretStr = Field(
        default=SecretStr(""),
        description="password of the database, of any characters, instead of one inside database_url",
    )

    artifacts_url: str = Field(
        default="",
        description="where several machines share model versions, pools and rounds: any address that fsspec "
        "knows, e.g. s3://bucket/folder (credentials from the environment), or a folder; data_dir then is "
        "each machine's copy. Needs signing_key. Empty: data_dir alone",
    )

    artifacts_project_bytes: int | None = Field(
        default=None,
        ge=0,
        description="with artifacts_url: bytes of shared files that this machine holds of each project at "
        "most. Pools and models of old rounds go from its disk first, oldest first, and come back when they "
        "are used; those of the rounds in use always stay. Empty: all files",
    )

    backend_internal_url: OptionalServerAddress = Field(
        default="", description="the backend as Label Studio reaches it, when browsers reach it elsewhere"
    )

    # worker
    poll_s: float = Field(
        default=5.0, gt=0, description="seconds between looks (passes over all projects) when no webhook came"
    )
    lease_ttl_s: float = Field(
        default=60.0,
        gt=0,
        description="seconds without a sign of life after which a worker loses its project",
    )
    stop_s: float = Field(
        default=25.0,
        gt=0,
        description="seconds that a worker which is told to stop takes at most to come to a boundary",
    )
    heartbeat_s: float = Field(default=10.0, gt=0, description="seconds between signs of life of a worker")
    stuck_s: float = Field(
        default=3600.0,
        gt=0,
        description="seconds without progress after which `groundswell health worker` calls a worker stuck",
    )
    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="port on which a worker serves Prometheus metrics; empty: none, 0: any free one",
    )
    metrics_host: str = Field(
        default="127.0.0.1",
        description="address on which a worker serves metrics; nothing asks for a password there",
    )
    overlap_s: float = Field(
        default=30.0,
        ge=0,
        description="seconds that a pull looks back beyond the last one, for changes committed late",
    )

    compare_s: float = Field(
        default=600.0,
        gt=0,
        description="seconds between comparisons of all tasks with Label Studio, which find changes that a "
        "pull missed",
    )

    review_url: OptionalServerAddress = Field(
        default="", description="Label Studio server of the review projects, if they have one of their own"
    )
    review_token: SecretStr = Field(default=SecretStr(""), description="API key for review_url")

    # train
    learner: str = Field(
        default="auto",
        description="which learner trains (see `groundswell models`); auto: the one for the project's kind",
    )
    preset: str = Field(default="light", description="light (CPU) or full")
    iterations: int | None = Field(
        default=None, gt=0, description="training steps; empty: those of the preset"
    )
    learner_options: dict[str, Any] = Field(
        default_factory=dict, description="hyper-parameters that replace those of the preset"
    )
    early_s: float = Field(
        default=60.0,
        ge=0,
        description="seconds of training after which the first round shows its predictions, while the whole "
        "training goes on; 0: nothing is shown before it is over",
    )
    cold_start: str = Field(
        default="",
        description="learner that makes a first model before any label: zero-shot or everything; empty: none",
    )
    cold_start_options: dict[str, Any] = Field(
        default_factory=dict, description="options of that learner, e.g. its checkpoint and class map"
    )
    more_like_this: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="before the first round, offer so many masks of each label that look most like those "
        "drawn so far, on the next 50 pictures, whenever a task is finished; 0: only when `groundswell "
        "more-like-this` is called",
    )
    train_on_propagated: bool = Field(
        default=False,
        description="also train on masks that review accepted on unfinished tasks, weighted by how far they "
        "are trusted; what is undecided there is neither object nor background (learner maskrcnn)",
    )
    min_finished: int = Field(default=5, ge=2, description="finished tasks before the first training")
    retrain_after: int = Field(default=20, ge=1, description="newly finished tasks before the next training")
    test_fraction: float = Field(
        default=0.25, gt=0, lt=1, description="share of tasks kept for the test split"
    )
    test_min: int = Field(default=2, ge=1, description="fewest tasks in the test split")
    split_by: str = Field(
        default="",
        description="field of the task data that says which pictures belong together (frames of a film, "
        "tiles of one plate): the test split takes all or none of them, so that its figures are not too "
        "good; `init --groups` writes it",
    )
    seed: int = Field(default=0, ge=0, description="seed of all random choices: same seed, same choices")

    # infer
    infer_batch: int = Field(default=4, ge=1, description="images per model call")
    infer_part: int = Field(
        default=64, ge=1, description="tasks per stored part of a pool; a kill loses at most one part"
    )
    pool_min_score: float = Field(
        default=0.1, ge=0, le=1, description="lowest class score of masks that are clustered"
    )
    embed_ahead: int = Field(
        default=0, ge=0, description="tasks per round whose images are encoded ahead for clicks"
    )

    train_clicks: bool = Field(
        default=True,
        description="train a click network on the finished masks, beside the rounds: about ten minutes of "
        "one core at low priority whenever a quarter more tasks are finished",
    )
    click_options: dict[str, Any] = Field(
        default_factory=dict, description="options for training the click network"
    )

    # order
    order: OrderMethod = Field(
        default="ours",
        description="which unfinished task is served next: ours (expected share of wrong objects × what the "
        "picture stands for × need for its classes), one doubt alone (entropy, margin, quality, "
        "mask_entropy, tta), max_probability (what is found most surely first), random or sequential",
    )
    order_diversity: float | None = Field(
        default=None, ge=0, description="exponent of what a picture stands for; empty: 0.5 for ours, else 0"
    )
    order_balance: float | None = Field(
        default=None, ge=0, description="exponent of the need for rare classes; empty: 0.5 for ours, else 0"
    )
    order_explore: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="share of tasks that are drawn uniformly, with their probabilities noted, so that shares "
        "of the whole project can be estimated; empty: 0.05 for ours, else 0",
    )
    ideal_class_balance: dict[str, float] = Field(
        default_factory=dict,
        description="wanted share of each label among the tasks that are served, and of NULL: pictures on "
        'which nothing is found, e.g. {"cat": 0.4, "dog": 0.4, "NULL": 0.2}; empty: no quotas',
    )
    pick: Literal["least", "most"] = Field(
        default="least",
        description="least: what the order wants first; most: what the model is surest of, to find its "
        "confident errors",
    )
    order_mirror: bool = Field(
        default=False,
        description="also look at each picture mirrored and count differences as doubt (tta): a better "
        "order, twice the time",
    )
    order_start: bool | None = Field(
        default=None,
        description="before the first training, serve typical pictures of different kinds first (and the "
        "random ones that the test split needs); empty: only where a vision model gives the `features`, "
        "since by classical ones it was no better than random",
    )
    features: str = Field(
        default="classical",
        description="what tells how similar two pictures are, for the order before the first training and "
        "for its spread: classical, or the folder of a vision model that transformers loads (DINOv2, …)",
    )

    # cluster and review
    cluster_features: str = Field(
        default="own",
        description="what tells how similar two masks are, for clusters and the verifier: own (the learner's "
        "embedding), classical, or the folder of a vision model as in `features`, which looks at each mask "
        "cut out. Counts from the next model version on",
    )
    linkage: str = Field(default="auto", description="how cluster trees are built: auto, exact or two-level")
    policy: str = Field(
        default="certified",
        description="search policy: certified (a purity that is kept) or original (the published rule, which "
        "promises nothing); others see 'groundswell simulate --help'",
    )
    policy_options: dict[str, Any] = Field(
        default_factory=dict, description="options of the policy, see docs/questions.md"
    )
    promise_found: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of all objects that should be found at least, e.g. 0.9: status and export say how "
        "much is shown and how long drawing the rest takes; empty: no such promise",
    )
    question_budget: int | None = Field(
        default=None,
        ge=0,
        description="questions per round at most; empty: no limit, people are asked as long as it saves them "
        "time",
    )
    question_batch: int = Field(default=150, ge=1, description="open questions at most, all labels together")
    review_form: Literal["auto", "single", "sheet"] = Field(
        default="auto",
        description="form of review tasks: single (one mask), sheet (a contact sheet: tick the wrong ones); "
        "auto: what the policy asks for",
    )
    crowd: bool = Field(
        default=False,
        description="people you do not know answer: estimates how reliable each is, mixes in questions with "
        "known answers and repeats, and drops answers that come too fast (each unless set by itself)",
    )
    review_overlap: int = Field(default=1, ge=1, description="workers who are asked each question at first")
    review_overlap_max: int = Field(
        default=1,
        ge=1,
        description="workers per question at most; 1: answers are taken as true; more (5 is usual): the "
        "reliability of each worker is estimated, and unsettled questions go to further workers",
    )
    gold_share: float = Field(
        default=0.0, ge=0, lt=0.5, description="share of gold questions, whose answer is already known"
    )
    repeat_share: float = Field(
        default=0.0, ge=0, lt=0.5, description="share of questions that a worker gets twice"
    )
    min_answer_s: float = Field(
        default=0.0,
        ge=0,
        description="shortest time for a single answer in seconds; faster ones do not count. A mask on a "
        "contact sheet needs two sevenths of it",
    )
    experts: list[int] = Field(
        default_factory=list,
        description="numbers of the Label Studio users whose answers decide a question, e.g. [3, 8]",
    )
    crop_size_px: int = Field(default=448, ge=64, description="longer side of a review crop in pixels")

    mistakes: Literal["off", "list", "tab"] = Field(
        default="tab",
        description="look for likely label mistakes in finished tasks after each round and when annotations "
        "change. tab: also show them in Label Studio, as the tab 'Look here' of the Data Manager with the "
        "reason in the task data (`groundswell_look`); list: only `groundswell mistakes` and the dashboard; "
        "off: do not look for any",
    )

    keep_rounds: int | None = Field(
        default=None,
        ge=0,
        description="how many rounds keep their pool (the masks found on unfinished pictures) and trees when "
        "newer ones have taken their place. Older ones lose them: `export --round` is not possible for "
        "these, and their models judge no likely label mistakes. Models, labels, answers and verdicts stay; "
        "empty: all keep them",
    )

    # review page
    review_auto_s: float | None = Field(
        default=3.0,
        ge=0.5,
        le=60,
        description="auto mode of the review page answers by itself after so many seconds, until somebody "
        "stops it; people may change the time. Empty: no auto mode",
    )
    review_auto_answer: Literal["yes", "no"] = Field(
        default="no", description="what auto mode answers to a question"
    )
    review_show_speed: bool = Field(
        default=True, description="the review page shows people how fast they answer"
    )
    review_show_gold: bool = Field(
        default=False,
        description="the review page tells people at once whether they were right, where a question's answer "
        "is known; in projects of classes also how many of their answers are right",
    )
    review_hold_s: float = Field(
        default=600.0,
        ge=30,
        description="seconds for which a card is kept for the person who was given it",
    )
    review_requests: int = Field(
        default=240, ge=10, description="requests a minute that one invite to the review page may make"
    )
    review_address_requests: int = Field(
        default=960,
        ge=10,
        description="requests a minute to the review page from one network address, all invites together",
    )
    proxies: int = Field(
        default=0,
        ge=0,
        description="reverse proxies between people and the backend, each of which adds X-Forwarded-For; 0: "
        "such headers are not believed",
    )

    # dashboard
    admins: list[str] = Field(
        default_factory=list,
        description="e-mails of the people who may use the dashboard; empty: everybody who may sign in to "
        "the main Label Studio, which knows no roles",
    )

    # push
    push_rows: int = Field(default=10_000, ge=1, description="predictions per request at most")
    push_bytes: int = Field(
        default=64 * 1024**2, ge=1024, description="approximate largest size of a request in bytes"
    )
    push_min_score: float = Field(
        default=0.3, ge=0, le=1, description="lowest class score of masks that are shown"
    )
    max_tags_per_pixel: int | None = Field(
        default=None,
        ge=0,
        description="boxes that may lie on one pixel of a prediction; those of low score are left out. 0: "
        "any number; empty: 2 for boxes, any number for masks (it counts the boxes around them)",
    )
    push_interval_s: float = Field(
        default=60.0,
        ge=0,
        description="while review goes on, new decisions are pushed no more often than this",
    )

    @model_validator(mode="before")
    @classmethod
    def _crowd_defaults(cls, values: Any) -> Any:
        if isinstance(values, dict) and str(values.get("crowd", "")).lower() in ("true", "1", "yes", "on"):
            return {**CROWD_DEFAULTS, **values}
        return values

    @field_validator("artifacts_url")
    @classmethod
    def _address_without_secrets(cls, url: str, info: ValidationInfo) -> str:
        if not url:
            return url
        parts = urlsplit(url)
        if "@" in parts.netloc or parts.query or parts.fragment or "::" in url:
            raise ValueError("an address without user, password, query and chains of file systems is needed")
        if not parts.scheme and not Path(url).is_absolute():
            raise ValueError("a whole address is needed, like s3://bucket/folder or /mnt/folder")
        key = info.data.get("signing_key")
        if key is not None and not key.get_secret_value():
            raise ValueError(
                "signing_key must be set as well: one machine signs links, another one checks them"
            )
        return url.rstrip("/")

    @field_validator("segmenter")
    @classmethod
    def _known_segmenter(cls, name: str) -> str:
        from ml_backend.clicks.serving.segmenter_table import SEGMENTERS

        if name not in SEGMENTERS:
            raise ValueError(f"no click segmenter is called {name!r}; known: {', '.join(SEGMENTERS)}")
        return name

    @property
    def inner_backend_url(self) -> str:
        """The backend as Label Studio and this machine reach it, without a slash at its end."""
        return self.backend_internal_url or self.backend_url

    @property
    def shown_studio_url(self) -> str:
        """Label Studio as people's browsers reach it, without a slash at its end."""
        return self.studio_public_url or self.studio_url

    @property
    def shown_review_url(self) -> str:
        """The same of the server that holds the review projects."""
        return self.shown_address(self.review_url or self.studio_url)

    def shown_address(self, url: str) -> str:
        """The address for people of a Label Studio that this machine reaches at ``url``."""
        return self.shown_studio_url if url == self.studio_url else url

    def database(self) -> str:
        """The store's URL, with password: never log it.

        Raises BadInput while a restore into the data directory is not finished: half of it may be there.
        """
        if (self.data_dir / RESTORE_NOTE).exists():
            raise BadInput(
                f"a restore into {self.data_dir} was not finished",
                field="data_dir",
                hint="Run the same `groundswell restore` again: it goes on where it was",
            )
        return self.database_address()

    def database_address(self) -> str:
        """The same, also while a restore is under way: for the restore itself."""
        url = self.database_url.get_secret_value()
        if not url:
            return f"sqlite:///{(self.data_dir / 'groundswell.db').absolute()}"
        return with_password(url, self.database_password.get_secret_value())

    def for_project(self, options: Mapping[str, Any]) -> Settings:
        """These settings with a project's own options on top. Raises BadInput naming a wrong option."""
        unknown = sorted(set(options) - PROJECT_OPTIONS)
        if unknown:
            raise BadInput(
                f"a project cannot set {unknown[0]!r}",
                field=f"options.{unknown[0]}",
                hint=f"Options of a project: {', '.join(sorted(PROJECT_OPTIONS))}",
            )
        if not options:
            return self
        values = {name: getattr(self, name) for name in self.model_fields_set}
        try:
            return Settings(**{**values, **options})
        except ValidationError as error:
            name, message = _first_error(error)
            raise BadInput(
                message,
                field=f"options.{name}",
                hint=f"It is an option of the project: give another value ({name}=…), or take it out with "
                f"`groundswell project set --unset {name}`",
            ) from None


PROJECT_OPTIONS = frozenset(
    {
        "click_options",
        "cold_start",
        "cold_start_options",
        "crowd",
        "early_s",
        "embed_ahead",
        "experts",
        "gold_share",
        "ideal_class_balance",
        "infer_batch",
        "infer_part",
        "iterations",
        "keep_rounds",
        "learner",
        "features",
        "cluster_features",
        "learner_options",
        "linkage",
        "max_tags_per_pixel",
        "min_answer_s",
        "min_finished",
        "mistakes",
        "more_like_this",
        "order",
        "order_balance",
        "order_diversity",
        "order_explore",
        "order_mirror",
        "order_start",
        "pick",
        "policy",
        "policy_options",
        "pool_min_score",
        "promise_found",
        "preset",
        "push_min_score",
        "question_batch",
        "question_budget",
        "repeat_share",
        "retrain_after",
        "review_auto_answer",
        "review_auto_s",
        "review_form",
        "review_overlap",
        "review_overlap_max",
        "review_show_gold",
        "review_show_speed",
        "seed",
        "segmenter",
        "split_by",
        "test_fraction",
        "test_min",
        "train_clicks",
        "train_on_propagated",
    }
)
"""Settings that a project may have of its own."""


def load_settings(**given: Any) -> Settings:
    """Settings from the environment and the settings file, with ``given`` on top.

    Raises BadInput naming the wrong variable, the wrong key of the file, or the argument.
    """
    _refuse_unknown_keys()
    try:
        return Settings(**given)
    except ValidationError as error:
        name, message = _first_error(error)
        field, hint = _place(name, given)
        raise BadInput(message, field=field, hint=hint) from None


def _first_error(error: ValidationError) -> tuple[str, str]:
    """Name of the setting that is wrong, and why. A secret is never part of the message."""
    first = error.errors(include_input=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    return name, str(first["msg"]).removeprefix("Value error, ")


def _place(name: str, given: Mapping[str, Any]) -> tuple[str, str]:
    """Where a wrong value stands, and what to do there."""
    if name in given:
        return name, f"It was given as an option: --{name.replace('_', '-')}"
    source = source_of(name)
    variable = f"{PREFIX}{name.upper()}"
    if source == "environment":
        return f"settings.{name}", f"The environment variable {variable} says so: give it a valid value"
    if source == "default":
        return f"settings.{name}", f"Set the environment variable {variable}"
    return f"{source}: {name}", "Give this key of the file a valid value"


def _refuse_unknown_keys() -> None:
    """Raise BadInput when the settings file has a key that is no setting."""
    unknown = sorted(set(read_config()) - set(Settings.model_fields))
    if unknown:
        like = get_close_matches(unknown[0], Settings.model_fields, n=1)
        raise BadInput(
            "there is no such setting",
            field=f"{config_path()}: {unknown[0]}",
            hint=f"Did you mean {like[0]}?" if like else "docs/settings.md lists them all",
        )
