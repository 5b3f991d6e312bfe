"""HTML of a report: one self-contained file, pictures inline, readable in light and dark."""

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

CSS = (resources.files("gee.report") / "style.css").read_text()


def page(title: str, lead: str, body: Iterable[str]) -> str:
    """A whole HTML document; `title` and `lead` are plain text, the parts of `body` HTML."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head><body>"
        f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>' + "\n".join(body) + "</body></html>\n"
    )


def tiles(rows: Sequence[tuple[str, str, str]]) -> str:
    """Headline figures: (value, what it is, a line below)."""
    return (
        '<div class="tiles">'
        + "".join(
            f'<div class="tile"><span>{escape(what)}</span><b>{escape(value)}</b>'
            f"<span>{escape(below)}</span></div>"
            for value, what, below in rows
        )
        + "</div>"
    )


def section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def warning(text: str) -> str:
    return f'<div class="warn">{escape(text)}</div>'


def figure(svg: str, caption: str, width: str = "100%") -> str:
    return f'<figure style="--w:{width}">{svg}<figcaption>{escape(caption)}</figcaption></figure>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], total: Sequence[str] | None = None) -> str:
    """A table of plain-text cells; the first column is left-aligned, `total` a last row set apart."""

    def row(cells: Sequence[str], tag: str = "td", kind: str = "") -> str:
        return f'<tr class="{kind}">' + "".join(f"<{tag}>{escape(c)}</{tag}>" for c in cells) + "</tr>"

    body = "".join(row(r) for r in rows) + (row(total, kind="total") if total else "")
    return f'<div class="scroll"><table><thead>{row(header, "th")}</thead><tbody>{body}</tbody></table></div>'


def details(summary: str, text: str) -> str:
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"
