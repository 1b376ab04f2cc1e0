"""Columns of equal length that print well, in a terminal and in a notebook."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from research.errors import InputError


@dataclass(frozen=True)
class Table:
    """`table["loss"]` is a column; iterating gives the rows as dictionaries."""

    columns: dict[str, list[Any]]

    def __getitem__(self, name: str) -> list[Any]:
        return self.columns[name]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (dict(zip(self.columns, values, strict=True)) for values in zip(*self.columns.values(), strict=True))

    def to_pandas(self) -> Any:
        """The table as a `pandas.DataFrame`. Raises InputError if pandas is not installed."""
        try:
            import pandas
        except ImportError:
            raise InputError("to_pandas needs pandas, which is not installed: pip install pandas") from None
        return pandas.DataFrame(self.columns)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = RichTable()
        for name in self.columns:
            shown.add_column(name, justify="left" if isinstance(next(iter(self[name]), ""), str) else "right")
        for row in self:
            shown.add_row(*(Text(_shown(value)) for value in row.values()))
        yield shown

    def __str__(self) -> str:
        console = Console(width=100)
        with console.capture() as capture:
            console.print(self)
        return capture.get()

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns)
        rows = ("".join(f"<td>{escape(_shown(value))}</td>" for value in row.values()) for row in self)
        return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 0.01 else f"{value:.3f}"
    return value.replace("\n", "\\n") if isinstance(value, str) else str(value)
