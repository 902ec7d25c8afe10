"""Pictures of plates that nobody has, and of what is taken for plates: signs, lettering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import cv2
from ffs_anonymizer.errors import MediaError
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import ImageFont

T = TypeVar('T')
HEIGHT_PX = 120
FOLDER = Path('/usr/share/fonts')
# Fonts by script: Debian's package, files below FOLDER.
FONTS = {
    'plate': ('fonts-roadgeek', [f'truetype/roadgeek/RG2014{k}.ttf' for k in 'BCDE']),
    'narrow': ('fonts-opendin', ['truetype/opendin/OSP-DIN.ttf']),
    'plain': ('fonts-dejavu-core', ['truetype/dejavu/DejaVuSans-Bold.ttf']),
    'serif': ('fonts-dejavu-core', ['truetype/dejavu/DejaVuSerif-Bold.ttf']),
    'arabic': ('fonts-hosny-amiri', ['opentype/fonts-hosny-amiri/Amiri-Bold.ttf']),
    'cjk': ('fonts-noto-cjk', ['opentype/noto/NotoSansCJK-Bold.ttc']),
    'thai': ('fonts-thai-tlwg', [f'truetype/tlwg/{k}-Bold.ttf' for k in ('Loma', 'Garuda')]),
    'hangul': ('fonts-nanum', ['truetype/nanum/NanumGothicBold.ttf']),
}
LATIN = ('plate', 'plate', 'narrow', 'plain')
# What each letter of a pattern is drawn from; all other characters stand for themselves.
ALPHABETS = {
    'l': 'ABCDEFGHJKLMNPRSTUVWXYZ',
    'd': '0123456789',
    'a': 'ابحدرسصطعفقلمنهوى',
    'n': '٠١٢٣٤٥٦٧٨٩',
    'c': '京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼',
    'h': '가나다라마거너더러머고노도로모구누두루무바사아자하허호',
    't': 'กขคฆงจฉชฌญฎฐณตถธนบผพภมยรลวศษสหฬอฮ',
    'j': 'あいうえかきくけこさすせそたちつてとなにぬねのはひふほまみむめもやゆよらりるれろ',
    'k': '品川横浜名古屋大阪神戸福岡札幌仙台千葉埼玉京都練馬足立多摩',
}
BLOCKS = (('arabic', 0x600, 0x6FF), ('thai', 0xE00, 0xE7F), ('hangul', 0xAC00, 0xD7AF))
COLOURS = {  # BGR
    'white': (240, 244, 244),
    'grey': (200, 205, 205),
    'cream': (190, 228, 240),
    'yellow': (40, 200, 250),
    'orange': (40, 140, 240),
    'black': (22, 20, 20),
    'blue': (150, 60, 20),
    'navy': (90, 30, 20),
    'sky': (235, 205, 165),
    'green': (70, 110, 20),
    'mint': (150, 205, 130),
    'red': (35, 30, 175),
    'maroon': (45, 25, 95),
}


@dataclass(frozen=True)
class PlateFormat:
    """
    Say how the plates of one kind look.

    :param name: country and kind.
    :param aspect: width over height.
    :param texts: patterns of ALPHABETS' letters, `/` between lines, `w` is a word.
    :param paper: colours of the ground, one is drawn.
    :param ink: colours of the text, one is drawn.
    :param mark: what else is on it: band, bands, top, foot, grid, split, strip, emblem.
    :param weights: heights of the lines to each other.
    """

    name: str
    aspect: float
    texts: tuple[str, ...]
    paper: tuple[str, ...] = ('white',)
    ink: tuple[str, ...] = ('black',)
    mark: str = ''
    weights: tuple[float, ...] = (1.0, 1.0, 1.0)


FORMATS = (
    PlateFormat('DE', 4.7, ('ll ll ddd', 'l ll dddd', 'lll l dd', 'll ld E'), mark='band'),
    PlateFormat('FR', 4.7, ('ll-ddd-ll',), mark='bands'),
    PlateFormat('IT', 4.7, ('ll dddll',), mark='bands'),
    PlateFormat('ES', 4.7, ('dddd lll',), mark='band'),
    PlateFormat('RO', 4.7, ('ll dd lll', 'B ddd lll'), mark='band'),
    PlateFormat('PL', 4.7, ('lll ddddd', 'll ddddl'), mark='band'),
    PlateFormat('SE', 4.7, ('lll ddl', 'lll ddd'), mark='band'),
    PlateFormat('BE', 4.7, ('d-lll-ddd',), ink=('maroon', 'red'), mark='band'),
    PlateFormat('CH', 4.4, ('ll dddddd', 'll ddddd'), mark='emblem'),
    PlateFormat('UK front', 4.7, ('lldd lll',)),
    PlateFormat('UK rear', 4.7, ('lldd lll',), ('yellow',)),
    PlateFormat('NL', 4.7, ('ll-ddd-l', 'd-lll-dd', 'll-ll-dd'), ('yellow',), mark='band'),
    PlateFormat('DK', 4.6, ('ll dd ddd',), mark='strip'),
    PlateFormat('RU', 4.6, ('lddd ll|dd', 'lddd ll|ddd'), mark='split'),
    PlateFormat('UA', 4.6, ('ll dddd ll',), mark='band'),
    PlateFormat('TR', 4.6, ('dd ll ddd', 'dd lll dd', 'dd l dddd'), mark='band'),
    PlateFormat('IL', 4.6, ('dd-ddd-dd', 'ddd-dd-ddd'), ('yellow',), mark='band'),
    PlateFormat(
        'US',
        2.0,
        ('lll dddd', 'dlll ddd', 'lll-ddd', 'llddlll', 'ddd llld'),
        ('white', 'sky', 'cream', 'mint', 'navy', 'yellow', 'grey', 'orange'),
        ('black', 'blue', 'navy', 'green', 'red', 'maroon', 'white'),
        'topfoot',
    ),
    PlateFormat(
        'CA', 2.0, ('llll ddd', 'lll ddd', 'ddd lll'), ink=('blue', 'navy'), mark='topfoot'
    ),
    PlateFormat(
        'MX', 2.0, ('lll-dd-dd', 'lll-ddd-l'), ('white', 'mint'), ('black', 'green'), 'topfoot'
    ),
    PlateFormat('BR old', 3.1, ('lll dddd',), ('grey',), mark='top'),
    PlateFormat('Mercosur', 3.1, ('lll dldd', 'll ddd ll'), mark='bar'),
    PlateFormat('AR old', 2.3, ('lll ddd',), ('black',), ('white',), 'top'),
    PlateFormat('CO', 2.1, ('lll-ddd',), ('yellow',), mark='foot'),
    PlateFormat(
        'AU',
        2.8,
        ('lll-ddd', 'ddd-lll', 'lld-ddl'),
        ('white', 'yellow'),
        ('black', 'blue'),
        'foot',
    ),
    PlateFormat('ZA', 4.3, ('ll dd ll ll', 'lll ddd ll'), ('white', 'yellow'), ('black', 'blue')),
    PlateFormat('NG', 3.0, ('lll-ddd ll',), ink=('blue',), mark='topfoot'),
    PlateFormat('KE', 4.6, ('lll dddl',), ('white', 'yellow')),
    PlateFormat(
        'IN', 4.5, ('ll dd ll dddd', 'll dd l dddd'), ('white', 'yellow', 'green'), mark='strip'
    ),
    PlateFormat('IN two lines', 1.7, ('ll dd ll/dddd', 'll dd/ll dddd'), ('white', 'yellow')),
    PlateFormat('PK', 2.2, ('lll-ddd', 'll-dddd'), ('white', 'green', 'yellow'), mark='top'),
    PlateFormat('MY', 4.4, ('lll dddd', 'wdddd'), ('black',), ('white',)),
    PlateFormat('MY two lines', 1.9, ('lll/dddd',), ('black',), ('white',)),
    PlateFormat('ID', 3.1, ('l dddd lll', 'll dddd ll'), ('black', 'white'), mark='foot'),
    PlateFormat('SG', 4.5, ('lll dddd l',), ('black', 'white', 'yellow'), ('white', 'black')),
    PlateFormat('VN', 4.3, ('ddl-ddd.dd',), ('white', 'yellow', 'blue'), ('black',)),
    PlateFormat('VN two lines', 1.4, ('dd-ld/ddd.dd', 'ddl/dddd'), ('white', 'yellow')),
    PlateFormat('TH', 2.2, ('tt dddd', 'dtt dddd'), mark='thai'),
    PlateFormat('TH motorcycle', 1.25, ('dtt/w/dddd',), weights=(1.2, 0.6, 1.2)),
    PlateFormat('CN blue', 3.14, ('cl·ddddd', 'cl·lddld'), ('blue',), ('white',)),
    PlateFormat('CN green', 3.4, ('cl ddddddd', 'cl lddddd'), ('mint', 'white'), ('black',)),
    PlateFormat('CN yellow', 1.9, ('cl/ddddd',), ('yellow',), weights=(0.7, 1.2)),
    PlateFormat('TW', 2.3, ('lll-dddd', 'dddd-ll'), ink=('black', 'green', 'red')),
    PlateFormat(
        'JP',
        2.0,
        ('kk ddd/j dd-dd',),
        ('white', 'yellow', 'green'),
        ('green', 'black'),
        weights=(0.6, 1.2),
    ),
    PlateFormat('KR', 4.7, ('ddh dddd', 'dddh dddd'), ('white', 'sky'), mark='strip'),
    PlateFormat(
        'KR old',
        2.0,
        ('kk ddh/dddd', 'hh dd/h dddd'),
        ('green', 'white'),
        ('white', 'black'),
        weights=(0.7, 1.2),
    ),
    PlateFormat('EG', 2.0, ('nnnn|aaa', 'nnn|aaa'), mark='egypt'),
    PlateFormat('EG motorcycle', 1.2, ('nnnn/aa', 'nnnnn/a a', 'nnn/aaa'), mark='egypt'),
    PlateFormat('SA', 2.1, ('nnnn|aaa/dddd|lll',), mark='grid'),
    PlateFormat('SA long', 4.7, ('nnnn aaa', 'dddd lll'), mark='strip'),
    PlateFormat('AE', 2.0, ('dd/ddddd', 'l ddddd'), mark='arabtop'),
    PlateFormat('AE long', 4.7, ('l ddddd', 'dd ddddd'), mark='strip'),
    PlateFormat('IR', 4.6, ('nn a nnn|nn',), mark='band'),
    PlateFormat('IQ', 2.1, ('nnnnn|a', 'dd l ddddd'), ('white', 'yellow', 'red'), mark='arabtop'),
    PlateFormat('MA', 4.6, ('ddddd|a|dd',), mark=''),
    PlateFormat('DZ', 4.7, ('ddddd ddd dd',), ('white', 'yellow')),
    PlateFormat('TN', 4.5, ('ddd تونس dddd',), ('black',), ('white',)),
    PlateFormat('EU two lines', 1.55, ('ll ll/ddd', 'l dd/lll', 'dddd/lll'), mark='band'),
    PlateFormat(
        'motorcycle', 1.2, ('lll/dddd', 'll d/dddd', 'll/ddd'), ('white', 'yellow', 'cream')
    ),
    PlateFormat('square', 1.0, ('dd/l/ddd', 'll/dd', 'lll/ddd'), ('white', 'yellow')),
    PlateFormat(
        'diplomat', 4.7, ('ll dd dd', 'ddd lll dd'), ('blue', 'green', 'red'), ('white', 'orange')
    ),
    PlateFormat('trade', 4.7, ('ll ddddd', 'lll dddd'), ('green', 'red', 'black'), ('white',)),
)


def missing_fonts() -> list[str]:
    """Return the Debian packages whose fonts are not installed, in order."""
    return sorted(
        {
            package
            for package, files in FONTS.values()
            if not all((FOLDER / name).is_file() for name in files)
        }
    )


def refuse_missing_fonts() -> None:
    """
    Say which fonts have to be installed before plates can be drawn.

    :raises MediaError: some are missing, or Pillow is.
    """
    try:
        import PIL
    except ImportError as error:
        raise MediaError(
            'drawing plates needs Pillow, which is not installed: pip install pillow'
        ) from error
    del PIL
    missing = missing_fonts()
    if missing:
        raise MediaError(
            f'drawing plates: got no fonts of {", ".join(missing)} below {FOLDER}; install them '
            f'with `apt-get install {" ".join(missing)}`'
        )


def draw_plate(chance: np.random.Generator, kind: PlateFormat | None = None) -> NDArray[np.uint8]:
    """
    Return a picture of a plate with a random number.

    :param chance: where all that is random comes from.
    :param kind: of plate; None draws one.
    :returns: (HEIGHT_PX, W, 4) uint8 BGRA, transparent outside the rounded corners.
    """
    kind = kind or FORMATS[chance.integers(len(FORMATS))]
    height = HEIGHT_PX
    width = round(height * kind.aspect * chance.uniform(0.93, 1.07))
    paper = one_of(chance, kind.paper)
    ink = one_of(chance, kind.ink)
    if ink == paper or sum(COLOURS[paper]) < 330 > sum(COLOURS[ink]):
        ink = 'white'
    ink_bgr = vary(chance, COLOURS[ink], 10)
    image = np.empty((height, width, 3), np.float32)
    image[:] = vary(chance, COLOURS[paper], 14)

    # Frame, then what stands beside the number
    if chance.random() < 0.65:
        edge = int(chance.integers(2, 6))
        inset = int(chance.integers(0, 4))
        frame = vary(chance, COLOURS[ink if chance.random() < 0.8 else 'grey'], 10)
        cv2.rectangle(image, (inset, inset), (width - 1 - inset, height - 1 - inset), frame, edge)
    box = draw_mark(image, kind.mark, ink_bgr, chance)

    # The number
    text = one_of(chance, kind.texts)
    fonts = one_of(chance, LATIN)
    lines = text.split('/')
    weights = np.array(kind.weights[: len(lines)])
    tops = box[1] + (box[3] - box[1]) * np.concatenate([[0.0], np.cumsum(weights / weights.sum())])
    fill_to = chance.uniform(0.68, 0.9)
    for line, top, bottom in zip(lines, tops[:-1], tops[1:], strict=True):
        parts = line.split('|')
        lengths = np.array([max(len(part), 1.6) for part in parts], np.float64)
        if '|' in line and len(set(parts[0])) == 1:
            lengths[:] = lengths.mean()
        lefts = box[0] + (box[2] - box[0]) * np.concatenate(
            [[0.0], np.cumsum(lengths / lengths.sum())]
        )
        for part, left, right in zip(parts, lefts[:-1], lefts[1:], strict=True):
            write(
                image,
                fill_pattern(part, chance),
                (left, top, right, bottom),
                ink_bgr,
                fonts,
                fill_to,
                chance,
            )
        for left in lefts[1:-1]:
            cv2.line(image, (int(left), int(top) + 3), (int(left), int(bottom) - 3), ink_bgr, 2)
    if len(lines) == 2 and kind.mark in ('grid', 'egypt') and chance.random() < 0.6:
        y = int(tops[1])
        cv2.line(image, (int(box[0]), y), (int(box[2]), y), ink_bgr, 2)

    # Wear
    if chance.random() < 0.35:
        stick(image, chance)
    if chance.random() < 0.4:
        for x in (0.15, 0.85) if chance.random() < 0.6 else (0.5,):
            y = int(height * one_of(chance, (0.1, 0.5, 0.88)))
            cv2.circle(
                image,
                (int(width * x), y),
                int(chance.integers(3, 6)),
                vary(chance, (90, 90, 90), 60),
                -1,
            )
    if chance.random() < 0.3:
        spots = chance.normal(0, 1, (max(height // 24, 2), max(width // 24, 2), 1)).astype(
            np.float32
        )
        grime = cv2.resize(spots, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
        image = image * (1 - 0.5 * np.clip(grime * chance.uniform(0.3, 1), 0, 1)) + 20
    return with_corners(image, chance)


def draw_distractor(chance: np.random.Generator) -> NDArray[np.uint8]:
    """
    Return a picture of what is no plate: a sign, lettering, a badge, a lamp, a grille, an advert.

    :param chance: where all that is random comes from.
    :returns: (HEIGHT_PX, W, 4) uint8 BGRA.
    """
    kind = int(chance.integers(8))
    height = HEIGHT_PX
    aspect = chance.uniform(1.0, 5.5)
    width = round(height * aspect)
    paper = vary(chance, COLOURS[one_of(chance, tuple(COLOURS))], 25)
    ink = vary(chance, COLOURS['white' if sum(paper) < 330 else 'black'], 25)
    image = np.empty((height, width, 3), np.float32)
    image[:] = paper
    whole = (6.0, 6.0, width - 6.0, height - 6.0)
    if kind in (0, 1):  # lettering and badges: the text alone
        alpha = np.zeros((height, width), np.float32)
        text = word(chance, int(chance.integers(2, 11)))
        if kind == 1 and chance.random() < 0.5:
            text = one_of(chance, ('{}.{}', '{} {}', '{}{}', '{}-{}')).format(
                word(chance, int(chance.integers(1, 3))),
                fill_pattern('d' * int(chance.integers(1, 4)), chance),
            )
        write(
            alpha[..., None],
            text,
            whole,
            (255.0,),
            one_of(chance, ('plain', 'serif', 'plate', 'narrow')),
            0.9,
            chance,
        )
        if kind == 1:
            shine = np.linspace(chance.uniform(120, 250), chance.uniform(30, 200), height)
            image[:] = shine[:, None, None]
        return np.dstack([image.clip(0, 255), alpha.clip(0, 255)]).astype(np.uint8)
    if kind == 2:  # signs with words and arrows
        lines = int(chance.integers(1, 5))
        for i in range(lines):
            y0, y1 = (6 + (height - 12) * k / lines for k in (i, i + 1))
            text = word(chance, int(chance.integers(3, 12)))
            if chance.random() < 0.4:
                text += ' ' + fill_pattern('d' * int(chance.integers(1, 4)), chance)
            x1 = width - 6 - (height / lines if chance.random() < 0.4 else 0)
            write(image, text, (10.0, y0, x1, y1), ink, 'plate', 0.85, chance)
            if x1 < width - 10:
                tip = (int(width - 10), int((y0 + y1) / 2))
                cv2.arrowedLine(image, (int(x1), tip[1]), tip, ink, 4, tipLength=0.5)
        if chance.random() < 0.7:
            cv2.rectangle(image, (4, 4), (width - 5, height - 5), ink, 3)
    elif kind == 3:  # round and three-cornered signs, speed limits
        width = height
        image = np.full(
            (height, width, 3), COLOURS[one_of(chance, ('white', 'yellow', 'blue'))], np.float32
        )
        alpha = np.zeros((height, width), np.float32)
        red = vary(chance, COLOURS['red'], 20)
        if chance.random() < 0.6:
            cv2.circle(alpha, (60, 60), 58, 255.0, -1)
            cv2.circle(image, (60, 60), 53, red, 10)
            write(
                image,
                fill_pattern('dd', chance),
                (26.0, 30.0, 94.0, 90.0),
                vary(chance, COLOURS['black'], 10),
                'plate',
                0.95,
                chance,
            )
        else:
            corners = np.array([[60, 2], [118, 116], [2, 116]], np.int32)
            cv2.fillPoly(alpha, [corners], 255.0)
            cv2.polylines(image, [corners], True, red, 18)
        return np.dstack([image.clip(0, 255), alpha]).astype(np.uint8)
    elif kind == 4:  # grilles and vents
        step = int(chance.integers(6, 22))
        horizontal = chance.random() < 0.7
        for k in range(0, height if horizontal else width, step):
            ends = ((0, k), (width, k)) if horizontal else ((k, 0), (k, height))
            cv2.line(image, *ends, ink, max(step // 2, 2))
    elif kind == 5:  # lamps and reflectors
        colour = one_of(chance, ((30, 30, 200), (40, 140, 250), (235, 240, 240), (20, 20, 120)))
        image[:] = vary(chance, colour, 25)
        for k in range(0, width, int(chance.integers(10, 40))):
            cv2.line(image, (k, 0), (k, height), vary(chance, colour, 60), 3)
    elif kind == 6:  # stickers, adverts, telephone numbers
        lines = int(chance.integers(1, 4))
        for i in range(lines):
            y0, y1 = (6 + (height - 12) * k / lines for k in (i, i + 1))
            text = word(chance, int(chance.integers(5, 16)))
            if chance.random() < 0.4:
                text = fill_pattern(
                    one_of(chance, ('ddd ddd dddd', 'dddd-ddddddd', '+dd dd dddd dddd')), chance
                )
            elif chance.random() < 0.3:
                text = 'www.' + text.lower() + '.com'
            letters = vary(chance, COLOURS[one_of(chance, tuple(COLOURS))], 25)
            write(
                image,
                text,
                (8.0, y0, width - 8.0, y1),
                letters,
                one_of(chance, ('plain', 'serif', 'narrow')),
                0.8,
                chance,
            )
    else:  # windows, labels without text, paper
        shade = np.linspace(chance.uniform(0.5, 1.2), chance.uniform(0.5, 1.2), width)
        image *= shade[None, :, None].astype(np.float32)
        if chance.random() < 0.5:
            cv2.rectangle(image, (3, 3), (width - 4, height - 4), ink, int(chance.integers(2, 8)))
    return with_corners(image, chance)


def draw_mark(
    image: NDArray[np.float32],
    mark: str,
    ink_bgr: tuple[float, ...],
    chance: np.random.Generator,
) -> tuple[float, float, float, float]:
    """
    Draw what stands beside the number, and return the box left for the number.

    :param image: (H, W, 3), changed in place.
    :param mark: one of Format's.
    :param ink_bgr: of the text.
    :param chance: where all that is random comes from.
    """
    height, width = image.shape[:2]
    x0, y0, x1, y1 = 8.0, 7.0, width - 8.0, height - 7.0
    white = (240.0, 240.0, 240.0)
    blue = vary(chance, COLOURS['blue'], 20)
    if mark in ('band', 'bands'):
        side = int(height * chance.uniform(0.3, 0.4))
        for left in (0, width - side) if mark == 'bands' else (0,):
            image[:, left : left + side] = blue
            write(
                image,
                word(chance, int(chance.integers(1, 3))),
                (left + side * 0.2, height * 0.55, left + side * 0.85, height * 0.92),
                white,
                'plate',
                0.9,
                chance,
            )
            if chance.random() < 0.8:
                for angle in np.linspace(0, 2 * np.pi, 12, endpoint=False):
                    at = (
                        left + side / 2 + side * 0.3 * np.cos(angle),
                        height * 0.3 + side * 0.3 * np.sin(angle),
                    )
                    cv2.circle(image, (int(at[0]), int(at[1])), 2, (30, 210, 240), -1)
        x0 = side + 5.0
        x1 = width - side - 5.0 if mark == 'bands' else x1
    elif mark == 'strip':
        side = int(height * chance.uniform(0.2, 0.4))
        right = chance.random() < 0.4
        left = width - side - 4 if right else 4
        if chance.random() < 0.7:
            image[4:-4, left : left + side] = blue
        emblem(image, (left + side / 2, height * 0.35), side * 0.35, chance)
        write(
            image,
            word(chance, int(chance.integers(1, 4))),
            (left + 2.0, height * 0.6, left + side - 2.0, height * 0.9),
            ink_bgr,
            'plate',
            0.9,
            chance,
        )
        x0, x1 = (x0, left - 4.0) if right else (left + side + 4.0, x1)
    elif mark == 'emblem':
        for x in (0.09, 0.91):
            emblem(image, (width * x, height * 0.5), height * 0.22, chance)
        x0, x1 = width * 0.16, width * 0.84
    elif mark == 'split':
        x1 = width - 8.0
        write(
            image,
            word(chance, 3),
            (width * 0.79, height * 0.7, width * 0.93, height * 0.92),
            ink_bgr,
            'plate',
            0.9,
            chance,
        )
    elif mark in ('top', 'topfoot', 'bar', 'arabtop', 'egypt'):
        deep = height * chance.uniform(0.17, 0.28)
        colour = ink_bgr
        if mark == 'bar' or (mark == 'egypt' and chance.random() < 0.9) or chance.random() < 0.12:
            stripe = (
                one_of(chance, ('blue', 'sky', 'orange', 'red', 'green'))
                if mark == 'egypt'
                else 'blue'
            )
            image[: int(deep)] = vary(chance, COLOURS[stripe], 20)
            colour = white if mark == 'bar' else vary(chance, COLOURS['black'], 20)
        if mark in ('egypt', 'arabtop'):
            write(
                image,
                'مصر' if mark == 'egypt' else word_of(chance, 'a', 4),
                (width * 0.55, 2.0, width * 0.95, deep),
                colour,
                'arabic',
                0.95,
                chance,
            )
            write(
                image,
                'EGYPT' if mark == 'egypt' else word(chance, 5),
                (width * 0.05, 2.0, width * 0.45, deep),
                colour,
                'plain',
                0.9,
                chance,
            )
        else:
            margin = chance.uniform(0.1, 0.35)
            write(
                image,
                word(chance, int(chance.integers(4, 14))),
                (width * margin, 3.0, width * (1 - margin), deep),
                colour,
                one_of(chance, ('plate', 'plain', 'serif')),
                0.9,
                chance,
            )
        y0 = deep + 3.0
        if mark == 'topfoot' and chance.random() < 0.6:
            low = height * chance.uniform(0.8, 0.86)
            write(
                image,
                word(chance, int(chance.integers(6, 18))),
                (width * 0.2, low, width * 0.8, height - 4.0),
                ink_bgr,
                one_of(chance, ('plain', 'serif')),
                0.85,
                chance,
            )
            y1 = low - 2.0
        if mark == 'topfoot' and chance.random() < 0.4:
            emblem(
                image,
                (width * chance.uniform(0.4, 0.6), height * 0.55),
                height * chance.uniform(0.15, 0.4),
                chance,
                faint=True,
            )
    elif mark in ('foot', 'thai'):
        low = height * chance.uniform(0.68, 0.8)
        text = (
            word_of(chance, 't', 8)
            if mark == 'thai'
            else word(chance, int(chance.integers(3, 12)))
        )
        write(
            image,
            text,
            (width * 0.2, low, width * 0.8, height - 5.0),
            ink_bgr,
            'plate',
            0.9,
            chance,
        )
        y1 = low
    elif mark == 'grid':
        side = width * 0.14
        emblem(image, (width - side / 2 - 4, height * 0.25), side * 0.35, chance)
        write(
            image,
            word(chance, 3),
            (width - side, height * 0.45, width - 5.0, height * 0.9),
            ink_bgr,
            'plain',
            0.9,
            chance,
        )
        cv2.line(
            image, (int(width - side - 2), 4), (int(width - side - 2), height - 5), ink_bgr, 2
        )
        x1 = width - side - 5.0
    return x0, y0, x1, y1


def emblem(
    image: NDArray[np.float32],
    centre: tuple[float, float],
    radius: float,
    chance: np.random.Generator,
    *,
    faint: bool = False,
) -> None:
    """
    Draw a small round or many-cornered device.

    :param image: changed in place.
    :param centre: x, y.
    :param radius: in pixels.
    :param chance: where all that is random comes from.
    :param faint: as in the ground of American plates.
    """
    corners = int(chance.integers(3, 9))
    angles = np.sort(chance.uniform(0, 2 * np.pi, corners))
    reach = radius * chance.uniform(0.6, 1.0, corners)
    points = np.column_stack(
        [np.cos(angles) * reach + centre[0], np.sin(angles) * reach + centre[1]]
    )
    layer = image.copy() if faint else image
    colour = vary(chance, COLOURS[one_of(chance, tuple(COLOURS))], 30)
    if chance.random() < 0.5:
        cv2.circle(layer, (int(centre[0]), int(centre[1])), max(int(radius), 1), colour, -1)
        colour = vary(chance, COLOURS[one_of(chance, tuple(COLOURS))], 30)
    cv2.fillPoly(layer, [points.astype(np.int32)], colour)
    if faint:
        image[:] = image * 0.65 + layer * 0.35


def stick(image: NDArray[np.float32], chance: np.random.Generator) -> None:
    """Put one or two round or square stickers on a plate, in place."""
    height, width = image.shape[:2]
    for _ in range(int(chance.integers(1, 3))):
        x, y = int(chance.uniform(0.05, 0.95) * width), int(chance.uniform(0.1, 0.9) * height)
        r = int(height * chance.uniform(0.06, 0.14))
        colour = vary(chance, COLOURS[one_of(chance, tuple(COLOURS))], 30)
        if chance.random() < 0.5:
            cv2.circle(image, (x, y), r, colour, -1)
        else:
            cv2.rectangle(image, (x - r, y - r), (x + r, y + r), colour, -1)


def with_corners(image: NDArray[np.float32], chance: np.random.Generator) -> NDArray[np.uint8]:
    """
    Return a picture with rounded, transparent corners.

    :param image: (H, W, 3).
    :param chance: where all that is random comes from.
    """
    height, width = image.shape[:2]
    radius = int(chance.integers(0, 16))
    alpha = np.zeros((height, width), np.uint8)
    cv2.rectangle(alpha, (radius, radius), (width - 1 - radius, height - 1 - radius), 255, -1)
    if radius:
        alpha = cv2.dilate(
            alpha, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        )
    return np.dstack([image.clip(0, 255).astype(np.uint8), alpha])


def write(
    image: NDArray[np.float32],
    text: str,
    box: tuple[float, float, float, float],
    ink: tuple[float, ...],
    fonts: str,
    fill_to: float,
    chance: np.random.Generator,
) -> None:
    """
    Write a text into the middle of a box, stretched as plates' narrow and wide letters are.

    :param image: (H, W, C), changed in place.
    :param text: in any script that FONTS has.
    :param box: x0, y0, x1, y1.
    :param ink: C values.
    :param fonts: key of FONTS for Latin text.
    :param fill_to: height of the letters over that of the box.
    :param chance: where all that is random comes from.
    """
    room_w, room_h = box[2] - box[0], box[3] - box[1]
    if not text.strip() or room_w < 4 or room_h < 4:
        return
    letters = text_mask(text, script_of(text, fonts), int(chance.integers(4)))
    high = max(room_h * fill_to, 3.0)
    wide = min(
        letters.shape[1] * high / letters.shape[0] * chance.uniform(0.9, 1.45),
        room_w * chance.uniform(0.9, 0.99),
    )
    mask = cv2.resize(
        letters, (max(round(wide), 3), max(round(high), 3)), interpolation=cv2.INTER_AREA
    )
    height, width = image.shape[:2]
    x = int(np.clip((box[0] + box[2] - mask.shape[1]) / 2, 0, max(width - mask.shape[1], 0)))
    y = int(np.clip((box[1] + box[3] - mask.shape[0]) / 2, 0, max(height - mask.shape[0], 0)))
    part = image[y : y + mask.shape[0], x : x + mask.shape[1]]
    share = mask[: part.shape[0], : part.shape[1], None].astype(np.float32) / 255
    if image.shape[2] == 3 and chance.random() < 0.25:  # embossed: light above, shade below
        moved = np.roll(share, 2, 0)
        part += 60 * (moved - share).clip(-1, 1)
    part[:] = part * (1 - share) + share * np.asarray(ink, np.float32)


def script_of(text: str, latin: str) -> str:
    """Return the key of FONTS that has a text's letters."""
    for character in text:
        code = ord(character)
        for name, first, last in BLOCKS:
            if first <= code <= last:
                return name
        if code >= 0x3000:
            return 'cjk'
    return latin


@lru_cache(maxsize=4096)
def text_mask(text: str, fonts: str, number: int) -> NDArray[np.uint8]:
    """Return a text's letters, (H, W) uint8, cut to what is drawn."""
    from PIL import Image, ImageDraw

    files = FONTS[fonts][1]
    font = load_font(files[number % len(files)])
    left, top, right, bottom = font.getbbox(text)
    size = (max(int(right - left), 2), max(int(bottom - top), 2))
    mask = Image.new('L', size, 0)
    ImageDraw.Draw(mask).text((-left, -top), text, font=font, fill=255)
    return np.asarray(mask, np.uint8)


@lru_cache(maxsize=32)
def load_font(name: str) -> ImageFont.FreeTypeFont:
    """Return a font at the size that masks are drawn at."""
    from PIL import ImageFont

    return ImageFont.truetype(str(FOLDER / name), 96)


def fill_pattern(pattern: str, chance: np.random.Generator) -> str:
    """Return a pattern with a random character for each letter of ALPHABETS, words for `w`."""
    drawn = []
    for character in pattern:
        if character == 'w':
            drawn.append(word(chance, int(chance.integers(3, 8))))
        elif character in ALPHABETS:
            drawn.append(one_of(chance, ALPHABETS[character]))
        else:
            drawn.append(character)
    text = ''.join(drawn)
    if any('ا' <= c <= 'ي' for c in text):  # letters stand apart, right to left
        text = ' '.join(text)
    return text


def word(chance: np.random.Generator, length: int) -> str:
    """Return a word that can be pronounced, in capitals or as a name."""
    sounds = ('BCDFGHKLMNPRSTVWZ', 'AEIOUY')
    text = ''.join(one_of(chance, sounds[(i + length) % 2]) for i in range(length))
    return text if chance.random() < 0.7 else text.capitalize()


def word_of(chance: np.random.Generator, alphabet: str, length: int) -> str:
    """Return letters of one of ALPHABETS."""
    return ''.join(one_of(chance, ALPHABETS[alphabet]) for _ in range(length))


def one_of(chance: np.random.Generator, values: Sequence[T]) -> T:
    """Return one of some values."""
    return values[int(chance.integers(len(values)))]


def vary(chance: np.random.Generator, colour: tuple[float, ...], by: float) -> tuple[float, ...]:
    """Return a colour near another."""
    moved = np.asarray(colour, np.float64) + chance.uniform(-by, by, 3) + chance.uniform(-by, by)
    return tuple(float(v) for v in moved.clip(0, 255))
