"""Tables and annotated listings of what the analyses count."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmx.analysis.complexity_analysis import ActivationAnalyzer, FlopAnalyzer, parameter_count

# Module -> kind of figure -> figure (a number, or its text).
Statistics = dict[str, dict[str, Any]]

_UNITS = ((1e14, 1e15, "P"), (1e11, 1e12, "T"), (1e8, 1e9, "G"), (1e5, 1e6, "M"), (1e2, 1e3, "K"))


def _format_size(x: float, sig_figs: int = 3, hide_zero: bool = False) -> str:
    """Return a number with a unit: ``'1.235M'``.

    Args:
        x: The number.
        sig_figs: Digits after the point; zeros at the end are left out.
        hide_zero: Return an empty text for 0.
    """
    if hide_zero and x == 0:
        return ""

    def text(value: float) -> str:
        digits = f"{value:.{sig_figs}f}"
        return digits.rstrip("0").rstrip(".") if "." in digits else digits

    for limit, unit, letter in _UNITS:
        if abs(x) > limit:
            return text(x / unit) + letter
    return text(x)


def _pretty_statistics(
    statistics: Statistics, sig_figs: int = 3, hide_zero: bool = False
) -> dict[str, dict[str, str]]:
    """Return the figures as text; see :func:`_format_size`."""
    return {
        module: {kind: _format_size(value, sig_figs, hide_zero) for kind, value in figures.items()}
        for module, figures in statistics.items()
    }


def _group_by_module(statistics: Mapping[str, Mapping[str, Any]]) -> Statistics:
    """Turn kind -> module -> figure into module -> kind -> figure."""
    grouped: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for kind, figures in statistics.items():
        for module, value in figures.items():
            grouped[module][kind] = value
    return dict(grouped)


def _indicate_uncalled_modules(
    statistics: Mapping[str, Mapping[str, str]],
    stat_name: str,
    uncalled_modules: set[str],
    uncalled_indicator: str = "N/A",
) -> dict[str, dict[str, str]]:
    """Return the statistics with a mark at modules that were not called.

    Args:
        statistics: Module -> kind -> text.
        stat_name: Kind of figure that is marked.
        uncalled_modules: Names of modules.
        uncalled_indicator: The mark.
    """
    marked = {module: dict(figures) for module, figures in statistics.items()}
    for module in uncalled_modules & marked.keys():
        marked[module][stat_name] = uncalled_indicator
    return marked


def _remove_zero_statistics(
    statistics: Statistics,
    force_keep: set[str] | None = None,
    require_trivial_children: bool = False,
) -> Statistics:
    """Return the statistics without modules whose figures are all 0.

    Args:
        statistics: Module -> kind -> number.
        force_keep: Modules that stay, whatever their figures. The whole model always stays.
        require_trivial_children: Keep a module one of whose children stays.
    """
    kept = {
        module
        for module, figures in statistics.items()
        if module == "" or module in (force_keep or set()) or any(figures.values())
    }
    if require_trivial_children:
        for module in list(kept):
            parts = module.split(".")
            kept.update(".".join(parts[:n]) for n in range(1, len(parts)))
    return {module: figures for module, figures in statistics.items() if module in kept}


def _fill_missing_statistics(
    model: nn.Module, statistics: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    """Return the statistics with a 0 for every module that has no figure."""
    names = [name for name, _ in model.named_modules()]
    return {
        kind: {**figures, **{name: 0 for name in names if name not in figures}}
        for kind, figures in statistics.items()
    }


def _get_single_child(name: str, statistics: Mapping[str, Any]) -> str | None:
    """Return the only child of a module that has figures; None if there are none or several."""
    prefix = f"{name}." if name else ""
    children = [
        module
        for module in statistics
        if module and module.startswith(prefix) and "." not in module[len(prefix) :]
    ]
    return children[0] if len(children) == 1 else None


def _try_combine(stats1: Mapping[str, str], stats2: Mapping[str, str]) -> dict[str, str] | None:
    """Return two rows as one if they do not contradict each other, else None."""
    if stats1.keys() != stats2.keys():
        return None
    combined = {}
    for kind, first in stats1.items():
        second = stats2[kind]
        if first and second and first != second:
            return None
        combined[kind] = first or second
    return combined


def _fastforward(
    name: str, statistics: Mapping[str, Mapping[str, str]]
) -> tuple[str, dict[str, str]]:
    """Follow a chain of modules that contain nothing but the next; return its end."""
    child = _get_single_child(name, statistics)
    if child is not None:
        combined = _try_combine(statistics[name], statistics[child])
        if combined is not None:
            return _fastforward(child, {**statistics, child: combined})
    return name, dict(statistics[name])


def _render(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> str:
    """Return a table as text, with a line break at its end."""
    from rich.box import ASCII2
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, box=ASCII2)
    for column in columns:
        table.add_column(Text(column), no_wrap=True)
    rows = [list(row) for row in rows]
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    # Wide enough for whatever is in it: the terminal of the moment says nothing about its readers.
    width = sum(
        max(cell_len(text) for text in (name, *(row[i] for row in rows))) + 3
        for i, name in enumerate(columns)
    )
    console = Console(
        width=max(width + 1, len(title or "")), color_system=None, force_terminal=False
    )
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def _stats_table_format(
    statistics: Mapping[str, Mapping[str, str]],
    max_depth: int = 3,
    stat_columns: Sequence[str] | None = None,
) -> str:
    """Return a table of figures, with modules indented by their depth.

    Args:
        statistics: Module -> kind -> text; ``''`` is the whole model.
        max_depth: Levels of modules to show.
        stat_columns: Kinds of figures to show, in this order; None shows all.
    """
    if stat_columns is None:
        stat_columns = list(dict.fromkeys(k for figures in statistics.values() for k in figures))
    rows: list[list[str]] = []

    def add(name: str, figures: Mapping[str, str], level: int) -> None:
        indent = " " * level
        rows.append(
            [indent + name, *((indent + figures.get(kind, "")).rstrip() for kind in stat_columns)]
        )

    def fill(level: int, prefix: str) -> None:
        if level > max_depth:
            return
        for module in statistics:
            if module and module.startswith(prefix) and "." not in module[len(prefix) :]:
                name, figures = _fastforward(module, statistics)
                add(name[len(start) :], figures, level)
                fill(level + 1, f"{name}.")

    # Names are relative to the module at the top.
    top, figures = _fastforward("", statistics) if "" in statistics else ("", {})
    start = f"{top}." if top else ""
    add(top or "model", figures, 0)
    fill(1, start)
    return _render(["module", *stat_columns], rows)


def complexity_stats_table(
    flops: FlopAnalyzer,
    max_depth: int = 3,
    activations: ActivationAnalyzer | None = None,
    show_param_shapes: bool = True,
) -> str:
    """Return a table of parameters, operations and activations by module.

    Args:
        flops: Analysis of the model.
        max_depth: Levels of modules to show.
        activations: Analysis of the model's activations, if they are to be shown.
        show_param_shapes: Also show parameters with their shapes.
    """
    params_header = "#parameters" + (" or shape" if show_param_shapes else "")
    flops_header, acts_header = "#flops", "#activations"
    model = flops._model
    parameters = dict(parameter_count(model))
    shapes = {name: str(tuple(p.shape)) for name, p in model.named_parameters()}
    kinds: dict[str, dict[str, int]] = {
        params_header: {name: n for name, n in parameters.items() if name not in shapes},
        flops_header: dict(flops.by_module()),
    }
    if activations is not None:
        kinds[acts_header] = dict(activations.by_module())
    stats = _group_by_module(_fill_missing_statistics(model, kinds))
    uncalled = flops.uncalled_modules()
    stats = _remove_zero_statistics(stats)
    table: dict[str, dict[str, str]] = _pretty_statistics(stats)
    table = _indicate_uncalled_modules(table, flops_header, uncalled, "")
    if activations is not None:
        table = _indicate_uncalled_modules(table, acts_header, activations.uncalled_modules(), "")
    if show_param_shapes:
        table = _with_shapes(model, table, shapes, params_header)
    return _stats_table_format(table, max_depth=max_depth, stat_columns=list(kinds))


def _with_shapes(
    model: nn.Module, table: dict[str, dict[str, str]], shapes: dict[str, str], header: str
) -> dict[str, dict[str, str]]:
    """Return the table with rows of parameters, each before the sub-modules of its module."""
    result: dict[str, dict[str, str]] = {}
    for module, figures in table.items():
        result[module] = figures
        prefix = f"{module}." if module else ""
        for name, shape in shapes.items():
            if name.startswith(prefix) and "." not in name[len(prefix) :]:
                result[name] = {header: shape}
    return result


def complexity_stats_str(flops: FlopAnalyzer, activations: ActivationAnalyzer | None = None) -> str:
    """Return the listing of a model with parameters, operations and activations of each module.

    Args:
        flops: Analysis of the model.
        activations: Analysis of the model's activations, if they are to be shown.
    """
    model = flops._model
    names = set(flops._named_modules)
    parameters = {name: n for name, n in parameter_count(model).items() if name in names}
    kinds: dict[str, dict[str, int]] = {"#params": parameters, "#flops": dict(flops.by_module())}
    if activations is not None:
        kinds["#acts"] = dict(activations.by_module())
    uncalled = flops.uncalled_modules()
    if activations is not None:
        uncalled = uncalled | activations.uncalled_modules()
    stats = _group_by_module(_fill_missing_statistics(model, kinds))
    stats = _remove_zero_statistics(stats, force_keep=uncalled)
    texts: dict[str, dict[str, str]] = _pretty_statistics(stats, sig_figs=2)
    texts = _indicate_uncalled_modules(texts, "#flops", flops.uncalled_modules())
    if activations is not None:
        texts = _indicate_uncalled_modules(texts, "#acts", activations.uncalled_modules())
    listing = _model_stats_str(model, texts)
    if uncalled & texts.keys():
        listing = (
            "N/A indicates a possibly missing statistic due to how the module was called. Missing values are still "
            f"included in the parent's total.\n{listing}"
        )
    return listing


def _model_stats_str(model: nn.Module, statistics: Mapping[str, Mapping[str, str]]) -> str:
    """Return the listing of a model as torch prints it, with a line of figures in each module.

    Args:
        model: The model.
        statistics: Module -> kind -> text. A module that has several names has figures under
            one of them only.
    """

    def listing(module: nn.Module, name: str) -> str:
        extra = module.extra_repr()
        lines = extra.split("\n") if extra else []
        figures = statistics.get(name)
        if figures:
            lines.append(", ".join(f"{kind}: {value}" for kind, value in figures.items()))
        children = []
        for key, child in module._modules.items():
            text = "None"
            if child is not None:
                text = listing(child, f"{name}.{key}" if name else key).replace("\n", "\n  ")
            children.append(f"({key}): {text}")
        opening = module._get_name() + "("
        if not children and len(lines) <= 1:
            return f"{opening}{''.join(lines)})"
        return opening + "\n  " + "\n  ".join(lines + children) + "\n)"

    return listing(model, "")


def _get_input_sizes(iterable: Iterable[Any]) -> list[Any]:
    """Return the shapes of nested tensors; None for what is none."""
    sizes: list[Any] = []
    for item in iterable:
        if isinstance(item, Tensor):
            sizes.append(list(item.shape))
        elif isinstance(item, Iterable) and not isinstance(item, str):
            inner = _get_input_sizes(item)
            sizes.append(inner if any(size is not None for size in inner) else None)
        else:
            sizes.append(None)
    return sizes


def get_model_complexity_info(
    model: nn.Module,
    input_shape: tuple[int, ...] | tuple[tuple[int, ...], ...] | None = None,
    inputs: Tensor | tuple[Any, ...] | None = None,
    show_table: bool = True,
    show_arch: bool = True,
) -> dict[str, int | str]:
    """Return operations, activations and parameters of a model, with a table and a listing.

    Args:
        model: The model; it runs in its present mode.
        input_shape: Shape of the input without the batch, or a tuple of shapes of several inputs.
            Random numbers of batch size 1 are made, on the device of the model.
        inputs: The input, or a tuple of the inputs; either this or ``input_shape``.
        show_table: Make the table.
        show_arch: Make the listing.

    Returns:
        ``flops``, ``activations``, ``params`` (numbers; a multiplication with its addition counts
        once), the same with ``_str`` (text with a unit), ``out_table`` and ``out_arch`` (text,
        empty if it is not asked for).

    Raises:
        ValueError: Both or none of ``input_shape`` and ``inputs`` are given, or the shape is none.
    """
    if input_shape is None and inputs is None:
        raise ValueError('One of "input_shape" and "inputs" should be set.')
    if input_shape is not None and inputs is not None:
        raise ValueError('"input_shape" and "inputs" cannot be both set.')
    if inputs is None:
        inputs = _random_inputs(model, input_shape)
    flops = FlopAnalyzer(model, inputs)
    activations = ActivationAnalyzer(model, inputs)
    # What the one cannot count the other names as well; once is enough.
    activations.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    numbers = {
        "flops": flops.total(),
        "activations": activations.total(),
        "params": parameter_count(model)[""],
    }
    result: dict[str, int | str] = {}
    for name, number in numbers.items():
        result[name] = number
        result[f"{name}_str"] = _format_size(number)
    result["out_table"] = result["out_arch"] = ""
    if show_table:
        result["out_table"] = "\n" + complexity_stats_table(
            flops=flops, activations=activations, show_param_shapes=True
        )
    if show_arch:
        result["out_arch"] = "\n" + complexity_stats_str(flops=flops, activations=activations)
    return result


def _random_inputs(model: nn.Module, input_shape: Any) -> tuple[Tensor, ...]:
    parameter = next(model.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")

    def is_shape(shape: Any) -> bool:
        return isinstance(shape, tuple) and all(isinstance(n, int) for n in shape)

    if is_shape(input_shape):
        shapes: tuple[Any, ...] = (input_shape,)
    elif isinstance(input_shape, tuple) and all(map(is_shape, input_shape)):
        shapes = input_shape
    else:
        raise ValueError(
            '"input_shape" should be either a `tuple of int` (to construct one input tensor) or a `tuple of tuple of '
            f"int` (to construct multiple input tensors), but got {input_shape!r}"
        )
    return tuple(torch.randn(1, *shape, device=device) for shape in shapes)
