CREATE TABLE projects (
    id INTEGER NOT NULL,
    "key" VARCHAR(64) NOT NULL,
    title VARCHAR(500) NOT NULL,
    label_config VARCHAR NOT NULL,
    review_project_id INTEGER,
    sheet_project_id INTEGER,
    options JSON NOT NULL,
    watermark DATETIME,
    review_watermark DATETIME,
    sheet_watermark DATETIME,
    error VARCHAR NOT NULL,
    pulled_at DATETIME,
    PRIMARY KEY (id)
);

CREATE TABLE tasks (
    id BIGINT NOT NULL,
    project_id INTEGER NOT NULL,
    data JSON NOT NULL,
    image VARCHAR NOT NULL,
    updated_at DATETIME NOT NULL,
    finished BOOLEAN NOT NULL,
    broken VARCHAR NOT NULL,
    image_error VARCHAR NOT NULL,
    PRIMARY KEY (id)
);

CREATE INDEX ix_tasks_project_id ON tasks (project_id);

CREATE INDEX tasks_open ON tasks (project_id, finished);

CREATE TABLE test_split (
    project_id INTEGER NOT NULL,
    task_id BIGINT NOT NULL,
    PRIMARY KEY (project_id, task_id)
);

CREATE TABLE rounds (
    project_id INTEGER NOT NULL,
    number INTEGER NOT NULL,
    model_version VARCHAR(120) NOT NULL,
    digest VARCHAR(64) NOT NULL,
    step VARCHAR(20) NOT NULL,
    finished_tasks INTEGER NOT NULL,
    pushed VARCHAR(160) NOT NULL,
    pushed_at DATETIME,
    review_done BOOLEAN NOT NULL,
    failed VARCHAR NOT NULL,
    started_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    figures JSON NOT NULL,
    PRIMARY KEY (project_id, number)
);

CREATE TABLE questions (
    id INTEGER NOT NULL,
    project_id INTEGER NOT NULL,
    "key" VARCHAR(120) NOT NULL,
    round INTEGER NOT NULL,
    task_id BIGINT NOT NULL,
    instance VARCHAR(80) NOT NULL,
    label VARCHAR(300) NOT NULL,
    item INTEGER NOT NULL,
    cluster INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    inclusion DOUBLE NOT NULL,
    form INTEGER NOT NULL,
    sheet INTEGER NOT NULL,
    repeat INTEGER NOT NULL,
    prior DOUBLE NOT NULL,
    rle JSON NOT NULL,
    review_task_id BIGINT,
    PRIMARY KEY (id),
    UNIQUE (project_id, "key")
);

CREATE INDEX questions_round ON questions (project_id, round, label);

CREATE INDEX ix_questions_review_task_id ON questions (review_task_id);

CREATE TABLE answers (
    id INTEGER NOT NULL,
    project_id INTEGER NOT NULL,
    annotation_id BIGINT NOT NULL,
    review_task_id BIGINT NOT NULL,
    question_key VARCHAR(120) NOT NULL,
    worker INTEGER NOT NULL,
    value VARCHAR(8) NOT NULL,
    seconds DOUBLE,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (project_id, annotation_id, question_key)
);

CREATE INDEX ix_answers_project_id ON answers (project_id);

CREATE INDEX ix_answers_review_task_id ON answers (review_task_id);

CREATE INDEX ix_answers_question_key ON answers (question_key);

CREATE TABLE decisions (
    id INTEGER NOT NULL,
    project_id INTEGER NOT NULL,
    round INTEGER NOT NULL,
    label VARCHAR(300) NOT NULL,
    number INTEGER NOT NULL,
    cluster INTEGER NOT NULL,
    action VARCHAR(8) NOT NULL,
    members INTEGER NOT NULL,
    asked INTEGER NOT NULL,
    yes INTEGER NOT NULL,
    lower DOUBLE NOT NULL,
    upper DOUBLE NOT NULL,
    confidence DOUBLE NOT NULL,
    test VARCHAR(120) NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (project_id, round, label, number)
);

CREATE TABLE leases (
    name VARCHAR(80) NOT NULL,
    holder VARCHAR(120) NOT NULL,
    fence BIGINT NOT NULL,
    heartbeat_at DATETIME NOT NULL,
    PRIMARY KEY (name)
);

CREATE TABLE annotations (
    id BIGINT NOT NULL,
    task_id BIGINT NOT NULL,
    project_id INTEGER NOT NULL,
    completed_by INTEGER,
    was_cancelled BOOLEAN NOT NULL,
    ground_truth BOOLEAN NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    lead_time_s DOUBLE,
    regions JSON NOT NULL,
    digest VARCHAR(64) NOT NULL,
    broken VARCHAR NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(task_id) REFERENCES tasks (id) ON DELETE CASCADE
);

CREATE INDEX ix_annotations_task_id ON annotations (task_id);

CREATE INDEX ix_annotations_project_id ON annotations (project_id);
