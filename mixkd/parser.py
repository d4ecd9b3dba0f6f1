"""The options of the `mixkd` command: from its words to a function's arguments."""

import inspect
from collections.abc import Callable
from typing import Any

from jsonargparse import ArgumentParser
from pydantic import ValidationError

from mixkd.experiment import Experiment
from mixkd.store import UserError

#: Fields of an experiment that `run` fills in.
_FINGERPRINTS = {name for name in Experiment.model_fields if name.endswith("_fingerprint")}

#: Options without a value.
_FLAGS = {
    "force": "compute again, and overwrite, what is there",
    "discard_models": "do not keep the students' models once they are measured: each takes as much disk as its weights",
    "dry_run": "only say how many runs there are, and about how much time and disk they take",
    "pilot": "simulate on the seed of the pilots, which no verdict reads",
}


def build_parser(commands: dict[str, Callable[..., None]]) -> ArgumentParser:
    """The command line, built from the functions that do the commands and from the fields of `Experiment`."""
    parser = ArgumentParser(prog="mixkd", description="Distil BERT with MixKD, and check the claims about it.")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subcommands = parser.add_subcommands()
    for name, function in commands.items():
        summary = (function.__doc__ or "").strip().splitlines()[0]
        command = ArgumentParser(description=summary)
        command.add_argument("--config", action="config", help="YAML file with these options")
        skip = {"experiment", "pytest_options", *_FLAGS}
        if name == "train":
            command.add_argument("--seed", type=int | None, default=None, help="sets init_seed and data_seed")
            command.add_class_arguments(Experiment, None, skip=_FINGERPRINTS)
        elif name == "suite":
            from mixkd.suite import suite_names

            command.add_argument("suite", type=str, help=f"{', '.join(suite_names())}, or a YAML file")
            skip.add("suite")
        elif name == "theory":
            command.add_argument("studies", type=str, nargs="*", help="claims such as T05; none: all but phase_full")
            skip.add("studies")
        elif name == "bench":
            command.usage = "mixkd bench [--output OUTPUT] [options of pytest]"
        for flag, text in _FLAGS.items():
            if flag in inspect.signature(function).parameters:
                command.add_argument(f"--{flag.replace('_', '-')}", dest=flag, action="store_true", help=text)
        command.add_function_arguments(function, None, skip=skip)
        subcommands.add_subcommand(name, command, help=summary)
    return parser


def with_experiment(options: dict[str, Any]) -> dict[str, Any]:
    """Gather the experiment's fields out of the flat options.

    Raises:
        UserError: If they make no experiment.
    """
    fields = {key: options.pop(key) for key in list(options) if key in Experiment.model_fields}
    seed = options.pop("seed")
    if seed is not None:
        fields |= {"init_seed": seed, "data_seed": seed}
    try:
        return {"experiment": Experiment(**fields), **options}
    except ValidationError as error:
        raise UserError("; ".join(detail["msg"].removeprefix("Value error, ") for detail in error.errors())) from error


def split_off_pytest_options(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Separate what follows `bench` into our own options and pytest's."""
    if "bench" not in arguments:
        return arguments, []
    start = arguments.index("bench") + 1
    ours, theirs = arguments[:start], arguments[start:]
    for position, argument in enumerate(theirs):
        if argument in ("-h", "--help"):
            return [*ours, argument], []
        if argument == "--output" or argument.startswith("--output="):
            size = 1 if "=" in argument else 2
            return [*ours, *theirs[position : position + size]], theirs[:position] + theirs[position + size :]
    return ours, theirs
