'use strict';
(() => {
  const at = (id) => document.getElementById(id);
  const canvas = at('canvas'), context = canvas.getContext('2d');
  const HANDLE_PX = 8, PLAY_MS = 120, SMALLEST_PX = 2, CACHED = 64;
  const COLOURS = { face: '#4fc3f7', plate: '#ffb74d' };
  let recording, stream, number = 0, frames = {}, selected = null, marks = {};
  let past = [], future = [], changed = {}, playing = null, drag = null, preview = null;
  const images = new Map();

  // -- talking to the program

  async function api(path, options = {}) {
    const answer = await fetch(`api/${path}`, options);
    if (!answer.ok) throw new Error((await answer.text()) || answer.statusText);
    return answer;
  }

  function say(text, isError = false) {
    at('message').textContent = text;
    at('message').className = isError ? 'error' : '';
  }

  const guarded = (work) => async (...args) => {
    try {
      return await work(...args);
    } catch (error) {
      say(error.message, true);
      return undefined;
    }
  };

  // -- boxes: {track, class, score, xyxy: [x0, y0, x1, y1], kind}

  const boxesAt = (n) => frames[n] || [];
  const clone = (boxes) => boxes.map((box) => ({ ...box, xyxy: [...box.xyxy] }));
  const isSame = (a, b) => JSON.stringify(a) === JSON.stringify(b);
  const nextTrack = () => 1 + Math.max(-1, ...Object.values(frames).flat().map((box) => box.track));

  // One entry undoes one action, however many frames it changed.
  function change(after) {
    const before = {};
    for (const n of Object.keys(after)) {
      before[n] = clone(boxesAt(n));
      if (isSame(before[n], after[n])) delete after[n], delete before[n];
    }
    if (!Object.keys(after).length) return;
    past.push({ stream, before, after });
    future = [];
    apply(after);
  }

  function apply(edit) {
    for (const [n, boxes] of Object.entries(edit)) {
      if (boxes.length) frames[n] = clone(boxes); else delete frames[n];
      (changed[stream] = changed[stream] || new Set()).add(Number(n));
    }
    draw();
  }

  async function step(from, to, side) {
    const entry = from.pop();
    if (!entry) return;
    to.push(entry);
    if (entry.stream !== stream) await open(entry.stream);
    const numbers = Object.keys(entry.before).map(Number);
    if (!numbers.includes(number)) await show(Math.min(...numbers));
    apply(entry[side]);
  }

  function edited(fn) {
    const boxes = clone(boxesAt(number));
    const box = boxes.find((b) => b.track === selected);
    if (box && fn(box) !== false) {
      box.kind = 'corrected';
      box.xyxy = inside(box.xyxy);
      change({ [number]: boxes });
    }
  }

  function inside([x0, y0, x1, y1]) {
    const [width, height] = [canvas.width, canvas.height];
    [x0, x1] = [Math.min(x0, x1), Math.max(x0, x1)].map((x) => Math.min(Math.max(x, 0), width));
    [y0, y1] = [Math.min(y0, y1), Math.max(y0, y1)].map((y) => Math.min(Math.max(y, 0), height));
    return [x0, y0, Math.max(x1, x0 + SMALLEST_PX), Math.max(y1, y0 + SMALLEST_PX)];
  }

  function add(xyxy) {
    const side = Math.round(Math.min(canvas.width, canvas.height) / 8);
    const [x, y] = [canvas.width / 2, canvas.height / 2];
    const box = {
      track: nextTrack(), class: at('class').value, score: 1, kind: 'added',
      xyxy: inside(xyxy || [x - side, y - side, x + side, y + side]),
    };
    selected = box.track;
    change({ [number]: [...clone(boxesAt(number)), box] });
  }

  const remove = () => change({ [number]: clone(boxesAt(number)).filter((b) => b.track !== selected) });

  function removeTrack() {
    const after = {};
    for (const [n, boxes] of Object.entries(frames)) {
      if (boxes.some((b) => b.track === selected)) after[n] = clone(boxes).filter((b) => b.track !== selected);
    }
    change(after);
  }

  // The selected box is carried from one mark to the other, straight and evenly.
  function mark(end) {
    const box = boxesAt(number).find((b) => b.track === selected) || (end === 'out' && marks.in?.box);
    if (!box) return say('select a box first', true);
    marks[end] = { number, box: clone([box])[0], stream };
    at('marks').textContent = ['in', 'out'].map((e) => (marks[e] ? `${e}: ${marks[e].number}` : '')).join(' ');
    const { in: first, out: last } = marks;
    if (!first || !last || first.stream !== last.stream) return undefined;
    const [a, b] = first.number <= last.number ? [first, last] : [last, first];
    const after = {};
    for (let n = a.number; n <= b.number; n++) {
      const share = b.number === a.number ? 0 : (n - a.number) / (b.number - a.number);
      const boxes = clone(boxesAt(n)).filter((x) => x.track !== a.box.track && x.track !== b.box.track);
      const xyxy = a.box.xyxy.map((v, i) => v + share * (b.box.xyxy[i] - v));
      boxes.push({ ...a.box, xyxy, kind: 'corrected' });
      after[n] = boxes;
    }
    selected = a.box.track;
    marks = {};
    at('marks').textContent = `covered from ${a.number} to ${b.number}`;
    change(after);
    return undefined;
  }

  // -- pictures

  function address(side, n) {
    return `api/frame?stream=${encodeURIComponent(stream)}&number=${n}&side=${side}`;
  }

  function image(side, n) {
    const url = address(side, n);
    if (!images.has(url)) {
      const loading = fetch(url).then(async (answer) => {
        if (!answer.ok) throw new Error(await answer.text());
        const bitmap = await createImageBitmap(await answer.blob());
        // Pictures may be sent smaller than they are; boxes are in the frame's own pixels.
        const [width, height] = answer.headers.get('X-Frame-Size').split('x').map(Number);
        return { bitmap, width, height };
      });
      images.set(url, loading);
      if (images.size > CACHED) images.delete(images.keys().next().value);
    }
    return images.get(url);
  }

  async function show(n) {
    number = Math.min(Math.max(n, 0), current().frames - 1);
    preview = null;
    const wanted = number, wantedStream = stream;
    const before = await image('before', number);
    const after = recording.has_output ? await image('after', number) : null;
    if (wanted !== number || wantedStream !== stream) return;
    [canvas.width, canvas.height] = [before.width, before.height];
    canvas.style.setProperty('--aspect', before.width / before.height);
    canvas.shown = { before, after };
    say('');
    draw();
    if (number + 1 < current().frames) image('before', number + 1).catch(() => {});
  }

  const current = () => recording.streams.find((s) => s.name === stream);

  function draw() {
    if (!canvas.shown) return;
    const { before } = canvas.shown, after = preview || canvas.shown.after;
    const [width, height] = [canvas.width, canvas.height];
    const share = after ? Number(at('compare').value) / 100 : 1, cut = width * share;
    context.drawImage(before.bitmap, 0, 0, width, height);
    if (after && share < 1) {
      context.save();
      context.beginPath();
      context.rect(cut, 0, width - cut, height);
      context.clip();
      context.drawImage(after.bitmap, 0, 0, width, height);
      context.restore();
      context.fillStyle = '#fff';
      context.fillRect(cut - 1, 0, 2, height);
    }
    const pen = Math.max(1, width / 640);
    for (const box of boxesAt(number)) {
      const [x0, y0, x1, y1] = box.xyxy;
      context.lineWidth = box.track === selected ? 2.5 * pen : 1.2 * pen;
      context.strokeStyle = COLOURS[box.class] || '#fff';
      context.setLineDash(box.kind === 'coasted' ? [4 * pen, 3 * pen] : []);
      context.strokeRect(x0, y0, x1 - x0, y1 - y0);
      context.setLineDash([]);
      if (box.track === selected) {
        context.fillStyle = context.strokeStyle;
        const h = HANDLE_PX * pen / 2;
        for (const [x, y] of [[x0, y0], [x1, y0], [x0, y1], [x1, y1]]) context.fillRect(x - h / 2, y - h / 2, h, h);
      }
    }
    panel();
    timeline();
  }

  function panel() {
    const stamp = current().stamps_s[number];
    at('position').textContent = `frame ${number} of ${current().frames}, ${stamp.toFixed(3)} s`;
    at('seek').value = number;
    const list = at('boxes');
    list.replaceChildren(...boxesAt(number).map((box) => {
      const item = document.createElement('li'), button = document.createElement('button');
      const [x0, y0, x1, y1] = box.xyxy.map(Math.round);
      button.textContent = `${box.class} ${box.track} (${box.kind}, ${box.score.toFixed(2)}) ${x1 - x0}x${y1 - y0} at ${x0}, ${y0}`;
      button.setAttribute('aria-pressed', String(box.track === selected));
      button.dataset.track = box.track;
      button.addEventListener('click', () => { selected = box.track; draw(); });
      item.append(button);
      return item;
    }));
    at('undo').disabled = !past.length;
    at('redo').disabled = !future.length;
    at('save').disabled = !Object.keys(changed).length;
    at('remove').disabled = at('remove-track').disabled = selected === null;
  }

  // -- tracks as rows

  function timeline() {
    const sheet = at('timeline'), pen = sheet.getContext('2d');
    sheet.width = sheet.clientWidth;
    sheet.height = sheet.clientHeight;
    const count = current().frames, step = sheet.width / count;
    const rows = new Map();
    for (const [n, boxes] of Object.entries(frames)) {
      for (const box of boxes) {
        if (!rows.has(box.track)) rows.set(box.track, { class: box.class, numbers: [] });
        rows.get(box.track).numbers.push([Number(n), box.kind]);
      }
    }
    const tracks = [...rows.keys()].sort((a, b) => a - b);
    const height = Math.min(14, (sheet.height - 6) / Math.max(tracks.length, 1));
    tracks.forEach((track, row) => {
      const { class: kind, numbers } = rows.get(track);
      pen.fillStyle = COLOURS[kind] || '#fff';
      for (const [n, how] of numbers) {
        pen.globalAlpha = how === 'coasted' ? 0.45 : 1;
        pen.fillRect(n * step, 3 + row * height, Math.max(step, 1), Math.max(height - 2, 1));
      }
      pen.globalAlpha = 1;
      if (track === selected) {
        pen.strokeStyle = '#fff';
        pen.strokeRect(0.5, 2.5 + row * height, sheet.width - 1, height);
      }
    });
    pen.fillStyle = '#fff';
    pen.fillRect((number + 0.5) * step - 1, 0, 2, sheet.height);
    sheet.tracks = tracks;
    sheet.rowHeight = height;
  }

  at('timeline').addEventListener('click', guarded(async (event) => {
    const sheet = at('timeline');
    const track = sheet.tracks[Math.floor((event.offsetY - 3) / sheet.rowHeight)];
    if (track !== undefined) selected = track;
    await show(Math.floor(event.offsetX / sheet.clientWidth * current().frames));
  }));

  // -- mouse

  function place(event) {
    const scale = canvas.width / canvas.clientWidth;
    return [event.offsetX * scale, event.offsetY * scale];
  }

  canvas.addEventListener('pointerdown', (event) => {
    const [x, y] = place(event), reach = HANDLE_PX * canvas.width / canvas.clientWidth;
    canvas.setPointerCapture(event.pointerId);
    at('stage').focus();
    const chosen = boxesAt(number).find((b) => b.track === selected);
    if (chosen) {
      const [x0, y0, x1, y1] = chosen.xyxy;
      const near = (a, b) => Math.abs(a - b) <= reach;
      const corner = [near(x, x0) ? 0 : near(x, x1) ? 2 : -1, near(y, y0) ? 1 : near(y, y1) ? 3 : -1];
      if (!corner.includes(-1)) {
        drag = { corner };
        return;
      }
    }
    const hit = boxesAt(number).filter(({ xyxy: [x0, y0, x1, y1] }) => x >= x0 && x < x1 && y >= y0 && y < y1)
      .sort((a, b) => area(a) - area(b))[0];
    if (hit) {
      selected = hit.track;
      drag = { from: [x, y], xyxy: [...hit.xyxy] };
    } else {
      drag = { from: [x, y], isNew: true };
    }
    draw();
  });

  const area = ({ xyxy: [x0, y0, x1, y1] }) => (x1 - x0) * (y1 - y0);

  canvas.addEventListener('pointermove', (event) => {
    if (!drag) return;
    drag.to = place(event);
    draw();
    const [x, y] = drag.to;
    context.strokeStyle = '#fff';
    context.lineWidth = Math.max(1, canvas.width / 640);
    const box = dragged();
    if (box) context.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
    void x, y;
  });

  function dragged() {
    if (!drag || !drag.to) return null;
    const [x, y] = drag.to;
    if (drag.isNew) return [...drag.from, x, y];
    const chosen = boxesAt(number).find((b) => b.track === selected);
    if (!chosen) return null;
    if (drag.corner) {
      const box = [...chosen.xyxy];
      box[drag.corner[0]] = x;
      box[drag.corner[1]] = y;
      return box;
    }
    const [dx, dy] = [x - drag.from[0], y - drag.from[1]];
    return drag.xyxy.map((v, i) => v + (i % 2 ? dy : dx));
  }

  canvas.addEventListener('pointerup', () => {
    const box = dragged(), isNew = drag?.isNew;
    drag = null;
    if (!box) return;
    const size = Math.min(Math.abs(box[2] - box[0]), Math.abs(box[3] - box[1]));
    if (!isNew) edited((chosen) => { chosen.xyxy = box; });
    else if (size >= SMALLEST_PX) add(box);
    draw();
  });

  // -- keys

  document.addEventListener('keydown', guarded(async (event) => {
    if (event.target.closest('input:not([type=range]), select, dialog')) return;
    const many = event.shiftKey ? 10 : 1;
    const command = event.ctrlKey || event.metaKey;
    const pixel = Math.max(1, Math.round(canvas.width / 320));
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const acts = command ? {
      z: () => step(past, future, 'before'), y: () => step(future, past, 'after'), s: save,
    } : event.altKey && arrows[event.key] ? {
      [event.key]: () => edited((box) => {
        const [dx, dy] = arrows[event.key].map((v) => v * pixel);
        box.xyxy = event.shiftKey ? box.xyxy.map((v, i) => v + (i === 2 ? dx : i === 3 ? dy : 0))
          : box.xyxy.map((v, i) => v + (i % 2 ? dy : dx));
      }),
    } : {
      ' ': play, ArrowLeft: () => show(number - many), ArrowRight: () => show(number + many),
      Home: () => show(0), End: () => show(current().frames - 1),
      n: () => add(), i: () => mark('in'), o: () => mark('out'), '?': () => at('keys').showModal(),
      b: () => { at('compare').value = at('compare').value === '100' ? '0' : '100'; draw(); },
      Delete: () => (event.shiftKey ? removeTrack() : remove()),
      Tab: document.activeElement === at('stage') && boxesAt(number).length > 1 ? () => cycle(event.shiftKey ? -1 : 1) : null,
    };
    const act = acts[event.key];
    if (act) {
      event.preventDefault();
      await act();
    }
  }));

  function cycle(by) {
    const tracks = boxesAt(number).map((b) => b.track);
    selected = tracks[(tracks.indexOf(selected) + by + tracks.length) % tracks.length];
    draw();
  }

  function play() {
    at('play').textContent = playing ? 'play' : 'stop';
    if (playing) {
      clearTimeout(playing);
      playing = null;
      return;
    }
    const tick = guarded(async () => {
      if (number + 1 >= current().frames) return play();
      await show(number + 1);
      if (playing) playing = setTimeout(tick, PLAY_MS);
      return undefined;
    });
    playing = setTimeout(tick, PLAY_MS);
  }

  // -- saving, running, settings

  async function save() {
    const edits = {};
    const kept = { ...all, [stream]: frames };
    for (const [name, numbers] of Object.entries(changed)) {
      edits[name] = Object.fromEntries([...numbers].map((n) => [n, kept[name][n] || []]));
    }
    const answer = await api('detections', {
      method: 'PUT', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(edits),
    });
    changed = {};
    say((await answer.json()).message);
    panel();
  }

  async function run() {
    if (Object.keys(changed).length) await save();
    await api('run', { method: 'POST' });
    for (;;) {
      const state = await (await api('run')).json();
      say(state.message, state.state === 'failed');
      if (state.state === 'done') {
        images.clear();
        recording.has_output = true;
        await show(number);
        say(state.message);
      }
      if (state.state !== 'running') return;
      await new Promise((resume) => setTimeout(resume, 300));
    }
  }

  function chosenSettings() {
    const values = {};
    for (const input of at('settings').querySelectorAll('[name]')) {
      values[input.name] = input.type === 'number' ? Number(input.value) : input.value;
    }
    return values;
  }

  async function showPreview() {
    const answer = await api('preview', {
      method: 'POST', headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ stream, number, settings: chosenSettings() }),
    });
    const bitmap = await createImageBitmap(await answer.blob());
    preview = { bitmap, width: canvas.width, height: canvas.height };
    if (at('compare').value === '100') at('compare').value = '0';
    say(`this frame with these settings: ${answer.headers.get('X-Regions')} regions replaced`);
    draw();
  }

  async function writeSettings() {
    const answer = await api('settings', {
      method: 'PUT', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(chosenSettings()),
    });
    say((await answer.json()).message);
  }

  function addSetting(setting) {
    const label = document.createElement('label');
    const input = document.createElement(setting.choices ? 'select' : 'input');
    if (setting.choices) input.append(...setting.choices.map((choice) => new Option(choice)));
    else {
      input.type = 'number';
      [input.min, input.max] = setting.bounds;
      input.step = setting.is_whole ? 1 : 'any';
    }
    input.name = setting.name;
    input.value = setting.value;
    label.title = setting.meaning;
    label.append(setting.name, input);
    at('settings').append(label);
  }

  // -- start

  const all = {};

  async function open(name) {
    if (stream) all[stream] = frames;
    stream = name;
    selected = null;
    frames = all[name] || await (await api(`detections?stream=${encodeURIComponent(name)}`)).json();
    all[name] = frames;
    at('stream').value = name;
    at('seek').max = current().frames - 1;
    selected = boxesAt(0)[0]?.track ?? null;
    await show(0);
  }

  const start = guarded(async () => {
    recording = await (await api('recording')).json();
    document.title = at('title').textContent = `Review of ${recording.name}`;
    at('stream').append(...recording.streams.map((s) => new Option(`${s.name} (${s.frames})`, s.name)));
    const unlisted = Object.entries(recording.unlisted).map(([name, why]) => `${name} (${why})`);
    at('unlisted').hidden = !unlisted.length;
    at('unlisted').textContent = `Not shown: ${unlisted.join(', ')}`;
    at('class').append(...recording.classes.map((name) => new Option(name)));
    at('compare-label').hidden = !recording.has_output && !recording.settings.length;
    at('run').disabled = !recording.can_run;
    recording.settings.forEach(addSetting);
    await open(recording.streams[0].name);
    at('stage').focus();
  });

  const on = (id, event, work) => at(id).addEventListener(event, guarded(async () => work()));
  on('stream', 'change', () => open(at('stream').value));
  on('seek', 'input', () => show(Number(at('seek').value)));
  on('compare', 'input', draw);
  on('first', 'click', () => show(0));
  on('back', 'click', () => show(number - 1));
  on('forward', 'click', () => show(number + 1));
  on('play', 'click', play);
  on('add', 'click', () => add());
  on('remove', 'click', remove);
  on('remove-track', 'click', removeTrack);
  on('mark-in', 'click', () => mark('in'));
  on('mark-out', 'click', () => mark('out'));
  on('undo', 'click', () => step(past, future, 'before'));
  on('redo', 'click', () => step(future, past, 'after'));
  on('save', 'click', save);
  on('run', 'click', run);
  on('preview', 'click', showPreview);
  on('write-settings', 'click', writeSettings);
  on('help', 'click', () => at('keys').showModal());
  window.addEventListener('beforeunload', (event) => { if (Object.keys(changed).length) event.preventDefault(); });
  window.addEventListener('resize', draw);
  start();
})();
