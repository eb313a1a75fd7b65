"""`manage.py seed --json`: creates the demo users and prints their passwords and keys. For development only."""

import json
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from config import demo_data


class Command(BaseCommand):
    help = "Create the demo users (lena, finn, sam, desk) and print their passwords and keys."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEBUG:
            raise CommandError("seed prints the passwords of users: it runs only where DEBUG is on.")
        demo = demo_data.make()
        if options["json"]:
            self.stdout.write(json.dumps(demo, indent=1))
            return
        for person in demo["users"].values():
            self.stdout.write(f"{person['username']:6} password {person['password']}")
        for key in demo["keys"]:
            self.stdout.write(f"{key['owner']:6} {key['kind']:8} {key['key']} secret {key['secret']}")
