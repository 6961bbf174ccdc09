"""The report of an evaluated model as a self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from jobs.evaluation.bootstrap import Comparison, Interval
from jobs.evaluation.charts import Bar, bars, lines
from jobs.evaluation.result import Champion, Evaluation
from jobs.evaluation.section_html import STYLE as SECTION_STYLE
from jobs.evaluation.section_html import section_html

CHAMPION = "champion"
"""Its name in charts and tables."""
MAX_GROUPS = 15
"""Largest groups shown per dimension; the others are collapsed."""

STYLE = """
:root{--ground:#fbfbf9;--card:#fff;--ink:#1d2327;--soft:#5d676e;--rule:#dfe3e4;--model:#0b7a75;--base:#a9b4ba;
--c1:#b5651d;--c2:#6b5ca5;--c3:#8a8f3c;--c4:#b0477a}
@media(prefers-color-scheme:dark){:root{--ground:#14181a;--card:#1c2225;--ink:#e8ecec;--soft:#9aa6ab;--rule:#333c40;
--model:#3dbdb5;--base:#5c6a70;--c1:#e0a060;--c2:#a99be0;--c3:#c3c872;--c4:#e08ab3}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:860px;margin:0 auto;padding:36px 20px 80px}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 4px}h2{font-size:1.15rem;margin:44px 0 8px}
h3{font-size:1rem;margin:22px 0 4px}
p{margin:6px 0 12px;max-width:68ch}.soft{color:var(--soft)}.small{font-size:.86rem}
.card{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:20px 24px;margin:20px 0}
.big{font-size:3rem;font-weight:650;line-height:1.1;font-variant-numeric:tabular-nums}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}.scroll{overflow-x:auto}
th,td{padding:6px 12px 6px 0;border-bottom:1px solid var(--rule);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}th{font-weight:600;font-size:.86rem;color:var(--soft)}
td.best{font-weight:650}td.wide{white-space:normal;overflow-wrap:anywhere}
code,pre{font:.86rem/1.5 ui-monospace,SFMono-Regular,Menlo,monospace}
pre{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:12px 14px;overflow-x:auto}
summary{cursor:pointer;font-weight:600;margin:10px 0}dt{font-weight:600}dd{margin:0 0 8px;max-width:68ch}
svg{width:100%;height:auto;display:block;margin:6px 0 10px}
svg text{font:13px system-ui,-apple-system,"Segoe UI",sans-serif;fill:var(--ink);font-variant-numeric:tabular-nums}
svg .note{fill:var(--soft);font-size:11.5px}
.bar.model{fill:var(--model)}.bar.baseline{fill:var(--base)}.bar.champion{fill:var(--c2)}.whisker{stroke:var(--ink);stroke-width:1.3;opacity:.75}
.mark{stroke:var(--c1);stroke-width:2.5}.mark.champion{stroke:var(--c2);stroke-dasharray:3 2}
.grid{stroke:var(--rule)}svg polyline{fill:none;stroke-width:2}
.line0{stroke:var(--model);stroke-width:3!important}.line1{stroke:var(--c1)}.line2{stroke:var(--c2)}
.line3{stroke:var(--c3)}.line4{stroke:var(--c4)}
svg .dot0,svg .name0{fill:var(--model)}svg .dot1,svg .name1{fill:var(--c1)}
svg .dot2,svg .name2{fill:var(--c2)}svg .dot3,svg .name3{fill:var(--c3)}svg .dot4,svg .name4{fill:var(--c4)}
.key{display:inline-block;width:3px;height:1em;vertical-align:-.15em;background:var(--c1);margin-right:5px}
.key.champion{width:0;background:none;border-left:3px dotted var(--c2)}
"""


def render(evaluation: Evaluation) -> str:
    """The HTML page: self-contained, with a dark mode, and the main result first."""
    body = "".join(
        part(evaluation)
        for part in (_head, _baseline_chart, _curves, _table, _slices, _learning, _sections, _data, _method)
    )
    title = f"{evaluation.family}: {evaluation.model} on the {evaluation.split} split"
    style = STYLE + SECTION_STYLE
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{style}</style></head>'
        f"<body><main>{body}</main></body></html>\n"
    )


def _head(evaluation: Evaluation) -> str:
    score = evaluation.metrics[evaluation.metric]
    best = evaluation.best_baseline
    sentences = [] if best is None else [_against_baseline(evaluation, best)]
    if evaluation.trained_on not in (None, evaluation.data_fingerprint):
        sentences.append("The model was trained on other prepared data, which may overlap with these examples.")
    if evaluation.champion is not None:
        sentences.append(_against_champion(evaluation, evaluation.champion))
    compared = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    counted = (
        f"; {evaluation.num_counted:,} of {evaluation.num_examples:,} held-out examples count for it"
        if evaluation.num_counted < evaluation.num_examples
        else ""
    )
    return (
        f"<h1>{escape(evaluation.family.capitalize())} on the {escape(evaluation.split)} split</h1>"
        f'<p class="soft">Model <code>{escape(evaluation.model)}</code>, evaluated {escape(evaluation.created)} on '
        f"{evaluation.num_examples:,} held-out examples.</p>"
        f'<div class="card"><div class="soft">{escape(evaluation.describe(evaluation.metric).title)}</div>'
        f'<div class="big">{score.value:.4f}</div>'
        f'<p class="soft">95 % confidence interval {score.low:.4f} to {score.high:.4f}{counted}</p>{compared}'
        f'<p class="small soft">{escape(evaluation.describe(evaluation.metric).meaning)}</p></div>'
    )


def _against_baseline(evaluation: Evaluation, best: str) -> str:
    name = best.replace("_", " ")
    other = evaluation.baselines[best][evaluation.metric].value
    return _against(evaluation, evaluation.comparisons[best], f"the best baseline, {name}", other)


def _against_champion(evaluation: Evaluation, champion: Champion) -> str:
    """The comparison with the champion; no comparison where its metric is undefined."""
    if champion.comparison is None:
        return f"The metric of the champion, {champion.model}, is undefined."
    value = champion.metrics[evaluation.metric].value
    sentence = _against(evaluation, champion.comparison, f"the champion, {champion.model}", value)
    if champion.data_fingerprint == evaluation.data_fingerprint:
        return sentence
    return f"{sentence} The champion was trained on other prepared data, which may overlap with these examples."


def _against(evaluation: Evaluation, comparison: Comparison, name: str, other: float) -> str:
    gain = comparison.difference if evaluation.mode == "max" else -comparison.difference
    relative = f", by {abs(gain) / abs(other):.0%}" if other else ""
    if comparison.low <= 0 <= comparison.high:
        return f"The difference from {name} ({other:.4f}), is not statistically significant."
    side = "better" if gain > 0 else "worse"
    return f"This is {side} than {name} ({other:.4f}){relative}; the difference is significant."


def _baseline_chart(evaluation: Evaluation) -> str:
    others = _others(evaluation)
    if not others:
        return ""
    rows = [_bar("this model", evaluation.metrics[evaluation.metric], "model")]
    for name, metrics in others.items():
        style = "champion" if name == CHAMPION else "baseline"
        rows.append(_bar(name, metrics[evaluation.metric], style))
    title = f"{evaluation.describe(evaluation.metric).title} of the model and the {_kinds(evaluation)}"
    return (
        f"<h2>Compared with {_kinds(evaluation)}</h2>{bars(rows, title=title, text='{:.4f}')}"
        '<p class="small soft">Thin lines are 95 % confidence intervals. All models saw the same examples.</p>'
    )


def _others(evaluation: Evaluation) -> dict[str, dict[str, Interval]]:
    """Metrics of the champion and of the baselines, by the names of the report."""
    champion = {} if evaluation.champion is None else {CHAMPION: evaluation.champion.metrics}
    return champion | {name.replace("_", " "): metrics for name, metrics in evaluation.baselines.items()}


def _kinds(evaluation: Evaluation) -> str:
    kinds = ["champion"] if evaluation.champion is not None else []
    return " and ".join([*kinds, "baselines"] if evaluation.baselines else kinds)


def _bar(label: str, score: Interval, style: str) -> Bar:
    return Bar(label, score.value, score.low, score.high, style=style)


def _curves(evaluation: Evaluation) -> str:
    curve = evaluation.describe(evaluation.metric).curve
    if curve is None:
        return ""
    name, axis, _ = curve
    all_metrics = {"this model": evaluation.metrics} | _others(evaluation)
    series = {
        label: {
            each[2]: score.value
            for metric, score in metrics.items()
            if (each := evaluation.describe(metric).curve) is not None
            and each[:2] == (name, axis)
            and not math.isnan(score.value)
        }
        for label, metrics in all_metrics.items()
    }
    if len(series["this model"]) < 2:
        return ""
    title = f"{name} by {axis}"
    return f"<h2>{escape(title)}</h2>{lines(series, title=title, axis=axis)}"


def _table(evaluation: Evaluation) -> str:
    others = _others(evaluation)
    head = ["Metric", "this model", "95 % confidence interval", "examples", *others]
    rows = []
    for metric, score in evaluation.metrics.items():
        values = [each.get(metric) for each in others.values()]
        counted = evaluation.counted.get(metric)
        cells = [
            _cell(evaluation.describe(metric).title),
            _cell(f"{score.value:.4f}", "best"),
            # Metrics that are not computed per example have no interval.
            _cell("" if score.low != score.low else f"{score.low:.4f} to {score.high:.4f}", "soft"),
            _cell("" if counted is None else f"{counted:,}"),
            *(_cell("" if other is None or math.isnan(other.value) else f"{other.value:.4f}") for other in values),
        ]
        rows.append("".join(cells))
    return (
        f"<h2>All metrics</h2>{_html_table(head, rows)}"
        '<p class="small soft">Examples are those that count for the metric; a metric of the whole split has none.</p>'
    )


def _slices(evaluation: Evaluation) -> str:
    if not evaluation.slices:
        return ""
    best = evaluation.best_baseline
    parts = []
    for dimension, scores in evaluation.slices.items():
        rows = [
            Bar(
                score.label,
                score.score.value,
                score.score.low,
                score.score.high,
                note=f"{score.num_counted:,} ex.",
                marks={
                    style: value
                    for style, value in (("mark", score.baseline), ("mark champion", score.champion))
                    if not math.isnan(value)
                },
            )
            for score in scores
        ]
        name = dimension.replace("_", " ")
        title = f"{evaluation.describe(evaluation.metric).title} by {name}"
        largest, smaller = rows[:MAX_GROUPS], rows[MAX_GROUPS:]
        parts.append(f"<h3>{escape(name.capitalize())}</h3>{bars(largest, title=title, text='{:.4f}', others=smaller)}")
        if smaller:
            chart = bars(smaller, title=f"{title}, smaller groups", text="{:.4f}", others=largest)
            parts.append(f"<details><summary>{len(smaller)} smaller groups</summary>{chart}</details>")
    key = "" if best is None else f'<span class="key"></span>{escape(best.replace("_", " "))}, the best baseline. '
    if evaluation.champion is not None:
        key += '<span class="key champion"></span>the champion. '
    return (
        f"<h2>Metrics by group</h2><p>{escape(evaluation.describe(evaluation.metric).title)} by slice of the data. "
        f"A wide interval means that the group is small.</p>{''.join(parts)}"
        f'<p class="small soft">{key}Groups are defined by the prepared data, so they are the same for every model.</p>'
    )


def _learning(evaluation: Evaluation) -> str:
    """The training loss and the validation metric by epoch; a model without epochs has none."""
    titles = {"train_loss": "Training loss"}
    parts = []
    for name, points in evaluation.learning_curve.items():
        if len(points) < 2:
            continue
        validated = evaluation.describe(name.removeprefix("val_")).title
        title = titles.get(name, f"{validated} on validation")
        chart = lines({title: dict(points)}, title=f"{title} by epoch", axis="epoch", from_zero=False)
        parts.append(f"<h3>{escape(title)}</h3>{chart}")
    if not parts:
        return ""
    return f"<h2>Learning curve</h2><p>By epoch, as tracked. The scales do not start at 0.</p>{''.join(parts)}"


def _sections(evaluation: Evaluation) -> str:
    return "".join(section_html(section) for section in evaluation.sections)


def _data(evaluation: Evaluation) -> str:
    return (
        "<h2>Data and settings</h2>"
        f"<details><summary>Data card</summary>{_pairs(_flat(evaluation.card))}</details>"
        f"<details><summary>Settings of the model</summary>{_pairs(_flat(evaluation.config))}</details>"
    )


def _method(evaluation: Evaluation) -> str:
    titles: dict[str, list[str]] = {}
    for name in evaluation.metrics:
        metric = evaluation.describe(name)
        titles.setdefault(metric.meaning, []).append(metric.title)
    terms = "".join(
        f"<dt>{escape('; '.join(named))}</dt><dd>{escape(meaning)}</dd>" for meaning, named in titles.items() if meaning
    )
    origin = {
        "model": evaluation.model,
        "sha256 of the manifest": evaluation.digest,
        "MLflow run": evaluation.run_id or "none",
        "data fingerprint": evaluation.data_fingerprint,
    }
    return (
        f"<h2>Methodology</h2><p>Every example of the {escape(evaluation.split)} split is evaluated once, against "
        "all possible answers. A metric is a ratio of two sums over examples, or is computed from all of them at "
        "once, so it does not depend on the number of workers. Confidence intervals are percentiles over up to "
        f"{evaluation.num_resamples:,} bootstrap resamples of the examples. They cover sampling error only, not "
        f"seasonality, new assortments or the variance between training runs. {escape(evaluation.caveat)}</p>"
        f"<dl>{terms}</dl><h2>Reproduce</h2><pre>{escape(evaluation.command)}</pre>{_pairs(origin)}"
    )


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    rows: dict[str, str] = {}
    for name, value in content.items():
        title = f"{prefix}{name}"
        if isinstance(value, Mapping):
            rows |= _flat(value, f"{title}, ")
        elif isinstance(value, list):
            rows[title] = ", ".join(str(part) for part in value[:20]) + (" ..." if len(value) > 20 else "")
        else:
            rows[title] = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return rows


def _pairs(rows: Mapping[str, str]) -> str:
    cells = [_cell(name.replace("_", " ")) + _cell(value, "wide") for name, value in rows.items()]
    return _html_table([], cells)


def _cell(text: str, style: str = "") -> str:
    return f'<td class="{style}">{escape(text)}</td>' if style else f"<td>{escape(text)}</td>"


def _html_table(head: Sequence[str], rows: Sequence[str]) -> str:
    cells = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    titles = f"<thead><tr>{cells}</tr></thead>" if head else ""
    return (
        f'<div class="scroll"><table>{titles}<tbody>{"".join(f"<tr>{row}</tr>" for row in rows)}</tbody></table></div>'
    )
