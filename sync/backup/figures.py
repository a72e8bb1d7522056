"""What a backup and a restore did, as lines for people."""

from __future__ import annotations

from sync.backup.backup import BackupReport
from sync.backup.restore import RestoreReport
from sync.review.nouns import plural

__all__ = ["backup_lines", "restore_lines"]


def backup_lines(done: BackupReport) -> list[str]:
    """What was written, and what to keep in mind."""
    counts = ", ".join(
        plural(count, word)
        for count, word in ((done.projects, "project"), (done.models, "model version"), (done.pools, "pool"))
    )
    lines = [
        f"{done.file}  ({done.bytes / 1e6:.1f} MB)",
        f"  store      {done.store}, schema {done.schema_revision or 'of the first release'}",
        f"  files      {done.files}: {counts}",
    ]
    if done.label_studio:
        lines.append("  with the Label Studio that `groundswell up` started, and its uploads")
    else:
        lines.append("  without Label Studio: back it up by its own means, it holds what people said")
    if done.secrets:
        lines.append(f"  keep it safe: passwords and keys are in {', '.join(done.secrets)}")
    if done.links:
        shown = ", ".join(done.links[:5]) + (
            f" and {len(done.links) - 5} more" if len(done.links) > 5 else ""
        )
        lines.append(f"  NOT in it  what links lead to: {shown}. Back that up by itself")
    lines.append("  names and mail addresses of people may be in the store")
    return lines


def restore_lines(done: RestoreReport) -> list[str]:
    """What is there now, and what to do next."""
    lines = [
        f"restored into {done.data_dir}: {done.files} files, {plural(done.projects, 'project')}",
        f"  backup of  {done.made_at} (Groundswell {done.groundswell})",
    ]
    if done.schema_from != done.schema_now:
        lines.append(f"  schema     brought up to date: {done.schema_from or 'first'} → {done.schema_now}")
    if done.set_aside:
        lines.append(f"  before     what was there lies in {done.set_aside}; delete it when all is well")
    lines.append("  next       start the workers; their first look compares everything with Label Studio")
    return lines
