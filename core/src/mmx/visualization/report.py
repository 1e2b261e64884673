"""A report of a run: one HTML page that needs nothing else."""

from __future__ import annotations

import html
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mmx.visualization.curves import choose_curves, find_scalar_files, read_scalars

_COLORS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1100px; padding: 1.5rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.dim { opacity: .65; } table { border-collapse: collapse; }
td, th { border-bottom: 1px solid var(--line); padding: .2rem .8rem .2rem 0; text-align: left;
  vertical-align: top; }
pre { background: var(--soft); border-radius: 6px; max-height: 32rem; overflow: auto;
  padding: .8rem; font-size: 13px; }
.charts { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); }
figure { border: 1px solid var(--line); border-radius: 6px; margin: 0; padding: .6rem; }
figcaption { font-weight: 600; } svg { width: 100%; height: auto; display: block; }
svg text { fill: currentColor; font-size: 10px; } .grid { stroke: var(--line); }
.legend span { margin-right: 1rem; white-space: nowrap; } .legend i { display: inline-block;
  width: .8rem; height: .25rem; margin-right: .3rem; vertical-align: middle; }
details summary { cursor: pointer; }
"""

# Reading off a value needs no library: the points are in the page.
_SCRIPT = """
for (const figure of document.querySelectorAll('figure[data-series]')) {
  const series = JSON.parse(figure.dataset.series), svg = figure.querySelector('svg');
  const out = figure.querySelector('.value'), box = JSON.parse(figure.dataset.box);
  svg.addEventListener('mousemove', event => {
    const r = svg.getBoundingClientRect();
    const x = box.x0 + ((event.clientX - r.left) / r.width * box.width - box.left)
      / (box.width - box.left - box.right) * (box.x1 - box.x0);
    out.textContent = series.map(s => {
      const p = s.points.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a);
      return s.name + ' ' + p[1].toPrecision(5) + ' @ ' + p[0];
    }).join(' · ');
  });
  svg.addEventListener('mouseleave', () => { out.textContent = ''; });
}
document.documentElement.dataset.ready = 'yes';
"""


def write_report(
    work_dir: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    registry_tree: str | None = None,
    environment: Mapping[str, Any] | None = None,
    origins: str | None = None,
    checkpoints: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Write a run's report: curves, final metrics, config, environment, registry, checkpoints.

    Args:
        work_dir: The work directory.
        out: The page; by default ``<work_dir>/report.html``.
        registry_tree: What is registered, as text.
        environment: Name -> value.
        origins: The config with the file and line that set each key, as text; by default the
            config without them.
        checkpoints: A row each: ``name``, ``size``, ``time`` and more.

    Returns:
        Path of the page.

    Raises:
        FileNotFoundError: There is no such directory, or no run in it.
    """
    folder = Path(work_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no work directory {os.fspath(work_dir)!r}")
    curves = read_scalars(folder)
    latest = find_scalar_files(folder)[-1].parent.parent
    config = origins or _config_text(folder, latest)
    log = next(iter(sorted(latest.glob("*.log"))), None)
    sections = [
        ("Curves", _charts(curves)),
        ("Final metrics", _metrics(curves)),
        ("Checkpoints", _table(checkpoints) if checkpoints else ""),
        ("Config", f"<pre>{html.escape(config)}</pre>" if config else ""),
        ("Environment", _pairs(environment) if environment else _environment_of(log)),
        ("Registry", _folded("the tree of registries", registry_tree) if registry_tree else ""),
        ("Log", _folded("the last lines", _tail(log)) if log is not None else ""),
    ]
    body = "\n".join(f"<h2>{title}</h2>\n{text}" for title, text in sections if text)
    name = html.escape(folder.resolve().name)
    page = (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        # The page must load nothing: it is read where the run's machine cannot be reached.
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; "
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">"
        f"<title>{name}</title><style>{_STYLE}</style></head>\n<body>\n<h1>{name}</h1>\n"
        f"<div class='dim'>{html.escape(str(folder.resolve()))} · latest run "
        f"{html.escape(latest.name)} · written {datetime.now():%Y-%m-%d %H:%M}</div>\n"
        f"{body}\n<script>{_SCRIPT}</script>\n</body></html>\n"
    )
    path = Path(out) if out is not None else folder / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return os.fspath(path)


def _charts(curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    panels = choose_curves(curves, None)
    shown = {name for names in panels.values() for name in names}
    others = [n for n in curves if n not in shown]
    for name in others:
        panels[name] = [name]
    charts = [_chart(key, {n: curves[n] for n in names}) for key, names in panels.items()]
    return f"<div class='charts'>{''.join(charts)}</div>"


def _chart(title: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    width, height, left, right, top, bottom = 360, 200, 52, 10, 10, 24
    finite = {
        name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in series.items()
    }
    finite = {name: points for name, points in finite.items() if points}
    if not finite:
        return ""
    every = [point for points in finite.values() for point in points]
    x0, x1 = min(x for x, _ in every), max(x for x, _ in every)
    y0, y1 = min(y for _, y in every), max(y for _, y in every)
    # A single point or a constant still needs a width and a height.
    x1 = x1 if x1 > x0 else x0 + 1
    margin = 0.05 * (y1 - y0) or abs(y1) * 0.1 or 1.0
    y0, y1 = y0 - margin, y1 + margin

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - x0) / (x1 - x0) * (width - left - right),
            top + (y1 - y) / (y1 - y0) * (height - top - bottom),
        )

    parts = []
    for level in range(5):
        y = y0 + (y1 - y0) * level / 4
        _, py = place(x0, y)
        parts.append(
            f"<line class='grid' x1='{left}' x2='{width - right}' y1='{py:.1f}' y2='{py:.1f}'/>"
            f"<text x='{left - 4}' y='{py + 3:.1f}' text-anchor='end'>{y:.3g}</text>"
        )
    for x, anchor in ((x0, "start"), (x1, "end")):
        px, _ = place(x, y0)
        parts.append(f"<text x='{px:.1f}' y='{height - 6}' text-anchor='{anchor}'>{x:g}</text>")
    legend = []
    for index, (name, points) in enumerate(finite.items()):
        color = _COLORS[index % len(_COLORS)]
        pixels = [place(x, y) for x, y in points]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in pixels)
        parts.append(f"<polyline points='{path}' fill='none' stroke='{color}' stroke-width='1.5'/>")
        if len(points) < 30:
            parts += [
                f"<circle cx='{px:.1f}' cy='{py:.1f}' r='2' fill='{color}'/>" for px, py in pixels
            ]
        legend.append(f"<span><i style='background:{color}'></i>{html.escape(name)}</span>")
    data = json.dumps([{"name": n, "points": _thinned(p)} for n, p in finite.items()])
    box = json.dumps({"x0": x0, "x1": x1, "width": width, "left": left, "right": right})
    return (
        f"<figure data-series='{html.escape(data)}' data-box='{html.escape(box)}'>"
        f"<figcaption>{html.escape(title)}</figcaption>"
        f"<svg viewBox='0 0 {width} {height}' role='img' aria-label='{html.escape(title)}'>"
        f"{''.join(parts)}</svg><div class='legend dim'>{''.join(legend)}</div>"
        "<div class='value dim'></div></figure>"
    )


def _thinned(points: Sequence[tuple[float, float]], limit: int = 2000) -> list[tuple[float, float]]:
    stride = max(1, math.ceil(len(points) / limit))
    kept = list(points[::stride])
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _metrics(curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    rows = []
    for name, points in curves.items():
        values = [value for _, value in points if math.isfinite(value)]
        if not values:
            continue
        rows.append(
            {
                "name": name,
                "last": f"{points[-1][1]:.6g}",
                "smallest": f"{min(values):.6g}",
                "largest": f"{max(values):.6g}",
                "at iteration": f"{points[-1][0]:g}",
            }
        )
    return _table(rows)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    head = "".join(f"<th>{html.escape(str(column))}</th>" for column in columns)
    lines = [
        "<tr>" + "".join(f"<td>{html.escape(str(row.get(c, '')))}</td>" for c in columns) + "</tr>"
        for row in rows
    ]
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _pairs(pairs: Mapping[str, Any]) -> str:
    return _table([{"": name, " ": value} for name, value in pairs.items()])


def _folded(summary: str, text: str) -> str:
    return f"<details><summary>{summary}</summary><pre>{html.escape(text)}</pre></details>"


def _config_text(folder: Path, run: Path) -> str:
    candidates: Iterable[Path] = [run / "vis_data" / "config.py", *sorted(folder.glob("*.py"))]
    return next((p.read_text(encoding="utf-8") for p in candidates if p.is_file()), "")


def _environment_of(log: Path | None) -> str:
    """Return the environment that a run has written at the head of its log."""
    if log is None:
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    start = next((i for i, line in enumerate(lines) if line == "System environment:"), None)
    if start is None:
        return ""
    ends = (i for i, line in enumerate(lines[start:], start) if line.startswith("-----"))
    return f"<pre>{html.escape(chr(10).join(lines[start : next(ends, len(lines))]))}</pre>"


def _tail(log: Path, count: int = 40) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-count:])
