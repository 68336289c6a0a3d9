"""`harness image`: a build imports what a build needs; every other verb comes with `harness.cli.image`."""

from __future__ import annotations

import click


class ImageGroup(click.Group):
    """The verbs of `harness.cli.image`. Importing all of them takes longer than a build in which nothing changed."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "build":
            from harness.cli._image_build import build  # noqa: PLC0415

            return build
        return _all().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Let the group that has all verbs say which one was meant."""
        return super().resolve_command(ctx, args) if args[0] == "build" else _all().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return _all().list_commands(ctx)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.help = _all().help
        super().format_help_text(ctx, formatter)


def _all() -> click.Group:
    from harness.cli.image import image as verbs  # noqa: PLC0415

    return verbs


image = ImageGroup("image", help="Build, fetch, look at and pass on images.")
