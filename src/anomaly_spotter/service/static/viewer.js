// <picture-viewer>: a picture with its heat map over it; opacity, zoom and position by mouse, finger and keyboard.

import { number } from './station.js';

const MOST = 40; // times the fitted size
const STEP = 1.4;

class PictureViewer extends HTMLElement {
  connectedCallback() {
    this.stage = this.querySelector('.stage');
    this.sheet = this.querySelector('.sheet');
    this.size = { width: Number(this.dataset.width), height: Number(this.dataset.height) };
    this.fingers = new Map();
    this.querySelector('.opacity').addEventListener('input', () => this.blend());
    for (const button of this.querySelectorAll('[data-zoom]')) {
      button.addEventListener('click', () => this.press(button.dataset.zoom));
    }
    this.stage.addEventListener('keydown', (event) => this.key(event));
    this.stage.addEventListener('wheel', (event) => this.wheel(event), { passive: false });
    this.stage.addEventListener('pointerdown', (event) => this.down(event));
    this.stage.addEventListener('pointermove', (event) => this.move(event));
    for (const name of ['pointerup', 'pointercancel']) {
      this.stage.addEventListener(name, (event) => this.fingers.delete(event.pointerId));
    }
    this.stage.addEventListener('dblclick', () => this.fit());
    this.watch = new ResizeObserver(() => { if (!this.zoomed) this.fit(); else this.place(); });
    this.watch.observe(this.stage);
    this.blend();
    this.fit();
  }

  disconnectedCallback() {
    this.watch?.disconnect();
  }

  blend() {
    const slider = this.querySelector('.opacity');
    this.querySelector('.heat').style.opacity = slider.value / 100;
    slider.parentElement.querySelector('output').textContent = `${number(Number(slider.value))} %`;
  }

  press(what) {
    if (what === 'fit') this.fit();
    else this.zoomBy(what === 'in' ? STEP : 1 / STEP);
  }

  /** The whole picture, centred. */
  fit() {
    const { clientWidth, clientHeight } = this.stage;
    this.least = Math.min(clientWidth / this.size.width, clientHeight / this.size.height);
    this.scale = this.least;
    this.zoomed = false;
    this.x = (clientWidth - this.scale * this.size.width) / 2;
    this.y = (clientHeight - this.scale * this.size.height) / 2;
    this.place();
  }

  /** Zoom to a region [left, top, width, height] in pixels of the picture, with its surroundings. */
  look(box) {
    const [left, top, width, height] = box;
    const { clientWidth, clientHeight } = this.stage;
    const wanted = Math.min(clientWidth / (2 * width), clientHeight / (2 * height), 6 * this.least);
    this.scale = Math.max(wanted, this.least);
    this.zoomed = true;
    this.x = clientWidth / 2 - this.scale * (left + width / 2);
    this.y = clientHeight / 2 - this.scale * (top + height / 2);
    this.place();
  }

  zoomBy(factor, x = this.stage.clientWidth / 2, y = this.stage.clientHeight / 2) {
    const scale = Math.min(Math.max(this.scale * factor, this.least), MOST * this.least);
    if (scale === this.least) { this.fit(); return; }
    this.x = x - (x - this.x) * (scale / this.scale);
    this.y = y - (y - this.y) * (scale / this.scale);
    this.scale = scale;
    this.zoomed = true;
    this.place();
  }

  place() {
    const { clientWidth, clientHeight } = this.stage;
    const width = this.scale * this.size.width;
    const height = this.scale * this.size.height;
    // No edge of the picture comes further in than it has to: nobody gets lost beside it.
    this.x = width <= clientWidth ? (clientWidth - width) / 2 : Math.min(0, Math.max(clientWidth - width, this.x));
    this.y = height <= clientHeight ? (clientHeight - height) / 2 : Math.min(0, Math.max(clientHeight - height, this.y));
    this.sheet.style.width = `${this.size.width}px`;
    this.sheet.style.height = `${this.size.height}px`;
    this.sheet.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    this.sheet.classList.toggle('near', this.scale >= 3);
    this.querySelector('.zoom output').textContent = `${number(100 * this.scale)} %`;
  }

  key(event) {
    const far = 60;
    const acts = {
      '+': () => this.zoomBy(STEP), '=': () => this.zoomBy(STEP), '-': () => this.zoomBy(1 / STEP), 0: () => this.fit(),
      ArrowLeft: () => { this.x += far; }, ArrowRight: () => { this.x -= far; },
      ArrowUp: () => { this.y += far; }, ArrowDown: () => { this.y -= far; },
    };
    const act = acts[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
    this.place();
  }

  wheel(event) {
    event.preventDefault();
    const box = this.stage.getBoundingClientRect();
    this.zoomBy(1.0015 ** -event.deltaY, event.clientX - box.left, event.clientY - box.top);
  }

  down(event) {
    this.stage.setPointerCapture(event.pointerId);
    this.fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  }

  move(event) {
    const before = this.fingers.get(event.pointerId);
    if (!before) return;
    const now = { x: event.clientX, y: event.clientY };
    const other = [...this.fingers].find(([id]) => id !== event.pointerId)?.[1];
    if (other) { // two fingers: the distance between them zooms
      const box = this.stage.getBoundingClientRect();
      const away = (a) => Math.hypot(a.x - other.x, a.y - other.y) || 1;
      this.zoomBy(away(now) / away(before), (now.x + other.x) / 2 - box.left, (now.y + other.y) / 2 - box.top);
    } else {
      this.x += now.x - before.x;
      this.y += now.y - before.y;
      this.place();
    }
    this.fingers.set(event.pointerId, now);
  }
}
customElements.define('picture-viewer', PictureViewer);

// A region of the list beside the viewer: lit and looked at by a press, let go by another.
document.addEventListener('click', (event) => {
  const button = event.target.closest('[data-region]');
  if (!button) return;
  const viewer = document.getElementById(button.closest('[data-viewer]').dataset.viewer);
  if (!viewer) return; // the picture is no longer kept
  const wasLit = button.getAttribute('aria-pressed') === 'true';
  for (const each of document.querySelectorAll('[data-region]')) each.setAttribute('aria-pressed', 'false');
  for (const each of viewer.querySelectorAll('.region')) each.classList.remove('lit');
  if (wasLit) { viewer.fit(); return; }
  button.setAttribute('aria-pressed', 'true');
  viewer.querySelector(`.region[data-number="${button.dataset.region}"]`).classList.add('lit');
  viewer.look(JSON.parse(button.dataset.box));
});
