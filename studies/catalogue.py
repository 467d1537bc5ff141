"""Every study by name, for the report."""

from __future__ import annotations

from collections.abc import Mapping

from studies import (
    ablation,
    adversarial,
    compare,
    curvature,
    gallery,
    overhead,
    scaling,
    selection,
    transfer,
)
from studies.design.study import Story

STUDIES = (
    compare.STUDY,
    adversarial.STUDY,
    ablation.STUDY,
    transfer.STUDY,
    curvature.STUDY,
    gallery.STUDY,
    scaling.STUDY,
)
STORIES: Mapping[str, Story] = {
    story.name: story for story in (selection.STORY, overhead.STORY, *STUDIES)
}
