"""An audit as one HTML file: no network, no other file, under 10 MB."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
import html
from importlib.resources import files
import json
from typing import Any

import cv2
from ffs_anonymizer.review.audit import Audit, Finding, SampledFrame
from ffs_anonymizer.review.statistics import CONFIDENCE, statement
import numpy as np

LISTED_FINDINGS = 300
LISTED_WORDS = 200
_SAMPLE_BYTES = 6_000_000
_SAMPLE_WIDTHS_PX = (640, 480, 320, 240, 160)
_HISTOGRAM_BINS = 20
_PLOT_WH = (720, 120)
_SERIES = {'frames': '#9aa5b1', 'regions': '#2f6fb3', 'uncovered': '#c62828'}


def audit_page(
    audit: Audit,
    *,
    title: str,
    facts: Mapping[str, str],
    counts: Mapping[str, Mapping[str, int]],
    unseen: Mapping[str, str],
    look: str,
) -> str:
    """
    Return the page.

    :param title: what was audited.
    :param facts: what is to be known of the run, by name: files, versions, settings.
    :param counts: tables of counts by their headings, each by name.
    :param unseen: what was copied without being looked at, with its kind.
    :param look: in words, how the second look was done.
    """
    sample = _fitted(audit.sample)
    data = {
        'title': title,
        'confidence': CONFIDENCE,
        'population': audit.looked_at,
        'sample': [_sampled(frame) for frame in sample],
    }
    left = len(audit.findings)
    verdict = (
        f'{left} thing{"s" * (left != 1)} found uncovered'
        if left
        else 'the second look found nothing uncovered'
    )
    shown = audit.findings[:LISTED_FINDINGS]
    more = f'<p>{left - len(shown)} more are not shown.</p>' if left > len(shown) else ''
    fields = {
        'title': _text(title),
        'verdict': _text(verdict),
        'verdict_class': 'bad' if left or not audit.looked_at else 'good',
        'facts': _rows(facts),
        'look': _text(look),
        'machine': _text(
            f'something uncovered in {audit.missed_frames:,} of all {audit.looked_at:,} frames'
        ),
        'machine_thorough': _text(statement(audit.thorough_missed, audit.thorough_frames)),
        'still_found': f'{audit.still_found:,}',
        'findings': ''.join(map(_finding, shown)) + more or '<p>none</p>',
        'unreadable': _listed(audit.unreadable),
        'plots': ''.join(
            _plot(stream, minutes) for stream, minutes in sorted(audit.per_minute.items())
        ),
        'histogram': _histogram(audit.scores),
        'counts': ''.join(_counts(name, table) for name, table in counts.items()),
        'unseen': _listed([f'{name} ({kind})' for name, kind in unseen.items()]),
        'sample_note': ''
        if len(sample) == len(audit.sample)
        else f'{len(sample)} of {len(audit.sample)} fit into this page.',
        'data': json.dumps(data).replace('</', '<\\/'),
        'script': _asset('audit.js'),
        'style': _asset('audit.css'),
    }
    page = _asset('audit.html')
    for name, value in fields.items():
        page = page.replace(f'@{name}@', value)
    return page


def _asset(name: str) -> str:
    return (files('ffs_anonymizer.review') / name).read_text(encoding='utf-8')


def _text(value: object) -> str:
    return html.escape(str(value))


def _rows(facts: Mapping[str, object]) -> str:
    return ''.join(
        f'<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>' for name, value in facts.items()
    )


def _listed(words: Sequence[str]) -> str:
    if not words:
        return '<p>none</p>'
    items = ''.join(f'<li>{_text(word)}</li>' for word in words[:LISTED_WORDS])
    rest = len(words) - LISTED_WORDS
    return f'<ul>{items}</ul>' + (f'<p>and {rest} more</p>' if rest > 0 else '')


def _counts(name: str, table: Mapping[str, int]) -> str:
    rows = {key: f'{count:,}' for key, count in table.items()} or {'none': ''}
    return f'<h3>{_text(name)}</h3><table>{_rows(rows)}</table>'


def _image(jpeg: bytes) -> str:
    return f'data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}'


def _finding(finding: Finding) -> str:
    width, height = (
        round(finding.xyxy_px[2] - finding.xyxy_px[0]),
        round(finding.xyxy_px[3] - finding.xyxy_px[1]),
    )
    frames = f'{finding.frames} frame{"s" * (finding.frames != 1)}'
    return (
        f'<figure><img src="{_image(finding.crop_jpeg)}" alt="{finding.class_name}">'
        f'<figcaption><b>{finding.class_name} {finding.score:.2f}</b> '
        f'{_text(finding.why)}<br>{_text(finding.stream)}<br>'
        f'frame {finding.number}, {finding.stamp_ns / 1e9:.3f} s, {frames}, {width}x{height} px'
        '</figcaption></figure>'
    )


def _sampled(frame: SampledFrame) -> dict[str, Any]:
    return {
        'stream': frame.stream,
        'number': frame.number,
        'stamp_s': round(frame.stamp_ns / 1e9, 3),
        'image': _image(frame.jpeg),
    }


def _fitted(sample: Sequence[SampledFrame]) -> list[SampledFrame]:
    """Return the frames as large as they fit into the page together, and as many as fit."""
    for width in _SAMPLE_WIDTHS_PX:
        fitted = [_shrunk(frame, width) for frame in sample]
        if sum(len(frame.jpeg) for frame in fitted) <= _SAMPLE_BYTES:
            return fitted
    total = 0
    kept = []
    for frame in fitted:
        total += len(frame.jpeg)
        if total > _SAMPLE_BYTES:
            break
        kept.append(frame)
    return kept


def _shrunk(frame: SampledFrame, width: int) -> SampledFrame:
    image = cv2.imdecode(np.frombuffer(frame.jpeg, np.uint8), cv2.IMREAD_COLOR)
    if image.shape[1] <= width:
        return frame
    scale = width / image.shape[1]
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode('.jpg', small, [cv2.IMWRITE_JPEG_QUALITY, 65])
    return SampledFrame(frame.stream, frame.number, frame.stamp_ns, encoded.tobytes())


def _plot(stream: str, minutes: Mapping[int, Mapping[str, int]]) -> str:
    """Draw frames, regions and what is uncovered by minute, each over its own greatest value."""
    width, height = _PLOT_WH
    first, last = min(minutes), max(minutes)
    step = width / (last - first + 1)
    parts = [f'<h3>{_text(stream)}</h3><svg viewBox="0 0 {width} {height + 4}" role="img">']
    legend = []
    for name, colour in _SERIES.items():
        most = max(counts.get(name, 0) for counts in minutes.values())
        total = sum(counts.get(name, 0) for counts in minutes.values())
        legend.append(
            f'<span style="color:{colour}">{name}: {total:,}, at most {most:,} a minute</span>'
        )
        if not most:
            continue
        points = []
        for minute in range(first, last + 1):
            y = height - height * minutes.get(minute, {}).get(name, 0) / most + 2
            left = (minute - first) * step
            points += [f'{left:.1f},{y:.1f}', f'{left + step:.1f},{y:.1f}']
        parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" '
            f'points="{" ".join(points)}"/>'
        )
    return ''.join(parts) + f'</svg><p class="legend">{" ".join(legend)}</p>'


def _histogram(scores: Sequence[float]) -> str:
    counts, _ = np.histogram(scores, _HISTOGRAM_BINS, (0, 1))
    width, height = _PLOT_WH
    step = width / _HISTOGRAM_BINS
    most = max(int(counts.max()), 1)
    bars = ''.join(
        f'<rect x="{i * step + 1:.1f}" width="{step - 2:.1f}" y="{height * (1 - n / most):.1f}" '
        f'height="{height * n / most:.1f}" fill="#2f6fb3"><title>{i / _HISTOGRAM_BINS:.2f} to '
        f'{(i + 1) / _HISTOGRAM_BINS:.2f}: {n}</title></rect>'
        for i, n in enumerate(counts.tolist())
    )
    return f'<svg viewBox="0 0 {width} {height}" role="img">{bars}</svg>'
