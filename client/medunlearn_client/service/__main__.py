"""``python -m medunlearn_client.service``: as ``medunlearn hospital serve``."""

import sys

import typer

from medunlearn_client.service.commands import serve
from medunlearn_common.cli import CommandLine

if __name__ == "__main__":
    service = typer.Typer()
    service.command()(serve)
    sys.exit(CommandLine().run(service))
