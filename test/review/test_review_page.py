"""The review page in a real browser: a missed face is added, a false one deleted, run again."""

import json
import shutil
import signal
import subprocess
import sys

import cv2
from ffs_anonymizer.cli.program import main
from ffs_anonymizer.jobs.output import record_of
from ffs_anonymizer.jobs.record import read_record
from ffs_anonymizer.regions.detections_file import DetectionsReader
from ffs_anonymizer.review.recording import open_recording
from ffs_anonymizer.settings.parameter_file import load
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from support.bags import raw_cdr, Record, SPECS, STEP, T0, write_bag
from support.program import ROOT

FRAMES = 6
PLACES = ((10, 10), (200, 150), (390, 20))
FALSE = ([20, 200, 90, 280], [220, 10, 280, 90])
BROWSER = shutil.which('chromium') or shutil.which('google-chrome')
DRIVER = shutil.which('chromedriver')

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER),
    reason='needs chromium and chromedriver (apt install chromium-driver)',
)


@pytest.fixture(scope='module')
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ('--headless=new', '--no-sandbox', '--disable-gpu', '--window-size=1400,900'):
        options.add_argument(argument)
    options.set_capability('goog:loggingPrefs', {'performance': 'ALL', 'browser': 'ALL'})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope='module')
def work(tmp_path_factory):
    """Return a folder with a bag of three still faces, and a list of two other places."""
    astronaut = pytest.importorskip('skimage.data').astronaut()
    face = cv2.resize(astronaut[:216, 80:368, ::-1], (160, 120), interpolation=cv2.INTER_AREA)
    frame = np.full((300, 560, 3), 90, np.uint8)
    for x, y in PLACES:
        frame[y : y + 120, x : x + 160] = face
    folder = tmp_path_factory.mktemp('review')
    records = [
        Record('/cam/image', T0 + i * STEP, T0, i, raw_cdr(frame, stamp_ns=T0 + i * STEP))
        for i in range(FRAMES)
    ]
    write_bag(folder / 'in', records, specs=SPECS[:1], splits=1)
    assert bag(folder, 'found', '--write-detections', folder / 'found.jsonl') == 0
    head, *lines, end = map(json.loads, (folder / 'found.jsonl').read_text().splitlines())
    assert all(len(line['regions']) == 3 for line in lines)
    for line in lines:
        line['regions'] = [
            {'class': 'face', 'xyxy_px': box, 'score': 0.5, 'track_id': 90 + i, 'detected': True}
            for i, box in enumerate(FALSE)
        ]
    text = ''.join(json.dumps(line) + '\n' for line in (head, *lines, end))
    (folder / 'list.jsonl').write_text(text)
    assert bag(folder, 'out', '--detections', folder / 'list.jsonl') == 0
    return folder


def bag(folder, output, *words):
    faces_alone = ('--set', 'detector.plate_model_path=none')
    words = ('--method', 'face=solid', *faces_alone, *words)
    command = ['bag', '-i', folder / 'in', '-o', folder / output, *words]
    return main([*map(str, command)])


def audit(folder, output, detections):
    files = ('-i', folder / 'in', '-o', folder / output, '--report', folder / f'{output}.html')
    return main([*map(str, ('audit', *files, '--detections', folder / detections))])


@pytest.fixture
def page(work, browser):
    """Return the review page in the browser, with nothing saved yet."""
    (work / 'list.corrected.jsonl').unlink(missing_ok=True)
    words = ('-i', work / 'in', '-o', work / 'out', '--detections', work / 'list.jsonl')
    command = [sys.executable, '-m', 'ffs_anonymizer', 'review', *map(str, words), '--no-browser']
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            browser.get(line.removeprefix('review: ').strip())
            wait(browser, lambda: 'frame 0 of' in text(browser, 'position'))
            yield browser
            browser.execute_script('window.onbeforeunload = null')
            browser.get('about:blank')
        finally:
            # Whoever starts the tests may have had SIGINT ignored.
            process.terminate()
            assert process.wait(20) == 128 + signal.SIGTERM


def wait(browser, condition):
    WebDriverWait(browser, 60, 0.1).until(lambda _: condition())


def text(browser, name):
    return browser.find_element(By.ID, name).text


def press(browser, *keys):
    browser.find_element(By.ID, 'stage').send_keys(*keys)


def go(browser, key, number):
    press(browser, key)
    wait(browser, lambda: f'frame {number} of' in text(browser, 'position'))


def draw(browser, x0, y0, x1, y1):
    canvas = browser.find_element(By.ID, 'canvas')
    scale = canvas.size['width'] / int(canvas.get_attribute('width'))
    centre = canvas.size['width'] / 2, canvas.size['height'] / 2
    start, end = [(x * scale - centre[0], y * scale - centre[1]) for x, y in ((x0, y0), (x1, y1))]
    actions = ActionChains(browser)
    actions.move_to_element_with_offset(canvas, *map(round, start)).click_and_hold()
    actions.move_to_element_with_offset(canvas, *map(round, end)).release().perform()


def boxes(browser):
    return [b.text for b in browser.find_elements(By.CSS_SELECTOR, '#boxes button')]


def test_what_was_missed_is_found_and_put_right(work, page):
    assert audit(work, 'out', 'list.jsonl') == 3
    audited = read_record(record_of(work / 'out'))['audit']
    assert (audited['findings'], audited['missed_frames']) == (3, FRAMES)

    for x, y in PLACES:
        go(page, Keys.HOME, 0)
        draw(page, x + 40, y + 2, x + 120, y + 100)
        press(page, 'i')
        go(page, Keys.END, FRAMES - 1)
        press(page, 'o')
    for track in ('face 90', 'face 91'):
        page.find_element(By.XPATH, f'//ul[@id="boxes"]//button[contains(., "{track} ")]').click()
        page.find_element(By.ID, 'remove-track').click()
    assert len(boxes(page)) == 3
    page.find_element(By.ID, 'run').click()
    wait(page, lambda: 'written: ' in text(page, 'message'))

    assert audit(work, 'out_2', 'list.corrected.jsonl') == 0
    assert read_record(record_of(work / 'out_2'))['audit']['findings'] == 0
    original, output = (open_recording(work / name, Settings()) for name in ('in', 'out_2'))
    for number in range(FRAMES):
        before, after = (
            recording.frame('/cam/image', number).decode().image_bgr
            for recording in (original, output)
        )
        for x0, y0, x1, y1 in FALSE:
            assert np.array_equal(before[y0:y1, x0:x1], after[y0:y1, x0:x1])
        for x, y in PLACES:
            assert not after[y + 30 : y + 80, x + 60 : x + 100].any()


def test_a_keyboard_is_enough_and_everything_can_be_undone(work, page):
    press(page, 'n')
    assert len(boxes(page)) == 3
    before = boxes(page)
    press(page, Keys.ALT, Keys.ARROW_RIGHT)
    page.switch_to.active_element.send_keys(Keys.NULL)
    assert boxes(page) != before
    press(page, Keys.DELETE)
    assert len(boxes(page)) == 2
    for key in 'zzz':
        press(page, Keys.CONTROL, key)
        page.switch_to.active_element.send_keys(Keys.NULL)
    assert len(boxes(page)) == 2
    assert not page.find_element(By.ID, 'undo').is_enabled()
    press(page, Keys.CONTROL, 'y')
    assert len(boxes(page)) == 3
    press(page, Keys.CONTROL, 's')
    wait(page, lambda: '1 frames changed, saved to' in text(page, 'message'))
    with DetectionsReader(work / 'list.corrected.jsonl') as saved:
        counts = [len(found.regions) for _, found in saved.all_of('/cam/image')]
    assert counts == [3, *[2] * (FRAMES - 1)]
    press(page, Keys.ALT + Keys.NULL)


def test_settings_are_shown_on_a_frame_and_written(work, page):
    page.find_element(By.NAME, 'face.threshold').clear()
    page.find_element(By.NAME, 'face.threshold').send_keys('0.5')
    page.find_element(By.ID, 'preview').click()
    wait(page, lambda: '3 regions replaced' in text(page, 'message'))
    page.find_element(By.ID, 'write-settings').click()
    wait(page, lambda: 'written to' in text(page, 'message'))
    assert load(work / 'list.param.yaml').face.threshold == 0.5


def test_nothing_leaves_this_machine(page):
    origin = page.current_url.rsplit('/', 2)[0]
    asked = [
        message['params']['request']['url']
        for entry in page.get_log('performance')
        if (message := json.loads(entry['message'])['message'])['method']
        == 'Network.requestWillBeSent'
    ]
    of_page = [url for url in asked if not url.startswith(('about:', 'blob:', 'data:'))]
    assert len(of_page) > 5
    assert all(url.startswith('http://127.0.0.1:') for url in of_page)
    assert any(url.startswith(origin) for url in of_page)
    assert [e for e in page.get_log('browser') if e['level'] == 'SEVERE'] == []
