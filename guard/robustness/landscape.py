"""The loss around real test images, as a stage: what `hessian` measures, on a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from guard.artifacts import ArtifactStore
from guard.data.datasets import load_data
from guard.device import setup
from guard.distilled import DistilledSet
from guard.models.networks import penultimate
from guard.models.precision import in_float32
from guard.models.saving import load_model
from guard.robustness.evaluate import drawn
from guard.robustness.hessian import BoundTerms, Geometry, geometry, proposition1
from guard.robustness.stages import Landscape

SAMPLES, EIGENVALUES = 100, 10
TERMS = ("distilled_loss", "loss", "gradient", "curvature", "lipschitz", "distance", "bound")


def look_around(stage: Landscape, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """Eigenvalues (N, 10), descending, gradient norms and cosines (N,) on up to 100 test images, in
    landscape.safetensors; the summary has their means, and the terms of Proposition 1 as means over
    classes: perturbations up to the L2 radius that holds the threat model's ball.
    """
    device = setup(stage.compute)
    splits = load_data(stage.data)
    model = load_model(store.read(stage.model).path, device).eval()
    images = drawn(splits.test, SAMPLES, 0, "landscape")
    (x, y), *_ = images.batches(len(images), device)
    dimension = x[0].numel()
    count = min(EIGENVALUES, dimension)
    with in_float32(model):
        found = geometry(model, x, y, count)
    columns = {
        "eigenvalues": found.eigenvalues,
        "gradient_norm": found.gradient_norm,
        "cosine": found.cosine,
        "loss": found.loss,
    }
    tensors = {name: values.cpu().contiguous() for name, values in columns.items()}
    save_file(tensors, folder / "landscape.safetensors")
    metrics = means(found)
    if stage.distilled is not None:
        distilled = DistilledSet.load(store.read(stage.distilled).path).expanded()
        radius = stage.eps * math.sqrt(dimension) if stage.norm == "Linf" else stage.eps
        pairs = (x, y), (distilled.images, distilled.labels)
        features = partial(penultimate, model)
        with in_float32(model):
            terms = proposition1(model, features, *pairs, radius, count)
        metrics |= bound_metrics(list(terms.values()))
    return {"metrics": metrics, "samples": len(images)}


def means(found: Geometry) -> dict[str, float]:
    """Over samples."""
    return {
        "largest_eigenvalue": float(found.eigenvalues[:, 0].mean()),
        "largest_eigenvalue_median": float(found.eigenvalues[:, 0].median()),
        "gradient_norm": float(found.gradient_norm.mean()),
        "cosine": float(found.cosine.mean()),
        "loss": float(found.loss.mean()),
    }


def bound_metrics(terms: list[BoundTerms]) -> dict[str, float]:
    """Means over classes of the terms, and the share of classes in which the bound holds."""
    named = {
        f"bound/{name}": torch.tensor([getattr(t, name) for t in terms], dtype=torch.float64)
        for name in TERMS
    }
    holds = sum(term.holds for term in terms) / len(terms)
    return {**{name: float(values.mean()) for name, values in named.items()}, "bound/holds": holds}
