"""The figures as tables in Markdown, and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ffs_anonymizer.benchmark.stages import STAGES
from ffs_anonymizer.errors import ModelError

Row = Mapping[str, Any]


def to_markdown(report: Mapping[str, Any]) -> str:
    """
    Return all figures of a run.

    :param report: what the recipe wrote as JSON.
    """
    parts = [
        *_machine(report['machine'], report['limits']),
        *_generators(report['generators'], report['limits']),
        *_stages(report['stages']),
        *_edges(report['edges']),
    ]
    parts += ['', '| not measured | why |', '|---|---|']
    parts += [f'| {row["what"]} | {row["why"]} |' for row in report['not_measured']]
    if not report['not_measured']:
        parts.append('| nothing | |')
    return '\n'.join(parts) + '\n'


def _machine(machine: Row, limits: Row) -> list[str]:
    versions = ', '.join(f'{name} {version}' for name, version in machine['versions'].items())
    clocks = ', '.join(f'{clock:g}' for clock in machine['clock_mhz']) or 'not readable'
    lines = [
        '| machine | |',
        '|---|---|',
        f'| processor | {machine["processor"]}, {machine["cores"]} cores |',
        f'| instructions | {", ".join(machine["instructions"])} |',
        f'| clocks, MHz | {clocks} |',
        f'| memory | {machine["memory_gib"]} GiB |',
        f'| load before | {machine["load_average"]} |',
        f'| versions | {versions} |',
        f'| FP32 products | {limits["fp32_gops"]} GOP/s |',
        f'| INT8 products | {limits["int8_gops"]} GOP/s |',
        f'| memory copied | {limits["copy_gb_s"]} GB/s read and written |',
    ]
    lines += [f'| power, {rail} | {watts:.1f} W |' for rail, watts in machine['power_w'].items()]
    return lines


def _generators(rows: Sequence[Row], limits: Row) -> list[str]:
    if not rows:
        return []
    lines = [
        '',
        '| generator | precision | runs in | batch | faces/s | ms a face | times the baseline '
        '| GOP/s | of the limit |',
        '|---|---|---|---:|---:|---:|---:|---:|---:|',
    ]
    for row in rows:
        ratio = '' if row['ratio_to_baseline'] is None else f'{row["ratio_to_baseline"]:.1f}'
        gops = '' if row['gops'] is None else f'{row["gops"]:.0f}'
        limit = limits['int8_gops' if row['precision'] == 'int8-cpu' else 'fp32_gops']
        share = '' if row['gops'] is None else f'{row["gops"] / limit:.0%}'
        device = row['device'].partition(' (')[0]
        lines.append(
            f'| {row["name"]} | {row["precision"]} | {device} | {row["batch"]} '
            f'| {row["faces_per_s"]:.1f} | {row["ms_per_face"]:.2f} | {ratio} | {gops} | {share} |'
        )
    return lines


def _stages(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    lines = [
        '',
        f'| size | encoding | faces | {" | ".join(f"{s} ms" for s in STAGES)} | total ms '
        '| frames/s | largest other stage |',
        '|---|---|---:|' + '---:|' * (len(STAGES) + 2) + '---|',
    ]
    for row in rows:
        cells = []
        for stage in STAGES:
            share = row['of_limit'].get(stage)
            cells.append(f'{row["ms"][stage]:.2f}' + (f' ({share:.0%})' if share else ''))
        other = f'{row["largest_other"]} {row["largest_other_share"]:.1%}'
        lines.append(
            f'| {row["size"]} | {row["encoding"]} | {row["faces"]} | {" | ".join(cells)} '
            f'| {row["ms"]["total"]:.1f} | {row["frames_per_s"]:.1f} | {other} |'
        )
    lines.append('')
    lines.append(
        'In brackets: share of what the machine could do, at its measured FP32 products and '
        'memory copies.'
    )
    return lines


def _edges(edges: Mapping[str, Row]) -> list[str]:
    lines = []
    if 'node' in edges:
        node = edges['node']
        lines += [
            '',
            f'Node, {node["size"]} at {node["rate_hz"]} Hz: {node["node_ms"]:.1f} ms a frame, the '
            f'bare recipe {node["recipe_ms"]:.1f} ms: {node["overhead"]:+.1%}. From publisher to '
            f'subscriber {node["publisher_to_subscriber_ms"]:.1f} ms.',
        ]
    if 'bag' in edges:
        bag = edges['bag']
        lines += [
            '',
            f'Bag of {bag["megabytes"]} MiB without images: copied and verified in '
            f'{bag["bag_ms"]:.0f} ms, as plain files in {bag["copy_ms"]:.0f} ms: '
            f'{bag["times_a_copy"]:.2f} times.',
        ]
    return lines


def draw(path: Path, rows: Sequence[Row]) -> None:
    """
    Draw faces a second over the batch, a line for each model and precision.

    :param rows: the generators.
    :raises ModelError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ModelError(
            '--plot: got no matplotlib; install it with `pip install matplotlib`'
        ) from error
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        point = (int(row['batch']), float(row['faces_per_s']))
        lines.setdefault(f'{row["name"]}, {row["precision"]}', []).append(point)
    figure = Figure(figsize=(9, 5.5), layout='constrained')
    axes = figure.subplots()
    for label, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker='o', label=label)
        axes.annotate(
            f'{points[-1][1]:.3g}', points[-1], textcoords='offset points', xytext=(6, -3)
        )
    batches = sorted({int(row['batch']) for row in rows})
    axes.set_xscale('log', base=2)
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.set_yscale('log')
    axes.yaxis.set_major_formatter('{x:g}')
    axes.margins(x=0.1)
    axes.set_xlabel('faces in one call')
    axes.set_ylabel('faces a second')
    axes.set_title('Generators')
    axes.grid(alpha=0.3, which='both')
    axes.legend(fontsize=8, loc='center left', bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=110, format='png')
