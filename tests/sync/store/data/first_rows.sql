INSERT INTO projects (id, "key", title, label_config, review_project_id, sheet_project_id, options, watermark, review_watermark, sheet_watermark, error, pulled_at)
VALUES (7, '7.1795209803', 'Cells', '<View/>', 8, NULL, '{"seed": 3}', '2026-05-01 10:00:00.000000', NULL, NULL, '', '2026-05-01 10:00:05.000000');

INSERT INTO tasks (id, project_id, data, image, updated_at, finished, broken, image_error)
VALUES (70, 7, '{"image": "a.png"}', 'a.png', '2026-05-01 09:00:00.000000', TRUE, '', ''),
       (71, 7, '{"image": "b.png"}', 'b.png', '2026-05-01 10:00:00.000000', FALSE, '', 'not found');

INSERT INTO annotations (id, task_id, project_id, completed_by, was_cancelled, ground_truth, created_at, updated_at, lead_time_s, regions, digest, broken)
VALUES (700, 70, 7, 1, FALSE, FALSE, '2026-05-01 09:00:00.000000', '2026-05-01 09:00:00.000000', 12.5, '[{"id": "r0", "label": "cell"}]', 'abc', '');

INSERT INTO test_split (project_id, task_id) VALUES (7, 70);

INSERT INTO rounds (project_id, number, model_version, digest, step, finished_tasks, pushed, pushed_at, review_done, failed, started_at, updated_at, figures)
VALUES (7, 1, 'gs7-r1-0123456789', '0123456789', 'push', 1, 'gs7-r1-0123456789.aabbccdd', '2026-05-01 10:00:00.000000', FALSE, '', '2026-05-01 09:30:00.000000', '2026-05-01 10:00:00.000000', '{"push": {"sent": 1}}');

INSERT INTO questions (id, project_id, "key", round, task_id, instance, label, item, cluster, stream, inclusion, form, sheet, repeat, prior, rle, review_task_id)
VALUES (1, 7, '1:t71-00:0:0', 1, 71, 't71-00', 'cell', 0, 0, 0, 1.0, 0, -1, 0, 0.5, '{"size": [2, 2], "counts": "04"}', 80);

INSERT INTO answers (id, project_id, annotation_id, review_task_id, question_key, worker, value, seconds, created_at, updated_at)
VALUES (1, 7, 800, 80, '1:t71-00:0:0', 2, 'yes', 1.5, '2026-05-01 10:00:00.000000', '2026-05-01 10:00:00.000000');

INSERT INTO decisions (id, project_id, round, label, number, cluster, action, members, asked, yes, lower, upper, confidence, test)
VALUES (1, 7, 1, 'cell', 0, 0, 'accept', 1, 1, 1, 0.5, 1.0, 0.95, 'exact');

INSERT INTO leases (name, holder, fence, heartbeat_at) VALUES ('project/7', '', 4, '2026-05-01 10:00:00.000000');
