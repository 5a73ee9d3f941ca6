"""Results as tables."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table


def console() -> Console:
    """The terminal, or a wide page where there is none."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=160)


def tell(
    console: Console, title: str, head: Sequence[str], rows: Sequence[Sequence[str]], left_out: Mapping[str, str]
) -> None:
    """One table, all columns but the first to the right; below it those that are left out, and why."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, header_style="dim")
    for i, name in enumerate(head):
        table.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table, "")
    for name, why in left_out.items():
        console.print(f"without {name}: {why}", style="dim", highlight=False, markup=False)
