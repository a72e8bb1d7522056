"""``groundswell invite``: links by which people answer on the review page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sync.web.review.invites import Invite

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        no_args_is_help=True, help="Invite people to answer on the review page, without an account."
    )
    app.add_typer(group, name="invite")

    @group.command()
    def create(
        project: Annotated[int, typer.Option(help="Label Studio project")],
        name: Annotated[str, typer.Option(help="who it is for; one name stands for one person")],
        days: Annotated[float, typer.Option(help="how long the link holds")] = 14.0,
        classes: Annotated[
            bool,
            typer.Option("--classes", help="also name classes of whole pictures (projects of that kind)"),
        ] = False,
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    ) -> None:
        """Make a link for one person. Whoever opens it answers under that name, until it expires.

        They reach the review page of this project and nothing else, and need no account in Label Studio. A
        user is made there for their answers; nobody can log in as that user.

        Example: groundswell invite create --project 3 --name Ana

        Example: groundswell invite create --project 3 --name Ben --days 2 --classes
        """
        import json

        from sync.installation import open_installation
        from sync.review.outbox import CLASSES, QUESTIONS, Mode
        from sync.web.review.invites import create_invite

        found = open_installation(data_dir)
        scopes: list[Mode] = [QUESTIONS, CLASSES] if classes else [QUESTIONS]
        made = create_invite(
            found.settings,
            found.store,
            found.studio,
            found.review_studio or found.studio,
            project_id=project,
            name=name,
            days=days,
            scopes=scopes,
        )
        if as_json:
            typer.echo(json.dumps(_as_json(made)))
            return
        typer.echo(made.link)
        typer.echo(
            f"Send it to {made.name} alone. It holds until {made.expires_at:%Y-%m-%d %H:%M} UTC; "
            f"withdraw it with `groundswell invite revoke {made.id[:8]}`.",
            err=True,
        )

    @group.command("list")
    def show(
        project: Annotated[int | None, typer.Option(help="Label Studio project; default: all")] = None,
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="print JSON, with the links")] = False,
    ) -> None:
        """List invites: for whom, until when, and when they were last opened.

        Example: groundswell invite list --project 3
        """
        import json

        from sync.installation import open_store
        from sync.web.review.invites import invites

        settings, store = open_store(data_dir)
        found = invites(settings, store, project_id=project)
        if as_json:
            typer.echo(json.dumps([_as_json(invite) for invite in found]))
            return
        for invite in found:
            opened = f"opened {invite.seen_at:%Y-%m-%d %H:%M}" if invite.seen_at else "not opened yet"
            typer.echo(
                f"{invite.id[:8]}  project {invite.project_id}  {invite.name}  {invite.state}, until "
                f"{invite.expires_at:%Y-%m-%d %H:%M}  {opened}  {'+'.join(invite.scopes)}"
            )
        if not found:
            typer.echo("nobody is invited yet: `groundswell invite create --project N --name Ana`")

    @group.command()
    def revoke(
        invite: Annotated[str, typer.Argument(help="the id, or its beginning, as `invite list` shows it")],
        data_dir: Annotated[Path | None, typer.Option(help="data directory")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    ) -> None:
        """Withdraw a link, at once. Answers that were given with it stay.

        Example: groundswell invite revoke 3f9a12c4
        """
        import json

        from sync.installation import open_store
        from sync.web.review.invites import revoke_invite

        settings, store = open_store(data_dir)
        gone = revoke_invite(settings, store, invite)
        if as_json:
            typer.echo(json.dumps(_as_json(gone)))
            return
        typer.echo(f"the link of {gone.name} for project {gone.project_id} is withdrawn")


def _as_json(invite: Invite) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        name: value.isoformat() if hasattr(value, "isoformat") else value
        for name, value in asdict(invite).items()
    }
