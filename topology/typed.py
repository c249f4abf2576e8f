"""What is typed, and set around it, as the commands take it. Only click is imported at the top (`cli.py`)."""

import os
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from topology.config import Settings


def settings_for(*, broker: bool = False, database: bool = False, run: str = "") -> "Settings":
    """The settings with the servers that a command needs. Raises ConfigError."""
    from topology import config

    settings = config.load({**os.environ, "TICKLOOM_RUN": run} if run else None)
    return config.located(settings, broker=broker, database=database)


class Moment(click.ParamType):
    """A date or a time as in ISO 8601, UTC unless it says otherwise."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse it."""
        from datetime import UTC, datetime

        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is no time as in 2024-01-05 or 2024-01-05T08:00", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
