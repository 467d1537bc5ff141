"""What every command shares: its flags, its checks before anything starts, its one-line errors."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from guard.config import ModelConfig
from guard.config.schema import paths
from guard.errors import ConfigError, StudyError, UserError
from guard.pipeline import STAGES
from guard.trial import TrialConfig
from studies.presets import PRESETS, Preset
from tune.resources import EVERY_STAGE, Resources, StageResources
from tune.results.folder import RESERVED, STUDY_NAME, StudyFolder
from tune.space import SearchSpace, configured, parse_value, plain


def run(main: Callable[[Sequence[str]], int]) -> None:
    """Run a command: expected errors become one line on stderr and exit code 2."""
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; what is done is kept: the same command goes on", file=sys.stderr)
        sys.exit(130)


def add_config_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is studied")
    about = "; ".join(f"{name}: {make().about}" for name, make in PRESETS.items())
    group.add_argument(
        "--preset",
        default="digits",
        metavar="NAME",
        help=f"data set and hyper-parameters to start from (default: digits). {about}",
    )
    group.add_argument(
        "--data",
        metavar="PATH",
        help="an .npz file (x_train, y_train, x_test, y_test), a folder with train/ and val/ or "
        "test/, or where torchvision keeps or downloads the data set",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        dest="settings",
        help="fix a config field, or search over it: regularizer.h=0.3, method=sre2l, "
        "regularizer=cure, 'sre2l.bn_weight=loguniform(0.001, 10)', 'ipc=choice(1, 10, 50)'. "
        "Repeatable; --dry-run lists the fields",
    )
    group.add_argument(
        "--device", default="auto", metavar="NAME", help="auto (default), cpu, cuda or mps"
    )


def add_output_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where results go")
    group.add_argument("--output", default="runs", metavar="DIR", help="default: runs")
    group.add_argument(
        "--name", metavar="NAME", help="the study's folder in DIR (default: the preset's name)"
    )


def add_tracking_flag(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow (default: sqlite in the output folder)"
    )


def add_machine_flags(parser: argparse.ArgumentParser) -> None:
    machines = parser.add_argument_group("where it runs")
    machines.add_argument(
        "--address", metavar="RAY", help="host:port or auto of a Ray cluster (default: a local Ray)"
    )
    machines.add_argument(
        "--resources",
        action="append",
        default=[],
        metavar="STAGE=CPUS[,GPUS]",
        help=f"what a stage holds: all=1,0.5 or squeeze=4,1; stages: {', '.join(STAGES)}. "
        "Default: compute.num_threads CPUs, and one GPU on cuda. Repeatable",
    )
    machines.add_argument(
        "--max-concurrent", type=int, default=0, metavar="N", help="trials at a time (default: fit)"
    )
    add_tracking_flag(machines)
    parser.add_argument(
        "--dry-run", action="store_true", help="print space, stages and work; start nothing"
    )
    parser.add_argument("--verbose", action="store_true", help="show what Ray logs")


def check_machine_flags(args: argparse.Namespace) -> None:
    """Raises StudyError for a number out of range."""
    if args.max_concurrent < 0:
        raise StudyError(f"--max-concurrent: must be at least 1, got {args.max_concurrent}")


def output_folder(output: str, name: str) -> StudyFolder:
    """Raises StudyError for a name that is no plain file name."""
    if not STUDY_NAME.fullmatch(name) or name in RESERVED:
        raise StudyError(
            "--name: must be letters, digits, '.', '_' or '-', start with a letter or digit, and "
            f"not be {', '.join(RESERVED)}; got {name!r}"
        )
    return StudyFolder(Path(output).expanduser().absolute(), name)


def load_preset(name: str) -> Preset:
    if name not in PRESETS:
        raise StudyError(f"--preset: no preset is named {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name]()


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """`--set` values by path: distributions or plain values."""
    parsed = {}
    for text in settings:
        path, equals, value = text.partition("=")
        if not equals or not path.strip():
            raise StudyError(f"--set: must be PATH=VALUE, got {text!r}")
        try:
            parsed[path.strip()] = parse_value(value)
        except ConfigError as error:
            raise error.under(path.strip()) from None
    return parsed


def search_space(preset: Preset, settings: Mapping[str, Any], data: str | None) -> SearchSpace:
    """The preset with `--set` and `--data` applied. A fixed value takes a path out of the space;
    inside a section that is searched as a whole it is the only choice."""
    from optuna.distributions import BaseDistribution, CategoricalDistribution

    searched = {k: v for k, v in settings.items() if isinstance(v, BaseDistribution)}
    sections = tuple(f"{path}." for path in searched)
    searched |= {
        path: CategoricalDistribution((value,))
        for path, value in settings.items()
        if path not in searched and path.startswith(sections)
    }
    fixed = {k: v for k, v in settings.items() if k not in searched}
    if data is not None:
        fixed["data.path"] = data
    inside_fixed = tuple(f"{path}." for path in fixed)
    kept = {k: v for k, v in preset.space.items() if not k.startswith(inside_fixed)}
    space = {path: d for path, d in {**kept, **searched}.items() if path not in fixed}
    methods = getattr(space.get("method"), "choices", ())
    return SearchSpace(base_config(preset.config, fixed, methods), space)


def base_config(
    config: TrialConfig, fixed: Mapping[str, Any], methods: Sequence[Any]
) -> TrialConfig:
    """The config with the fixed values, for the first of the searched methods that they fit."""
    refused = []
    for method in methods or [fixed.get("method", config.method)]:
        try:
            return overridden(config, {**fixed, "method": method})
        except ConfigError as error:
            refused.append(error)
    raise refused[0]


def overridden(config: TrialConfig, values: Mapping[str, Any]) -> TrialConfig:
    """The config with the values; for a field that holds a list, text "a,b" is one, and so is
    a lone value."""
    flat = config.flat()

    def listed(path: str, value: Any) -> Any:
        if not isinstance(flat.get(path), list) or isinstance(value, list):
            return value
        if isinstance(value, str):
            return [plain(part.strip()) for part in value.split(",")]
        return [value]

    return config.override({path: listed(path, value) for path, value in values.items()})


def on_device(config: TrialConfig, device: str) -> TrialConfig:
    """The config for a device that is there. Raises StudyError if it is not."""
    from guard.device import available_device

    try:
        return config.override({"compute.device": available_device(device)})
    except ValueError as error:
        raise StudyError(f"--device: {error}") from None


def checked_space(space: SearchSpace) -> SearchSpace:
    """The space with its data read and its controls checked (`checked`)."""
    controls = [configured(space.base, params, control=True) for params in space.controls()]
    return dataclasses.replace(space, base=checked(space.base, controls))


def checked(base: TrialConfig, configs: Iterable[TrialConfig]) -> TrialConfig:
    """The base with its data read, checked and fingerprinted; the configs' sizes are possible.

    Raises DataError or ConfigError; nothing has been started then.
    """
    from guard.data.datasets import load_data
    from guard.models.networks import build_model

    splits = load_data(base.data)
    smallest = int(splits.train.y.bincount().min())
    models: set[ModelConfig] = set()
    for config in configs:
        if config.own.needs_real_images and config.ipc > smallest:
            raise ConfigError(
                "ipc",
                f"{config.method} starts from real images and the smallest class has {smallest} "
                f"for training, got {config.ipc}",
            )
        config.evaluation.check_side(splits.spec.image_size)
        models |= {config.model, config.distilled_model, config.student_model}
    for model in sorted(models, key=str):
        try:
            build_model(model, splits.spec)
        except ValueError as error:
            raise ConfigError("", str(error)) from None
    return base.override({"data.sha256": splits.sha256})


def parse_resources(texts: Sequence[str], config: TrialConfig) -> StageResources:
    """`--resources STAGE=CPUS[,GPUS]`; "all" is every stage that is not named."""
    on_gpu = config.compute.device == "cuda"
    default = Resources(config.compute.num_threads, 1.0 if on_gpu else 0.0)
    named = {}
    for text in texts:
        stage, _, amounts = text.partition("=")
        if stage not in (EVERY_STAGE, *STAGES):
            known = ", ".join((EVERY_STAGE, *STAGES))
            raise StudyError(f"--resources: no stage is named {stage!r}; there are: {known}")
        try:
            values = [float(part) for part in amounts.split(",")]
            cpus, gpus = values if len(values) == 2 else (values[0], default.gpus)
        except (ValueError, IndexError):
            raise StudyError(f"--resources: must be STAGE=CPUS[,GPUS], got {text!r}") from None
        if not (cpus > 0 and gpus >= 0 and (gpus <= 1 or gpus == int(gpus))):
            raise StudyError(
                f"--resources: CPUs above 0, GPUs a fraction or a whole number; got {text!r}"
            )
        named[stage] = Resources(cpus, gpus)
    return StageResources(named.pop(EVERY_STAGE, default), named)


def field_list() -> list[str]:
    return list(paths(TrialConfig))
