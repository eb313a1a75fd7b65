"""`manage.py check`: Django's command, where `--database` without a name means the desk's database."""

from django.core.management.base import CommandParser
from django.core.management.commands.check import Command as Check


class Command(Check):
    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        (databases,) = [action for action in parser._actions if action.dest == "databases"]
        databases.nargs, databases.const = "?", "default"
