"""The `mixkd` command: its arguments, its mistakes and its exit codes."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence

from mixkd.commands import COMMANDS
from mixkd.parser import parse, split_off_pytest_options, with_experiment
from mixkd.store import UserError

#: Commands that find again what they had finished; the others start anew.
RESUMED = ("reproduce", "train", "suite", "theory", "restore")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0; 2 for a mistake its user can put right; 130 when it is told to end (SIGINT or SIGTERM).
    """
    # As schedulers and `timeout` end a command: its workers end with it. Processes of torchrun end one another.
    if "RANK" not in os.environ and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    arguments, pytest_options = split_off_pytest_options(list(sys.argv[1:] if argv is None else argv))
    is_debugged, goes_on = "--debug" in arguments, False
    try:
        parsed = parse(COMMANDS, arguments)
        options = {key: value for key, value in vars(parsed[parsed.subcommand]).items() if key != "config"}
        goes_on = parsed.subcommand in RESUMED and not (options.get("force") or options.get("dry_run"))
        if parsed.subcommand == "train":
            options = with_experiment(options)
        elif parsed.subcommand == "bench":
            options["pytest_options"] = pytest_options
        COMMANDS[parsed.subcommand](**options)
    except UserError as error:
        if is_debugged:
            traceback.print_exc()
        print(f"mixkd: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        way_on = str(interrupt) or ("The same command goes on where it was." if goes_on else "")
        print(f"mixkd: stopped. {way_on}".rstrip(), file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
