"""The `cskd-hf` command. It only dispatches; torch is imported when a command starts to work."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence

from . import __version__
from .commands import add_commands
from .training.recipes import nearest


class _Parser(argparse.ArgumentParser):
    """Names the nearest option for a mistyped one."""

    def error(self, message: str) -> None:
        unknown = "unrecognized arguments: "
        if message.startswith(unknown):
            options = [name for action in self._all_actions() for name in action.option_strings]
            first = message.removeprefix(unknown).split()[0].split("=")[0]
            message = f"unknown option '{first}'{nearest(first, options)}"
            if not first.startswith("-"):
                message = f"'{first}' is one argument too many" + (
                    "; a model is --model" if "--model" in options else ""
                )
        super().error(message)

    def _all_actions(self) -> list[argparse.Action]:
        actions = list(self._actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                chosen = [
                    parser for name, parser in action.choices.items() if name in sys.argv
                ] or action.choices.values()
                actions += [inner for parser in chosen for inner in parser._actions]
        return actions


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(
        prog="cskd-hf", description="CSKD: image aesthetics models from CLIP, few ratings and many unrated images."
    )
    parser.add_argument("--version", action="version", version=f"cskd-hf {__version__}")
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="import a module that registers encoders of your own (or module:function) before anything is loaded",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    add_commands(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, or 2 for input that was refused."""
    arguments = sys.argv[1:] if arguments is None else arguments
    namespace = build_parser().parse_args(arguments)
    namespace.command_line = shlex.join(["cskd-hf", *arguments])
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        return _dispatch(namespace)
    except (ValueError, OSError, FloatingPointError) as error:
        if not _expected(error):
            raise
        print(f"cskd-hf {namespace.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"cskd-hf {namespace.command}: stopped", file=sys.stderr)
        return 130


def _expected(error: Exception) -> bool:
    """Whether it says what is wrong with the input, so that a traceback would only hide it: files and Hub names that are
    not there, and whatever this package itself refused."""
    if isinstance(error, OSError):
        return True
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    return trace.tb_frame.f_globals.get("__name__", "").startswith(f"{__package__}.")


def _calm_libraries() -> None:
    """Leave the terminal to our own progress bars and messages."""
    import datasets
    from transformers.utils import logging as transformers_logging

    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("accelerate").setLevel(logging.WARNING)


def _dispatch(namespace: argparse.Namespace) -> int:
    _calm_libraries()
    if namespace.imports:
        from .training.own_encoders import import_encoders

        import_encoders(namespace.imports)
    code = namespace.run(namespace)
    _leave_process_group()
    return code


def _leave_process_group() -> None:
    """One of several processes that ends while its group is open may be aborted by the group's threads."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
