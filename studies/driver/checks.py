"""What is checked before anything starts: the folder, the device, the data, the resources."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from guard.config import ModelConfig
from guard.data.spec import ImageSpec
from guard.errors import ConfigError, StudyError
from guard.objects import check_uri, is_uri
from guard.stages import EarlySqueeze, Squeeze, Student
from guard.trial import TrialConfig
from guard.trial_stages import STAGES, plan
from studies.driver.sets import check_named, spaced
from studies.presets import PRESETS, Preset
from tune.places import typed, usable_folder
from tune.resources import EVERY_STAGE, PACKED, Resources, StageResources
from tune.results.folder import RESERVED, STUDY_NAME, StudyFolder
from tune.space import SearchSpace

FLOAT_BYTES = 4
PROCESSES = "squeeze.processes"
SHARED = tuple(kind.name for kind in (Squeeze, EarlySqueeze))
"""Stages that several processes compute, with a GPU each."""
COPIES = 3
"""Of a network's weights that training holds at least: themselves, gradients, an optimizer's."""


def output_folder(output: str, name: str) -> StudyFolder:
    """The study's folder. Raises StudyError for a name that is no plain file name, and for a place
    that cannot be written."""
    if not STUDY_NAME.fullmatch(name) or name in RESERVED:
        raise StudyError(
            "--name: must be letters, digits, '.', '_' or '-', start with a letter or digit, and "
            f"not be {', '.join(RESERVED)}; got {name!r}"
        )
    return opened_folder("--output", output, name)


def opened_folder(flag: str, output: str, name: str) -> StudyFolder:
    """A study's folder in an output folder that can be written, or in an object store. Raises
    StudyError."""
    folder = StudyFolder.at(typed_place(flag, output), name)
    usable_folder(flag, folder.path)
    return folder


def typed_place(flag: str, text: str) -> str:
    """The absolute path, or the URI of an object store, that someone typed after a flag. Raises
    StudyError."""
    if not is_uri(text):
        return str(typed(flag, text))
    check_uri(flag, text)
    return text


def study_folder(flag: str, text: str) -> StudyFolder:
    """The folder of a study that is there, DIR/NAME or URI/NAME. Raises StudyError."""
    if not is_uri(text):
        path = Path(os.path.normpath(typed(flag, text)))
        return StudyFolder(path.parent, path.name)
    head, mark, options = typed_place(flag, text).partition("?")
    output, _, name = head.rstrip("/").rpartition("/")
    return StudyFolder.at(typed_place(flag, output + mark + options), name)


def load_preset(name: str) -> Preset:
    """The preset of that name. Raises StudyError if there is none."""
    if name not in PRESETS:
        raise StudyError(f"--preset: no preset is named {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name]()


def on_device(config: TrialConfig, device: str, address: str | None = None) -> TrialConfig:
    """The config for a device that is there: on the Ray cluster at the address, whose machines are
    asked themselves before the first trial (`tune.preflight`), or here. Raises StudyError if it is
    not."""
    if address is not None:
        from tune.cluster import check_address, has_gpus

        check_address(address)
        decided = ("cuda" if has_gpus(address) else "cpu") if device == "auto" else device
        return config.override({"compute.device": decided})

    from guard.device import available_device
    from guard.processes import check_devices

    try:
        found = config.override({"compute.device": available_device(device)})
    except ValueError as error:
        raise StudyError(f"--device: {error}") from None
    try:
        check_devices(found.squeeze.processes, found.compute.device)
    except ValueError as error:
        raise ConfigError("squeeze.processes", str(error)) from None
    return found


def checked_space(space: SearchSpace) -> SearchSpace:
    """The space with its data and its sets read and its controls checked (`checked`).

    Raises DataError, ConfigError or StudyError.
    """
    space = spaced(space)
    return dataclasses.replace(space, base=checked(space.base, space.control_configs()))


def checked(base: TrialConfig, configs: Iterable[TrialConfig]) -> TrialConfig:
    """The base with its data read, checked and fingerprinted; the configs' sizes are possible.

    Raises DataError or ConfigError; nothing has been started then.
    """

    from guard.data.datasets import load_data, useful
    from guard.models.networks import footprint, takes_one_image

    splits = useful(load_data(base.data))
    spec, smallest = splits.spec, splits.smallest_class
    configs = list(configs)
    if any(config.regularizer.keeps for config in (base, *configs)):
        count = len(splits.train)
        check_fits("regularizer.ascent", "ls-pgd", count * (spec.num_values + 1))
    models: dict[ModelConfig, str] = {}
    batches: set[int] = set()
    alone: dict[ModelConfig, ConfigError] = {}
    for config in configs:
        check_named(config)
        config.own.check_images(config.shared, spec, smallest)
        held = config.own.held_at_once(config.ipc)
        path = "ipc" if held == config.ipc else f"{config.method}.chunk"
        check_fits(path, held, held * spec.num_classes * spec.num_values)
        models.setdefault(config.model, "model")
        models.setdefault(config.distilled_model, f"{config.method}.model")
        models.setdefault(config.student_model, "student.model")
        batches.add(min(config.evaluation.batch_size, len(splits.test)))
        for model, error in lone_images(config, spec, len(splits.train)):
            alone.setdefault(model, error)
    for model, error in alone.items():
        if not takes_one_image(model, spec):
            raise error
    for model, path in models.items():
        try:
            weights, given = footprint(model, spec)
        except ValueError as error:
            raise ConfigError("", str(error)) from None
        check_fits(f"{path}.width", model.width, COPIES * weights)
        batch = max(batches)
        check_fits("evaluation.batch_size", batch, batch * given, f" of {spec.image_size} px")
    return base.override({"data.sha256": splits.sha256})


def lone_images(
    config: TrialConfig, spec: ImageSpec, count: int
) -> Iterator[tuple[ModelConfig, ConfigError]]:
    """Networks that get an image alone, the last of so many for training or of a set's, and what is
    to be said where one cannot be trained on it."""
    for stage in plan(config):
        if isinstance(stage, Squeeze):
            path, images, batch = "squeeze", count, stage.train.batch_size
        elif isinstance(stage, Student):
            images = stage.distilled.images(spec.num_classes)
            path, batch = "student.train", stage.student.train.batch_size
        else:
            continue
        if batch == 1 or images % batch == 1:
            yield (
                stage.model,
                ConfigError(
                    f"{path}.batch_size",
                    f"must not leave one of {images} images alone in a batch, where a BatchNorm of "
                    f"{stage.model.name} sees one place of {spec.image_size} px; got {batch}",
                ),
            )


def check_fits(path: str, value: object, numbers: int, where: str = "") -> None:
    """Raises ConfigError for a value that makes more numbers than this machine's memory holds."""
    from guard.device import memory_bytes

    if FLOAT_BYTES * numbers > memory_bytes():
        raise ConfigError(
            path,
            f"{value}{where} needs {FLOAT_BYTES * numbers / 2**30:.3g} GiB, and this machine has "
            f"{memory_bytes() / 2**30:.3g} GiB of memory",
        )


def parse_resources(texts: Sequence[str], config: TrialConfig) -> StageResources:
    """`--resources STAGE=CPUS[,GPUS]`; "all" is every stage that is not named. `auto`: those
    share GPUs.

    Raises StudyError, also where a squeeze of several processes has not a GPU for each.
    """
    on_gpu = config.compute.device == "cuda"
    default = Resources(config.compute.num_threads, 1.0 if on_gpu else 0.0)
    named: dict[str, Resources] = {}
    for text in [text for text in texts if text != PACKED]:
        stage, _, amounts = text.partition("=")
        if stage not in (EVERY_STAGE, *STAGES):
            known = ", ".join((EVERY_STAGE, *STAGES))
            raise StudyError(
                f"--resources: no stage is named {stage!r}; there are: {known}; or {PACKED}"
            )
        try:
            cpus, *more = [float(part) for part in amounts.split(",")]
            (gpus,) = more or [default.gpus]
        except ValueError:
            raise StudyError(
                f"--resources: must be STAGE=CPUS[,GPUS] or {PACKED}, got {text!r}"
            ) from None
        if not (0 < cpus < math.inf and 0 <= gpus < math.inf and (gpus <= 1 or gpus % 1 == 0)):
            raise StudyError(
                f"--resources: CPUs above 0, GPUs a fraction or a whole number; got {text!r}"
            )
        if gpus > 1 and stage not in SHARED:
            several = " and ".join(SHARED)
            raise StudyError(f"--resources: {several} alone take several GPUs; got {text!r}")
        named[stage] = Resources(cpus, gpus)
    packs, processes = PACKED in texts, config.squeeze.processes
    if EVERY_STAGE not in named and (processes > 1 or not packs):
        named.setdefault("squeeze", Resources(processes * default.cpus, processes * default.gpus))
    for stage in SHARED if "squeeze" in named else ():
        named.setdefault(stage, named["squeeze"])
    if packs and EVERY_STAGE in named:
        raise StudyError(f"--resources: {PACKED} and {EVERY_STAGE}=… exclude each other")
    parsed = StageResources(named.pop(EVERY_STAGE, default), named, packs)
    for stage in SHARED if on_gpu and processes > 1 else ():
        gpus = parsed.of(stage).gpus
        if gpus != processes:
            raise StudyError(
                f"--resources: {PROCESSES} = {processes} want a GPU each; {stage} has {gpus:g}"
            )
    return parsed
