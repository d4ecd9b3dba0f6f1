"""The options of the `mixkd` command: from its words to a function's arguments."""

import inspect
import re
from argparse import SUPPRESS
from collections.abc import Callable
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace
from pydantic import ValidationError

from mixkd.experiment import Experiment
from mixkd.store import UserError, first_error

#: Fields of an experiment that `run` fills in.
_FINGERPRINTS = {name for name in Experiment.model_fields if name.endswith("_fingerprint")}

#: Options without a value.
_FLAGS = {
    "force": "compute again, and overwrite, what is there",
    "discard_models": "do not keep the students' models once they are measured: each takes as much disk as its weights",
    "dry_run": "only say how many runs there are, and about how much time and disk they take",
    "pilot": "simulate on the seed of the pilots, which no verdict reads",
}


#: What jsonargparse and pydantic say around what is wrong.
_NOISE = (
    r"Parser key|\[type=.*?\]|For further information \S+ \S+|\d+ validation error\S* for \S+|"
    r"Does not validate against any of the Union subtypes Subtypes: .* Errors: -|- Expected a <class 'NoneType'>.*"
)


class _Parser(ArgumentParser):
    """Says a mistake in one sentence, without the list of all options."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        said = re.sub(_NOISE, "", " ".join(message.split()))
        prog = self.prog.replace(" [options]", "")
        raise UserError(f"{' '.join(said.split()).removesuffix('.')}; see `{prog} --help`.") from ex


def build_parser(commands: dict[str, Callable[..., None]]) -> ArgumentParser:
    """The command line, built from the functions that do the commands and from the fields of `Experiment`."""
    parser = _Parser(prog="mixkd", description="Distil BERT with MixKD, and check the claims about it.")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subcommands = parser.add_subcommands()
    for name, function in commands.items():
        summary = (function.__doc__ or "").strip().splitlines()[0]
        command = _Parser(description=summary)
        if name != "bench":  # whose options are pytest's
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
            command.add_argument(
                "studies", type=str, nargs="*", default=SUPPRESS, help="studies such as T05; none: all but phase_full"
            )
            skip.add("studies")
        elif name == "bench":
            command.usage = "mixkd bench [--output OUTPUT] [options of pytest]"
        for flag, text in _FLAGS.items():
            if flag in inspect.signature(function).parameters:
                command.add_argument(f"--{flag.replace('_', '-')}", dest=flag, action="store_true", help=text)
        command.add_function_arguments(function, None, skip=skip)
        subcommands.add_subcommand(name, command, help=summary)
    return parser


def parse(commands: dict[str, Callable[..., None]], arguments: list[str]) -> Namespace:
    """The options of the command that was named.

    Raises:
        UserError: If an argument, or a file of options, is wrong.
    """
    try:
        return build_parser(commands).parse_args(arguments)
    except UnicodeDecodeError as error:
        raise UserError(f"The file given with --config is not UTF-8 text ({error}).") from error


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
        raise UserError(f"{first_error(error)}.") from error


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
