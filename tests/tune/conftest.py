"""Ray reads its settings from the environment when it is imported, so `tune` comes first."""

import tune  # noqa: F401
