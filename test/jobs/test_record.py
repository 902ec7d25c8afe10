from datetime import datetime, timezone
import hashlib
import json
import os
import time

from ffs_anonymizer.errors import MediaError
from ffs_anonymizer.jobs.job import FileJob
from ffs_anonymizer.jobs.output import record_of
from ffs_anonymizer.jobs.record import (
    add_audit,
    described,
    Describing,
    differences,
    read_record,
    write_record,
)
from ffs_anonymizer.jobs.report import Report
from ffs_anonymizer.settings.runtime import Settings
import pytest
from support.program import ROOT

SCHEMA = ROOT / 'docs' / 'privacy_record.schema.json'
AUDIT = {
    'tool_version': '1',
    'ended': '2026-01-01T00:00:00+00:00',
    'look': 'as it is',
    'frames': 3,
    'missed_frames': 0,
    'findings': 0,
    'report_sha256': '0' * 64,
}


@pytest.fixture
def job(tmp_path):
    for name, text in {'in/a.txt': 'one', 'out/a.txt': 'two', 'out/sub/b.txt': 'three'}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return FileJob(source=tmp_path / 'in', target=tmp_path / 'out')


def written(job):
    report = Report(
        models={'face detector': 'x.onnx'}, warnings={'slow': 2}, undone=['b.jpg: bad']
    )
    report.stream('/cam', 'anonymize').regions.update(face=3)
    write_record(job, job.target, report, datetime.now(timezone.utc))
    return read_record(record_of(job.target))


def test_a_record_fits_its_schema(job):
    jsonschema = pytest.importorskip('jsonschema')
    schema = json.loads(SCHEMA.read_text('utf-8'))
    jsonschema.Draft202012Validator.check_schema(schema)
    record = written(job)
    jsonschema.validate(record, schema)
    add_audit(record_of(job.target), AUDIT)
    audited = read_record(record_of(job.target))
    assert audited == {**record, 'audit': AUDIT}
    jsonschema.validate(audited, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**record, 'output': {}}, schema)


def test_what_it_says(job):
    record = written(job)
    assert record['settings']['face.method'] == Settings().face.method
    assert record['streams']['/cam']['regions'] == {'face': 3}
    assert [file['name'] for file in record['output']['files']] == ['a.txt', 'sub/b.txt']
    # echo -n two | sha256sum
    assert record['output']['files'][0]['sha256'].startswith(
        '3fc4ccfe745870e2c0d99f71f30ff0656c8d'
    )
    assert record['undone'] == ['b.jpg: bad']
    other = Settings().updated({'face.threshold': 0.3})
    assert Settings().sha256 == record['settings_sha256'] != other.sha256


def test_a_source_that_cannot_be_read_costs_no_record(job):
    (job.source / 'b.txt').symlink_to('/proc/self/mem')
    report = Report()
    write_record(job, job.target, report, datetime.now(timezone.utc))
    record = read_record(record_of(job.target))
    assert [file['name'] for file in record['source']['files']] == ['a.txt']
    assert [file['name'] for file in record['output']['files']] == ['a.txt', 'sub/b.txt']
    (told,) = report.undone
    assert told.endswith('/in/b.txt: cannot be read, so the privacy record does not list it')
    assert record['undone'] == [told]


def test_an_output_that_is_as_recorded_has_no_differences(job):
    assert differences(written(job), job.target) == []


def test_each_difference_is_told(job):
    record = written(job)
    (job.target / 'a.txt').write_text('owt')
    (job.target / 'sub' / 'b.txt').rename(job.target / 'c.txt')
    told = differences(record, job.target)
    assert [line.partition(':')[0] for line in told] == ['a.txt', 'c.txt', 'sub/b.txt']
    assert 'expected 3fc4ccfe745870e2... and 3' in told[0]
    assert differences(record, job.target / 'nowhere') == [f'{job.target}/nowhere: is missing']


def test_a_file_may_be_renamed_and_not_be_changed(tmp_path):
    source, output = tmp_path / 'a.jpg', tmp_path / 'b.jpg'
    source.write_bytes(b'1')
    output.write_bytes(b'2')
    write_record(
        FileJob(source=source, target=output), output, Report(), datetime.now(timezone.utc)
    )
    record = read_record(record_of(output))
    renamed = output.rename(tmp_path / 'c.jpg')
    assert differences(record, renamed) == []
    renamed.write_bytes(b'3')
    assert len(differences(record, renamed)) == 1


def test_nothing_is_recorded_of_nothing_and_nothing_overwritten(job):
    write_record(job, job.target / 'none', Report(), datetime.now(timezone.utc))
    assert not record_of(job.target / 'none').exists()
    before = written(job)
    report = Report()
    write_record(job, job.target, report, datetime.now(timezone.utc))
    assert 'there is no privacy record' in report.undone[0]
    assert 'exists already' in report.undone[0]
    assert read_record(record_of(job.target)) == before


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{', 'is damaged'),
        ('[]', 'got another kind of file, expected a ffs_anonymizer privacy record'),
        (
            '{"format": "ffs_anonymizer privacy record", "version": 9}',
            'got version 9 .* expected 1',
        ),
        ('{"format": "ffs_anonymizer privacy record", "version": 1}', 'lists no files'),
        (
            '{"format": "ffs_anonymizer privacy record", "version": 1, "output": {"files": []}}',
            'is damaged: got no fit ended, settings, source, streams',
        ),
    ],
)
def test_what_is_no_record(tmp_path, text, message):
    path = tmp_path / 'x.privacy.json'
    path.write_text(text)
    with pytest.raises(MediaError, match=message):
        read_record(path)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'audit': {}}, 'got no fit audit'),
        ({'audit': 5}, 'got no fit audit'),
        ({'settings': 3}, 'got no fit settings'),
        ({'source': None, 'streams': []}, 'got no fit source, streams'),
        ({'output': {'files': [{'name': 5, 'size_bytes': 1, 'sha256': ''}]}}, 'lists no files'),
        ({'output': {'files': [None]}}, 'lists no files'),
    ],
)
def test_a_record_that_somebody_spoiled(job, changes, message):
    record = written(job)
    record_of(job.target).write_text(json.dumps({**record, **changes}))
    with pytest.raises(MediaError, match=f'is damaged: .*{message}'):
        read_record(record_of(job.target))


def test_a_file_is_hashed_while_it_grows(tmp_path):
    path, parts = tmp_path / 'out' / 'a.mcap', [os.urandom(3_000_000) for _ in range(3)]
    path.parent.mkdir()
    (path.parent / 'metadata.yaml').write_text('x')
    with Describing() as describing, path.open('wb', buffering=0) as file:
        tell_whole = describing.follow(path)
        about = describing.describe(path.parent)
        for part in parts:
            file.write(part)
            time.sleep(0.03)
            assert not about.done()
        tell_whole()
        assert about.result() == described(path.parent)
        files = {told['name']: told['sha256'] for told in about.result()['files']}
        assert files['a.mcap'] == hashlib.sha256(b''.join(parts)).hexdigest()
        # What is appended to what was whole counts.
        file.write(b'more')
        assert describing.describe(path.parent).result() == described(path.parent)


def test_a_file_that_does_not_become_whole_holds_nobody(tmp_path):
    path = tmp_path / 'a.mcap'
    path.write_bytes(b'half')
    with Describing() as describing:
        describing.follow(path)
        about = describing.describe(path)
    with pytest.raises(MediaError, match='nobody wants to know any more'):
        about.result()


def test_what_is_missing(tmp_path):
    with pytest.raises(MediaError, match='No such file'):
        read_record(tmp_path / 'x.privacy.json')
    with pytest.raises(MediaError, match='no such file or folder'):
        described(tmp_path / 'x')
