// Page Inspect. <picture-source>: pictures by drop, paste, file, folder or camera, inspected one after the other.
// <what-if>: a limit to play with, and what it would change on the pictures of late.

import { dropped, isPicture, sorted } from './files.js';
import { filled, number, post, say, show, toast, wordsOf } from './station.js';

class PictureSource extends HTMLElement {
  connectedCallback() {
    this.words = wordsOf(this);
    this.queue = [];
    this.done = 0;
    for (const input of this.querySelectorAll('input[type="file"]')) {
      input.addEventListener('change', () => { this.add(sorted([...input.files].filter(isPicture))); input.value = ''; });
      this.querySelector(`[data-picks="${input.id}"]`).addEventListener('click', () => input.click());
    }
    this.querySelector('[data-stops]').addEventListener('click', () => { this.queue.length = 0; });
    this.listen();
    this.camera = new Camera(document.getElementById('camera'), (file) => this.add([file]));
    this.querySelector('[data-camera]').addEventListener('click', () => this.camera.open());
  }

  listen() {
    let depth = 0;
    const mark = (change) => {
      depth = Math.max(0, depth + change);
      document.body.classList.toggle('dropping', depth > 0);
    };
    window.addEventListener('dragenter', (event) => { event.preventDefault(); mark(1); });
    window.addEventListener('dragleave', () => mark(-1));
    window.addEventListener('dragover', (event) => event.preventDefault());
    window.addEventListener('drop', async (event) => {
      event.preventDefault();
      mark(-depth);
      this.add(await dropped(event.dataTransfer));
    });
    window.addEventListener('paste', (event) => {
      const files = [...event.clipboardData.files].filter(isPicture);
      if (files.length) { event.preventDefault(); this.add(files); }
    });
  }

  add(files) {
    if (!files.length) { toast(this.words.none); return; }
    this.queue.push(...files);
    if (!this.busy) this.work();
  }

  async work() {
    this.busy = true;
    this.done = 0;
    const counts = { OK: 0, DEFECT: 0 };
    while (this.queue.length) {
      const file = this.queue.shift();
      this.progress();
      const verdict = await this.inspect(file);
      if (verdict) counts[verdict] += 1;
      this.done += 1;
    }
    this.busy = false;
    this.progress();
    if (this.done > 1) toast(filled(this.words.finished, { n: number(this.done), ok: number(counts.OK), defect: number(counts.DEFECT) }));
  }

  progress() {
    const all = this.done + this.queue.length + (this.busy ? 1 : 0);
    const bar = this.querySelector('.queue');
    bar.hidden = !(this.busy && all > 1);
    bar.querySelector('progress').value = all ? this.done / all : 0;
    bar.querySelector('output').textContent = filled(this.words.progress, { i: number(Math.min(this.done + 1, all)), n: number(all) });
    document.getElementById('result').setAttribute('aria-busy', String(this.busy));
  }

  async inspect(file) {
    const form = new FormData();
    form.append('picture', file, file.name || 'picture.png');
    form.append('model', document.getElementById('model').value);
    const place = document.getElementById('result');
    try {
      let answer = await post('/inspect', form);
      while (answer.wait) { // the station is busy and said when to come back
        await new Promise((resolve) => setTimeout(resolve, 1000 * answer.wait));
        answer = await post('/inspect', form);
      }
      show(place, answer.html);
    } catch (error) {
      toast(error.message);
      say(error.message);
      return null;
    }
    document.body.classList.add('has-result');
    const result = place.querySelector('[data-said]');
    say(result.dataset.said);
    window.htmx.trigger('#recent', 'refresh');
    return result.dataset.verdict;
  }
}

/** The picture of a camera at this PC, taken by a press of the button or the space bar. */
class Camera {
  constructor(dialog, take) {
    this.dialog = dialog;
    this.video = dialog.querySelector('video');
    dialog.querySelector('[data-shoot]').addEventListener('click', () => this.shoot(take));
    dialog.addEventListener('close', () => this.stop());
  }

  async open() {
    this.dialog.showModal();
    const trouble = this.dialog.querySelector('.notice');
    trouble.hidden = true;
    try {
      const wish = { video: { facingMode: 'environment', width: { ideal: 1920 }, height: { ideal: 1080 } } };
      this.video.srcObject = await navigator.mediaDevices.getUserMedia(wish);
      await this.video.play();
      this.dialog.querySelector('[data-shoot]').disabled = false;
    } catch {
      trouble.hidden = false;
    }
  }

  shoot(take) {
    const canvas = document.createElement('canvas');
    canvas.width = this.video.videoWidth;
    canvas.height = this.video.videoHeight;
    canvas.getContext('2d').drawImage(this.video, 0, 0);
    const name = `camera-${new Date().toISOString().replace(/[:.]/g, '-')}.png`;
    canvas.toBlob((blob) => { take(new File([blob], name, { type: 'image/png' })); }, 'image/png');
    this.dialog.close();
  }

  stop() {
    for (const track of this.video.srcObject?.getTracks() ?? []) track.stop();
    this.video.srcObject = null;
    this.dialog.querySelector('[data-shoot]').disabled = true;
  }
}
customElements.define('picture-source', PictureSource);

class WhatIf extends HTMLElement {
  connectedCallback() {
    this.words = wordsOf(this);
    this.slider = this.querySelector('input[type="range"]');
    this.slider.addEventListener('input', () => this.judge());
    this.querySelector('[data-back]').addEventListener('click', () => { this.slider.value = this.dataset.limit; this.judge(); });
    this.judge();
  }

  judge() {
    const calibrated = Number(this.dataset.limit);
    const limit = Number(this.slider.value);
    const scores = JSON.parse(this.dataset.calibration);
    const tiles = [...this.querySelectorAll('[data-score]')];
    const changes = { OK: 0, DEFECT: 0 };
    for (const tile of tiles) {
      const score = tile.dataset.score === '' ? Infinity : Number(tile.dataset.score);
      const verdict = score > limit ? 'DEFECT' : 'OK';
      const flips = verdict !== tile.dataset.verdict;
      if (flips) changes[verdict] += 1;
      tile.classList.toggle('flips', flips);
      tile.querySelector('.becomes').textContent = filled(this.words.becomes, { verdict: this.words[verdict] });
    }
    this.querySelector('[data-limit-shown]').textContent = number(limit, 2);
    const total = changes.OK + changes.DEFECT;
    const text = tiles.length === 0 ? this.words.empty
      : total === 0 ? filled(this.words.same, { n: number(tiles.length) })
        : filled(this.words.change, { n: number(tiles.length), total: number(total), ok: number(changes.OK), defect: number(changes.DEFECT) });
    this.querySelector('[data-changes]').textContent = text;
    const above = scores.filter((score) => score > limit).length;
    this.querySelector('[data-cost]').textContent = scores.length
      ? filled(this.words.cost, { above: number(above), n: number(scores.length), share: number((100 * above) / scores.length, 1) }) : '';
    this.querySelector('[data-back]').disabled = Math.abs(limit - calibrated) < 0.005;
  }
}
customElements.define('what-if', WhatIf);

// Left and right step through the pictures of late, unless something else takes the arrows.
document.addEventListener('keydown', (event) => {
  if (!['ArrowLeft', 'ArrowRight'].includes(event.key)) return;
  const tile = document.activeElement.closest?.('.strip a');
  if (!tile) return;
  const all = [...tile.closest('.strip').querySelectorAll('a')];
  const next = all[all.indexOf(tile) + (event.key === 'ArrowRight' ? 1 : -1)];
  if (next) { event.preventDefault(); next.focus(); }
});
