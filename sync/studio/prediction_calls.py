"""Calls about predictions and model versions."""

from __future__ import annotations

from collections.abc import Sequence

from ml_backend.errors import StudioError
from sync.studio.prepared import PreparedPredictions
from sync.studio.project_calls import SLOW_CALL_S, ProjectCalls
from sync.studio.protocol import PredictionRow
from sync.studio.rows import task_filter
from sync.studio.task_listing import tasks_by_id

__all__ = ["PredictionCalls"]


class PredictionCalls(ProjectCalls):
    """Predictions, by model version."""

    def import_predictions(self, project_id: int, rows: Sequence[PredictionRow]) -> int:
        config = self.project(project_id).label_config
        prepared = rows if isinstance(rows, PreparedPredictions) else PreparedPredictions(config, rows)
        if prepared.label_config != config:  # it has changed since
            prepared = PreparedPredictions(config, rows)
        prepared.check()
        created = 0
        for body, count in prepared.bodies():
            answer = self._http.call(
                "POST",
                f"/api/projects/{project_id}/import/predictions",
                content=body,
                read_timeout_s=SLOW_CALL_S,
                hint="A task may have been deleted meanwhile: pull again",
            )
            kept = int(answer["created"])
            created += kept
            if kept != count:
                raise StudioError(
                    f"Label Studio kept {kept} of {count} predictions",
                    hint="It drops rows that do not fit the label config: has the config just changed?",
                    field="predictions",
                    status=201,
                )
        return created

    def predicted_tasks(self, project_id: int, model_version: str) -> set[int]:
        # the filter matches substrings (v1 finds v10), so the versions are fetched too and compared here
        filters = [task_filter("predictions_model_versions", "contains", "List", [model_version])]
        rows = tasks_by_id(self._http, project_id, "id,predictions_model_versions", filters=filters)
        return {
            int(row["id"])
            for row in rows
            if model_version in str(row["predictions_model_versions"]).split(",")
        }

    def prediction_versions(self, project_id: int) -> dict[str, int]:
        answer = self._http.get(f"/api/projects/{project_id}/model-versions/")
        # the active version is listed with 0 rows even when nothing is there
        return {str(name): int(count) for name, count in answer.items() if count}

    def set_model_version(self, project_id: int, model_version: str) -> None:
        self._http.call(
            "PATCH",
            f"/api/projects/{project_id}/",
            json={"model_version": model_version},
            hint="Push predictions of this version first",
        )

    def delete_predictions(self, project_id: int, model_version: str) -> int:
        if model_version not in self.prediction_versions(project_id):
            return 0
        answer = self._http.call(
            "DELETE",
            f"/api/projects/{project_id}/model-versions/",
            json={"model_version": model_version},
            read_timeout_s=SLOW_CALL_S,
        )
        return int(answer["deleted_predictions"])

    def replace_prediction(self, project_id: int, row: PredictionRow) -> None:
        found = self._http.get("/api/predictions/", task=row.task_id)
        mine = sorted(int(one["id"]) for one in found if one["model_version"] == row.model_version)
        if not mine:
            self.import_predictions(project_id, [row])
            return
        PreparedPredictions(self.project(project_id).label_config, [row]).check()
        body = {"result": [dict(item) for item in row.result], "score": row.score}
        self._http.call("PATCH", f"/api/predictions/{mine[0]}/", json=body)
        for double in mine[1:]:
            self._http.call("DELETE", f"/api/predictions/{double}/")

    def predictions(self, task_id: int) -> list[PredictionRow]:
        """All predictions of a task, in id order."""
        rows = sorted(self._http.get("/api/predictions/", task=task_id), key=lambda row: row["id"])
        return [
            PredictionRow(task_id, r["result"], float(r["score"] or 0.0), r["model_version"] or "")
            for r in rows
        ]
