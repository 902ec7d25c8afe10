from pathlib import Path

import cv2
from ffs_anonymizer.datasets.pictures import list_annotated, pack_pictures
from ffs_anonymizer.errors import AnonymizerError, MediaError, ModelError, SettingsError
from ffs_anonymizer.training.checkpoint import load_checkpoint
from ffs_anonymizer.training.detector.losses import boxes_of, flatten, make_cells, overlap
from ffs_anonymizer.training.detector.network import make_detector
from ffs_anonymizer.training.detector.train import train
import pytest
from support.drawn_plates import detector_settings, draw_faces, draw_street, write_streets
import torch


@pytest.fixture(scope='module')
def whole(streets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(detector_settings(streets, tmp_path_factory.mktemp('whole')), quiet=True)


def test_a_run_leaves_checkpoint_picture_scalars_and_settings(whole: Path) -> None:
    checkpoint = load_checkpoint(whole, 'detector')
    assert (checkpoint['step'], checkpoint['images']) == (4, 8)
    assert cv2.imread(str(whole.parent / 'grids' / '0000004.png')).shape == (288, 384, 3)
    assert list((whole.parent / 'scalars').iterdir())
    assert 'network: plates-tiny' in (whole.parent / 'settings.yaml').read_text()


def test_a_run_that_was_stopped_goes_on_to_the_bit(
    whole: Path, streets: Path, tmp_path: Path
) -> None:
    changes = {'decay_from': 1.0}
    train(detector_settings(streets, tmp_path, steps=2, **changes), quiet=True)
    resumed = train(detector_settings(streets, tmp_path, steps=4, **changes), quiet=True)
    alone = train(detector_settings(streets, tmp_path / 'alone', steps=4, **changes), quiet=True)
    for kind in ('detector', 'ema'):
        ours = load_checkpoint(resumed, 'detector')[kind]
        theirs = load_checkpoint(alone, 'detector')[kind]
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_as_many_workers_as_one_likes_draw_the_same_run(
    whole: Path, streets: Path, tmp_path: Path
) -> None:
    drawn = train(detector_settings(streets, tmp_path, workers=3), quiet=True)
    ours, theirs = (load_checkpoint(path, 'detector')['detector'] for path in (drawn, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_ends_by_time_with_its_rates_fallen(streets: Path, tmp_path: Path) -> None:
    changes = {'steps': 100_000, 'minutes': 0.03, 'log_every': 1000, 'save_every': 1000}
    checkpoint = load_checkpoint(
        train(detector_settings(streets, tmp_path, **changes), quiet=True), 'detector'
    )
    assert 1.8 <= checkpoint['seconds'] < 18
    assert 0 < checkpoint['step'] < 100_000
    assert checkpoint['detector_steps']['param_groups'][0]['lr'] < 2e-3
    # What is over goes on with nothing.
    again = train(detector_settings(streets, tmp_path, **changes), quiet=True)
    assert load_checkpoint(again, 'detector')['step'] == checkpoint['step']


def test_half_of_the_precision_learns_too(whole: Path, streets: Path, tmp_path: Path) -> None:
    halved = train(detector_settings(streets, tmp_path, half=True), quiet=True)
    ours, theirs = (load_checkpoint(path, 'detector')['ema'] for path in (halved, whole))
    assert all(torch.isfinite(value).all() for value in ours.values())
    assert not all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_new_run_may_start_from_weights(whole: Path, streets: Path, tmp_path: Path) -> None:
    changes = {'init_from': str(whole), 'rate': 0.0, 'steps': 1, 'weight_decay': 0.0}
    tuned = train(detector_settings(streets, tmp_path, **changes), quiet=True)
    before = load_checkpoint(whole, 'detector')['ema']
    after = load_checkpoint(tuned, 'detector')['detector']
    weights = [name for name in before if name.endswith('0.weight') or 'bias' in name]
    assert all(torch.equal(before[name], after[name]) for name in weights)


def test_a_detector_learns_what_a_plate_is(streets: Path, tmp_path: Path) -> None:
    chosen = detector_settings(
        streets, tmp_path, steps=150, batch=4, rate=1e-2, warm_steps=5, ema_images=40
    )
    checkpoint = load_checkpoint(train(chosen, quiet=True), 'detector')
    detector = make_detector(chosen.network).eval()
    detector.load_state_dict(checkpoint['ema'])
    image, boxes = draw_street(202)  # two plates
    seen = torch.from_numpy(image[:224, :320]).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        flat = flatten(detector(seen))[0]
    found = boxes_of(flat[:, 1:], make_cells(224, 320, torch.device('cpu')))
    iou, _ = overlap(found[int(flat[:, 0].argmax())], torch.tensor(boxes).float())
    assert float(iou.max()) > 0.4


def test_a_detector_of_plates_learns_faces_beside_them(
    whole: Path, streets_with_heads: Path, tmp_path: Path
) -> None:
    changes = {'init_from': str(whole), 'rate': 0.0, 'steps': 1, 'weight_decay': 0.0}
    both = {'classes': 'face, plate', 'heads_share': 1.0}
    tuned = train(detector_settings(streets_with_heads, tmp_path, **changes, **both), quiet=True)
    before, after = (load_checkpoint(path, 'detector')['ema'] for path in (whole, tuned))
    for number in range(3):
        weight = f'heads.{number}.1.weight'
        assert after[weight].shape[0] == 6
        torch.testing.assert_close(after[weight][1:], before[weight])
    settings = detector_settings(
        streets_with_heads,
        tmp_path / 'both',
        **both,
        steps=400,
        batch=4,
        rate=1e-2,
        warm_steps=5,
        ema_images=40,
    )
    detector = make_detector(settings.network, 2).eval()
    detector.load_state_dict(load_checkpoint(train(settings, quiet=True), 'detector')['ema'])
    image, plates = draw_street(202)
    image = image[:224, :320].copy()
    faces = draw_faces()
    for number, x in enumerate((40, 140, 240)):
        image[170:218, x : x + 48] = faces.photos_bgr[3 * number]
    seen = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        flat = flatten(detector(seen))[0]
    found = boxes_of(flat[:, 2:], make_cells(224, 320, torch.device('cpu')))
    face = torch.tensor([[x + 14, 182, x + 34, 206] for x in (40, 140, 240)]).float()
    for k, wanted in ((0, face), (1, torch.tensor(plates).float())):
        iou, _ = overlap(found[int(flat[:, k].argmax())], wanted)
        assert float(iou.max()) > 0.4


@pytest.mark.parametrize(
    ('changes', 'error', 'text'),
    [
        ({'classes': 'plate, lorry'}, SettingsError, "got 'plate, lorry', expected plate, face"),
        ({'classes': 'face'}, MediaError, 'got no face to train on'),
        ({'data': ''}, SettingsError, 'expected a folder each'),
        ({'size_px': 100}, SettingsError, 'got 100, expected a multiple of 32'),
        ({'network': 'plates-huge'}, ModelError, "got 'plates-huge', expected one of plates"),
        ({'data': '/none'}, MediaError, 'not a data set for detectors'),
        ({'device': 'tpu'}, SettingsError, "got 'tpu', expected auto, cpu or cuda"),
    ],
)
def test_unfit_settings_are_refused(
    changes: dict[str, object],
    error: type[AnonymizerError],
    text: str,
    streets: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=text):
        train(detector_settings(streets, tmp_path, **changes), quiet=True)


def test_faces_are_learnt_from_heads_only_where_heads_are_put_in(
    streets_with_heads: Path, tmp_path: Path
) -> None:
    settings = detector_settings(streets_with_heads, tmp_path, classes='face', heads_share=0.0)
    with pytest.raises(MediaError, match='got no face to train on, .* set heads_share over 0$'):
        train(settings, quiet=True)


def test_photos_must_tell_what_is_no_face(tmp_path: Path) -> None:
    photos = list_annotated(tmp_path / 'photos', [write_streets(tmp_path / 'photos')])
    pack_pictures(photos, tmp_path / 'packed', faces=draw_faces(), drawn=0)
    settings = detector_settings(tmp_path / 'packed', tmp_path, classes='plate, face')
    with pytest.raises(MediaError, match='got no photo to train on that was looked through for a'):
        train(settings, quiet=True)


def test_other_settings_do_not_go_on_with_a_run(whole: Path, streets: Path) -> None:
    with pytest.raises(SettingsError, match=r'rate: got 0\.1, was 0\.002'):
        train(detector_settings(streets, whole.parent, rate=0.1, steps=9), quiet=True)


def test_a_generator_s_checkpoint_is_no_detector_s(tmp_path: Path) -> None:
    torch.save(
        {'settings': {}, 'step': 1, 'images': 1, 'ema': {}, 'generator': {}}, tmp_path / 'g'
    )
    with pytest.raises(ModelError, match='not a checkpoint of ffs_anonymizer of a detector'):
        load_checkpoint(tmp_path / 'g', 'detector')
