"""What the user types. Each command is thin: it finds the run, calls the floor below, and prints what came back.

Heavy modules (torch, ray, vllm) are imported inside the commands, so that `zj --help` answers at once, and after the
run was found, so that a wrong name is refused at once. A `ZjError` ends any command with one line on stderr and exit
status 2; every other exception is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

from typing import Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from zj_ray.cli import cluster, data, feedback, model, run
from zj_ray.errors import ZjError

USER_FAULT, INTERRUPTED = 2, 130
LABELLING = "Data and labelling"
COMMANDS = {
    "Runs": (run.run, run.config, run.status, run.runs, run.logs, run.stop),
    LABELLING: (data.data, data.label),
    "Evaluation and serving": (model.report, model.chat, model.serve, model.export),
    "Cluster": (cluster.doctor, cluster.submit, cluster.scale),
}


class _OneErrorPath(TyperGroup):
    """Turns the faults that a user can mend into one red line and exit status 2, in every command."""

    def invoke(self, ctx: Any) -> Any:  # a Context of the click that typer brings
        try:
            return super().invoke(ctx)
        except ZjError as error:
            Console(stderr=True, highlight=False, soft_wrap=True).print(_line(error), style="bold red", markup=False)
            raise typer.Exit(USER_FAULT) from None
        except KeyboardInterrupt:
            Console(stderr=True).print("interrupted; the same command goes on where this one stopped", style="yellow")
            raise typer.Exit(INTERRUPTED) from None


def _line(error: ZjError) -> str:
    """One line. Built from the parts, since Ray wraps an error's text in a remote traceback."""
    location = f"{error.where}: " if error.where else ""
    advice = f" — {error.remedy}" if error.remedy else ""
    return " ".join(f"error: {location}{error.what}{advice}".split())


app = typer.Typer(
    cls=_OneErrorPath,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Type first: [bold]zj doctor[/], then [bold]zj run configs/demo.yaml[/], then [bold]zj chat demo[/].\n\n"
        "Zhongjing on Ray: teach a language model to consult like a doctor, from pre-training to PPO and serving. "
        "中文医患对话大模型的全流程训练。\n\n"
        "For research only; nothing that these models say is medical advice. 仅供研究，不构成医疗建议。"
    ),
)
for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(feedback.app, name="feedback", rich_help_panel=LABELLING)


def main() -> None:
    app(prog_name="zj")
