"""``groundswell worker``: look at projects and run their rounds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from sync.store.schedule import Kind

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @app.command()
    def worker(
        project: Annotated[
            list[int] | None, typer.Option(help="this Label Studio project only; repeatable; default: all")
        ] = None,
        jobs: Annotated[
            str, typer.Option(help="kinds of work to take, with commas: sync (looks), train")
        ] = "sync,train",
        once: Annotated[bool, typer.Option("--once", help="look at each project once, then end")] = False,
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        studio_url: Annotated[str, typer.Option(help="Label Studio (default: that of groundswell up)")] = "",
        api_key: Annotated[str, typer.Option(help="API key", envvar="GROUNDSWELL_API_KEY")] = "",
        metrics_port: Annotated[
            int | None,
            typer.Option(min=0, max=65535, help="serve Prometheus metrics on this port (0: any free one)"),
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="with --once: print what was done")] = False,
    ) -> None:
        """Pull labels, train, find instances, cluster, review, push: again and again, until stopped.

        May be killed at any moment; started again it goes on. Several workers share the work.

        Looks at projects and training are two kinds of work, done side by side. A machine with a GPU may take
        training only; some worker must take each kind.

        Exit codes of --once: 1 when every project failed, 3 when some did.

        Example: groundswell worker --once --project 3

        Example: groundswell worker --jobs train
        """
        import json
        from contextlib import ExitStack
        from dataclasses import asdict

        from ml_backend.extras import require_extra

        require_extra("worker")
        from ml_backend.logs import set_up_logging
        from sync.console import PARTLY
        from sync.installation import open_installation
        from sync.report.running_on import look_at_machine, running_on
        from sync.rounds.registration import project_ids, register_project
        from sync.worker.console import WorkerConsole
        from sync.worker.loop import Worker
        from sync.worker.observer import Observer, Observers
        from sync.worker.signs import SignsOfLife

        kinds = _kinds(jobs)
        installation = open_installation(data_dir, studio_url=studio_url, api_key=api_key, create=True)
        has_level = "log_level" in installation.settings.model_fields_set
        set_up_logging(installation.settings, level=None if has_level else "WARNING")
        known = set(project_ids(installation.store))
        for number in project or []:
            if number not in known:
                register_project(installation.settings, installation.store, installation.studio, number)
        settings = installation.settings
        port = settings.metrics_port if metrics_port is None else metrics_port
        with ExitStack() as stack:
            console = stack.enter_context(WorkerConsole(quiet=as_json))
            observers: list[Observer] = []
            if not once:
                observers.append(stack.enter_context(SignsOfLife(settings.data_dir, settings.heartbeat_s)))
            if port is not None:
                from sync.worker.metrics import WorkerMetrics, serve_metrics

                metrics = WorkerMetrics(installation.store)
                observers.append(metrics)
                served = stack.enter_context(serve_metrics(metrics, settings.metrics_host, port))
                console.say(f"metrics at http://{settings.metrics_host}:{served}/metrics")
            made = Worker(
                installation.settings,
                installation.store,
                installation.studio,
                review_studio=installation.review_studio,
                only=project or None,
                jobs=kinds,
                report=console.report,
                observer=Observers(observers),
            )
            made.install_signal_handlers()
            if not once:
                for line in running_on(installation.settings, look_at_machine()):
                    console.say(line)
                what = f"worker looks every {installation.settings.poll_s:g} s"
                if "sync" not in kinds:
                    what = "worker trains what looks of other workers begin"
                elif "train" not in kinds:
                    what += " and leaves training to other workers"
                console.say(f"{what}; Ctrl-C ends it")
                all_ended = made.run()
            else:
                reports = made.look_at_all()
        if not once:
            if not all_ended:
                _leave()
            return
        if as_json:
            typer.echo(json.dumps([asdict(report) for report in reports], indent=1))
        failed = sum(bool(report.error) for report in reports)
        if failed:
            raise typer.Exit(1 if failed == len(reports) else PARTLY)


def _leave() -> NoReturn:
    """End the process now. Python itself would wait for threads of pools, and one of them may hang."""
    import logging
    import os
    import sys

    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _kinds(jobs: str) -> tuple[Kind, ...]:
    """The kinds of work that ``--jobs`` names. Raises BadInput where one is unknown or none is named."""
    from ml_backend.errors import BadInput
    from sync.store.schedule import KINDS

    named = {word.strip() for word in jobs.split(",")} - {""}
    if not named or named - set(KINDS):
        wrong = ", ".join(sorted(named - set(KINDS))) or "nothing"
        raise BadInput(
            f"{wrong} is no kind of work", field="jobs", hint=f"Those there are: {', '.join(KINDS)}"
        )
    return tuple(kind for kind in KINDS if kind in named)
