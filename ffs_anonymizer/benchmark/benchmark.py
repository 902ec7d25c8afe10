"""The measurements: measure one thing after the other, print the tables, write the figures."""

from __future__ import annotations

import argparse
from collections.abc import Callable
import datetime
from functools import partial
import json
import os
from pathlib import Path
import sys
import tempfile
from typing import Any

from ffs_anonymizer.benchmark import edges, generators, machine, report, stages
from ffs_anonymizer.errors import AnonymizerError, MediaError, SettingsError
from ffs_anonymizer.models.roster import check, roster
from ffs_anonymizer.settings.runtime import Settings

FORMAT = 1
_COUNTED_SIDE = 320


class Benchmark:
    """
    Measure what the options ask for.

    :raises SettingsError: an option is out of range.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        try:
            self.batches = [int(word) for word in args.batches.split(',')]
        except ValueError:
            self.batches = []
        if not self.batches or min(self.batches) < 1:
            raise SettingsError(f'--batches: got {args.batches!r}, expected such as 1,4,8')
        self.not_measured: list[dict[str, str]] = []

    def run(self) -> int:
        """Do all of it and return the exit code."""
        args = self.args
        for path in (args.json, args.plot):
            if path is not None and not path.absolute().parent.is_dir():
                raise MediaError(f'{path}: got no folder {path.parent} to write into')
        threads = args.threads or len(os.sched_getaffinity(0))
        rounds = 3 if args.quick else 7

        self._say('the machine')
        result: dict[str, Any] = {
            'format': FORMAT,
            'date': datetime.date.today().isoformat(),
            'quick': bool(args.quick),
            'threads': threads,
            'machine': {**machine.describe(), 'power_w': machine.power_w()},
            'limits': machine.measure_limits(threads, rounds=rounds),
            'generators': [],
            'stages': [],
            'edges': {},
            'not_measured': self.not_measured,
        }
        if not result['machine']['power_w']:
            self._left_out('power', 'no ina3221 sensor that can be read (only Jetson has one)')
        with tempfile.TemporaryDirectory() as folder:
            entries = self._entries(Path(folder))
            if entries or args.baseline:
                result['generators'] = generators.measure(
                    entries,
                    self.batches[:2] if args.quick else self.batches,
                    device=args.device,
                    threads=threads,
                    with_baseline=args.baseline is not None,
                    rounds=rounds if args.quick else 2 * rounds,
                    budget_s=1.0 if args.quick else 6.0,
                    say=self._say,
                    refused=self._left_out,
                )
            if args.baseline is None:
                self._left_out('DeepPrivacy2 beside it', 'not asked for: --baseline deep-privacy2')
            if args.generator:
                self._left_out('stages, node and bag', 'not asked for: --generator')
            else:
                self._measure_recipe(result, entries, threads, rounds)

        # Whatever else the machine did, its limit is the better of two measurements.
        again = machine.measure_limits(threads, rounds=rounds)
        result['limits'] = {k: max(v, again[k]) for k, v in result['limits'].items()}
        self._say('')
        print(report.to_markdown(result), end='')
        if args.json is not None:
            text = json.dumps(result, indent=2, ensure_ascii=False) + '\n'
            args.json.write_text(text, encoding='utf-8')
        if args.plot is not None:
            report.draw(args.plot, result['generators'])
        return 0

    def _entries(self, folder: Path) -> list[generators.Entry]:
        named = [generators.named(path) for path in self.args.model]
        if self.args.only_named:
            self._left_out('other generators', 'not asked for: --only-named')
            return named
        found = generators.shipped()
        if not found:
            self._left_out('shipped generators', 'this version has no weights of its own')
        found += named
        have = {entry.path.stem.partition('-int8')[0] for entry in found}
        missing = [name for name in generators.RANDOM if name not in have]
        if not missing:
            return found
        self._say('networks with random weights')
        try:
            found += generators.random_ones(folder, missing)
        except AnonymizerError as error:
            self._left_out(f'{", ".join(missing)} with random weights', str(error))
        return found

    def _measure_recipe(
        self,
        result: dict[str, Any],
        entries: list[generators.Entry],
        threads: int,
        rounds: int,
    ) -> None:
        args = self.args
        values: dict[str, object] = {'device': args.device, 'threads': threads}
        chosen = _fastest_small(entries, result['generators'])
        if chosen is None:
            self._left_out('generate', 'there is no generator; faces are blurred')
        else:
            values.update({'face.method': 'generate', 'generator.model_path': str(chosen.path)})
        settings = Settings().updated(values)
        result['recipe'] = {
            'method': settings.face.method,
            'generator': None if chosen is None else f'{chosen.name}, {chosen.precision}',
        }
        try:
            path = roster(settings)[0].path
            check(settings)
        except AnonymizerError as error:
            self._left_out('stages', str(error))
        else:
            result['recipe']['detector'] = path.name
            face = generators.count_macs(chosen.path, 128) if chosen is not None else 0.0
            pixel = generators.count_macs(path, _COUNTED_SIDE) / _COUNTED_SIDE**2
            result['stages'] = stages.measure(
                settings,
                sizes=('720p',) if args.quick else stages.USUAL,
                faces=(0, 4) if args.quick else (0, 1, 4, 8, 32),
                encodings=('bgr8',) if args.quick else stages.ENCODINGS,
                photos=args.photos,
                rounds=rounds,
                limits=result['limits'],
                macs=(pixel, face),
                say=self._say,
            )
        self._try(result, 'bag', lambda: edges.measure_bag(64, rounds=rounds))
        if args.quick:
            self._left_out('node', 'left out by --quick')
            return
        self._try(result, 'node', partial(edges.measure_node, (1920, 1080), 20.0))

    def _try(
        self, result: dict[str, Any], name: str, measure: Callable[[], dict[str, object]]
    ) -> None:
        self._say(name)
        try:
            result['edges'][name] = measure()
        except AnonymizerError as error:
            self._left_out(name, str(error))

    def _left_out(self, what: str, why: str) -> None:
        # A library may have pages to say; its first line is the reason.
        self.not_measured.append({'what': what, 'why': why.splitlines()[0]})

    def _say(self, what: str) -> None:
        if not self.args.disable_progress_output and sys.stderr.isatty():
            print(f'\r\033[Kmeasuring: {what}' if what else '\r\033[K', end='', file=sys.stderr)


def _fastest_small(
    entries: list[generators.Entry], rows: list[dict[str, Any]]
) -> generators.Entry | None:
    """Return the model with most faces a second at the smallest batch."""
    speeds: dict[tuple[str, str], float] = {}
    for row in rows:
        speeds.setdefault((row['name'], row['precision']), float(row['faces_per_s']))
    return max(entries, key=lambda e: speeds.get((e.name, e.precision), 0.0), default=None)
