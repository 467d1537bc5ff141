"""MLflow: one run a study, and under it one run a trial.

`Tracker` says what happens, `Courier` when, `Mirror` to which runs, `Wanted` with what in them, and
`Store` makes the calls. `database` sees to it that there is something to call.
"""
