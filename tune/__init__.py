"""Distillation studies on Ray: search with Optuna, stages as tasks, tracking with MLflow."""

import os
import sys

RAY_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files a trial
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # parts report before the objectives exist
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the driver has a handler of its own
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # or each worker would start by `uv run`
}
os.environ.update(RAY_SETTINGS)  # Ray reads them when it is imported
if os.path.expanduser("~") == "~":  # neither $HOME nor an entry in passwd; Ray wants one
    os.environ["HOME"] = "/nonexistent"
if "ray" not in sys.modules and os.path.isfile(os.path.expanduser("~/.ray/auth_token")):
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray 2.60 looks for it only with "auto"
