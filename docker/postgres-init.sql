-- one Postgres, two databases: Label Studio's and the worker's store (created by POSTGRES_DB)
CREATE DATABASE labelstudio OWNER groundswell;
