"""What a study has found, as files, tables and numbers: no Ray, Optuna or MLflow."""
