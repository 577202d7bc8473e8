// Every page: who may write (CSRF), what a script says (toast, live region), and errors of htmx requests.

export const locale = document.documentElement.lang;

export function token() {
  return document.querySelector('meta[name="csrf-token"]').content;
}

/** A number in the language of the page. */
export function number(value, digits = 0) {
  return new Intl.NumberFormat(locale, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
}

/** `text` with its {names} filled in. */
export function filled(text, values) {
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? values[name] : whole));
}

/** Texts that the server translated for an element: its attribute data-words. */
export function wordsOf(element) {
  return JSON.parse(element.dataset.words);
}

let fading;
export function toast(text) {
  const place = document.getElementById('toast');
  place.textContent = text;
  clearTimeout(fading);
  fading = setTimeout(() => { place.textContent = ''; }, 6000);
}

/** Read out by screen readers at once, and shown to nobody. */
export function say(text) {
  document.getElementById('said').textContent = text;
}

/** POST a form, get HTML or an error in words. A page that shows an error itself answers with HTML as well. */
export async function post(url, form) {
  const headers = { 'X-CSRF-Token': token(), 'HX-Request': 'true' };
  const answer = await fetch(url, { method: 'POST', body: form, headers, credentials: 'same-origin' });
  const isHtml = (answer.headers.get('content-type') || '').startsWith('text/html');
  if (answer.headers.get('HX-Redirect')) {
    window.location.assign(answer.headers.get('HX-Redirect'));
    return new Promise(() => {}); // the page is left
  }
  if (isHtml) return { ok: answer.ok, html: await answer.text() };
  const wait = Number(answer.headers.get('Retry-After'));
  if (wait && answer.status === 503) return { ok: false, wait };
  const problem = await answer.json().catch(() => ({}));
  throw new Error(problem.detail || problem.title || `${answer.status} ${answer.statusText}`);
}

/** Put HTML of this server into an element and let htmx see it. */
export function show(element, html) {
  element.innerHTML = html;
  window.htmx.process(element);
}

document.addEventListener('htmx:responseError', (event) => {
  const answer = event.detail.xhr;
  let text = `${answer.status} ${answer.statusText}`;
  try {
    const problem = JSON.parse(answer.responseText);
    text = problem.detail || problem.title || text;
  } catch { /* no problem document: the status has to do */ }
  toast(text);
});
document.addEventListener('htmx:sendError', () => toast(document.body.dataset.away));
// Pages answer a form they refuse with the form and its error, and such answers are shown as well.
document.addEventListener('htmx:beforeSwap', (event) => {
  const type = event.detail.xhr.getResponseHeader('content-type') || '';
  if (event.detail.xhr.status === 422 && type.startsWith('text/html')) {
    event.detail.shouldSwap = true;
    event.detail.isError = false;
  }
});

document.addEventListener('click', (event) => {
  const opener = event.target.closest('[data-opens]');
  if (opener) document.getElementById(opener.dataset.opens).showModal();
  const closer = event.target.closest('[data-closes]');
  if (closer) closer.closest('dialog').close();
});
