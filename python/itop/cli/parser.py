"""Argument parsing whose refusals are one sentence."""

from __future__ import annotations

import argparse
import difflib
import sys
from typing import Any, NoReturn, final

from itop.names import unknown_name

__all__ = ["CommandParser", "UsageError"]


class UsageError(ValueError):
    """Arguments that do not make a command."""


@final
class CommandParser(argparse.ArgumentParser):
    """Raises :class:`UsageError` instead of printing its usage, and suggests the nearest name for a misspelt one."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help tells more)")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        arguments = sys.argv[1:] if args is None else list(args)
        parsed, unknown = self.parse_known_args(arguments, namespace)
        if unknown:
            self._refuse(unknown[0], getattr(parsed, "parser", self))
        return parsed

    def _refuse(self, argument: str, parser: CommandParser) -> NoReturn:
        known = [option for action in parser._actions for option in action.option_strings]
        nearest = difflib.get_close_matches(argument.split("=")[0], known, n=1, cutoff=0.5)
        suggestion = f"; did you mean {nearest[0]}?" if nearest else ""
        parser.error(f"unknown argument {argument!r}{suggestion}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise UsageError(unknown_name(str(action.metavar or action.dest), value, map(str, action.choices)))
