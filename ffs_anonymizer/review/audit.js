'use strict';
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const key = `ffs_anonymizer audit of ${data.title}`;
  const at = (name) => document.getElementById(name);
  const ticks = load();
  let current = 0;

  function load() {
    try {
      const kept = JSON.parse(localStorage.getItem(key) || '{}');
      return typeof kept === 'object' && kept !== null ? kept : {};
    } catch {
      return {};
    }
  }

  function keep() {
    try {
      localStorage.setItem(key, JSON.stringify(ticks));
    } catch {
      // A browser that keeps nothing for files on disk still lets them be saved.
    }
  }

  const name = (frame) => `${frame.stream} #${frame.number}`;

  // The one-sided bound of Clopper and Pearson, as statistics.py computes it.
  function bound(misses, sampled) {
    if (misses === sampled) return 1;
    if (misses === 0) return 1 - Math.pow(1 - data.confidence, 1 / sampled);
    let low = misses / sampled, high = 1;
    for (let i = 0; i < 60; i++) {
      const middle = (low + high) / 2;
      let term = sampled * Math.log1p(-middle), sum = Math.exp(term);
      for (let k = 1; k <= misses; k++) {
        term += Math.log((sampled - k + 1) / k) + Math.log(middle) - Math.log1p(-middle);
        sum += Math.exp(term);
      }
      if (sum > 1 - data.confidence) low = middle; else high = middle;
    }
    return high;
  }

  function tell() {
    const looked = data.sample.filter((f) => ticks[name(f)]).length;
    const misses = data.sample.filter((f) => ticks[name(f)] === 'missed').length;
    if (!looked) {
      at('person').textContent = 'nobody has looked yet.';
      return;
    }
    const percent = Math.ceil(bound(misses, looked) * 1e4) / 100;
    at('person').textContent =
      `${misses} miss${misses === 1 ? '' : 'es'} in ${looked} of ${data.sample.length} sampled frames ` +
      `(of ${data.population}): under ${percent} % of frames at ${data.confidence * 100} % ` +
      '(one-sided, Clopper-Pearson)' +
      (looked < data.sample.length ? '; counts only if the rest is looked at, too.' : '.');
  }

  function show(i) {
    if (!data.sample.length) return;
    current = (i + data.sample.length) % data.sample.length;
    const frame = data.sample[current];
    at('frame').src = frame.image;
    at('frame').className = ticks[name(frame)] || '';
    at('caption').textContent =
      `${current + 1} of ${data.sample.length}: ${frame.stream}, frame ${frame.number}, ${frame.stamp_s} s` +
      (ticks[name(frame)] ? ` — ${ticks[name(frame)]}` : '');
    [...at('thumbnails').children].forEach((button, n) => {
      button.className = ticks[name(data.sample[n])] || '';
      button.setAttribute('aria-current', String(n === current));
    });
    tell();
  }

  function tick(word) {
    if (!data.sample.length) return;
    const frame = data.sample[current];
    if (word) ticks[name(frame)] = word; else delete ticks[name(frame)];
    keep();
    show(word ? current + 1 : current);
  }

  function save() {
    const result = data.sample.map(({ stream, number, stamp_s }) =>
      ({ stream, number, stamp_s, tick: ticks[`${stream} #${number}`] || null }));
    const text = JSON.stringify({ audit: data.title, statement: at('person').textContent, frames: result }, null, 1);
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([text], { type: 'application/json' }));
    link.download = 'audit_ticks.json';
    link.click();
    URL.revokeObjectURL(link.href);
  }

  data.sample.forEach((frame, i) => {
    const button = document.createElement('button');
    button.title = name(frame);
    button.setAttribute('aria-label', name(frame));
    button.addEventListener('click', () => show(i));
    at('thumbnails').append(button);
  });
  at('previous').addEventListener('click', () => show(current - 1));
  at('next').addEventListener('click', () => show(current + 1));
  at('clean').addEventListener('click', () => tick('clean'));
  at('missed').addEventListener('click', () => tick('missed'));
  at('save').addEventListener('click', save);
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = {
      c: () => tick('clean'), m: () => tick('missed'), Backspace: () => tick(''),
      ArrowLeft: () => show(current - 1), ArrowRight: () => show(current + 1),
    }[event.key];
    if (act) { event.preventDefault(); act(); }
  });
  if (data.sample.length) show(0); else at('looking').hidden = true;
})();
