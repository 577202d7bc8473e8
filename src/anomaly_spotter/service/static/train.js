// Page Train. <good-pictures>: pictures of good parts go to the station and are checked. <job-watch>: a training, live.

import { dropped, isPicture, sorted } from './files.js';
import { filled, number, post, show, toast, wordsOf } from './station.js';
import { zipped } from './zip.js';

class GoodPictures extends HTMLElement {
  connectedCallback() {
    this.words = wordsOf(this);
    const zone = this.querySelector('.drop');
    for (const input of this.querySelectorAll('input[type="file"]')) {
      input.addEventListener('change', () => { this.send(sorted([...input.files].filter(isPicture))); input.value = ''; });
      this.querySelector(`[data-picks="${input.id}"]`).addEventListener('click', () => input.click());
    }
    window.addEventListener('dragover', (event) => { event.preventDefault(); zone.classList.add('over'); });
    window.addEventListener('dragleave', (event) => { if (!event.relatedTarget) zone.classList.remove('over'); });
    window.addEventListener('drop', async (event) => {
      event.preventDefault();
      zone.classList.remove('over');
      this.send(await dropped(event.dataTransfer));
    });
  }

  async send(files) {
    if (!files.length) { toast(this.words.none); return; }
    const queue = this.querySelector('.queue');
    const told = (done) => {
      queue.querySelector('progress').value = done / files.length;
      queue.querySelector('output').textContent = filled(this.words.reading, { i: number(done), n: number(files.length) });
    };
    queue.hidden = false;
    const place = document.getElementById('audit');
    place.replaceChildren();
    try {
      const form = new FormData();
      form.append('archive', await zipped(files, told), 'pictures.zip');
      form.append('name', (files[0].webkitRelativePath || '').split('/')[0]);
      queue.querySelector('output').textContent = this.words.checking;
      queue.querySelector('progress').removeAttribute('value');
      show(place, (await post('/train/datasets', form)).html);
      checked();
    } catch (error) {
      toast(error.message);
    }
    queue.hidden = true;
  }
}
customElements.define('good-pictures', GoodPictures);

/** Step 2 has come: the audit is there, whichever way the pictures came. */
function checked() {
  const audit = document.querySelector('[data-audited]');
  if (!audit) return;
  document.getElementById('step-1').classList.add('done');
  document.getElementById('step-1').removeAttribute('aria-current');
  document.getElementById('step-2').setAttribute('aria-current', 'step');
  audit.scrollIntoView({ behavior: 'smooth', block: 'nearest' });
}
document.addEventListener('htmx:afterSettle', checked);

class JobWatch extends HTMLElement {
  connectedCallback() {
    if (!this.dataset.events) return;
    this.source = new EventSource(this.dataset.events);
    let last = 0;
    let waiting;
    const refresh = () => { last = Date.now(); waiting = null; window.htmx.trigger('#job', 'refresh'); };
    // Every event says that something is new; the page itself is drawn by the station, four times a second at most.
    const soon = () => { waiting ??= setTimeout(refresh, Math.max(0, 250 - (Date.now() - last))); };
    for (const name of ['progress', 'remark', 'epoch', 'failed', 'made']) this.source.addEventListener(name, soon);
    this.source.addEventListener('end', () => { this.source.close(); refresh(); });
    // A button that is redrawn between press and release would swallow the click.
    this.addEventListener('htmx:beforeSwap', (event) => {
      if (event.detail.requestConfig.verb !== 'get' || !this.querySelector('button:active')) return;
      event.detail.shouldSwap = false;
      soon();
    });
  }

  disconnectedCallback() {
    this.source?.close();
  }
}
customElements.define('job-watch', JobWatch);
