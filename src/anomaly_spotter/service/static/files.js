// Pictures from a drop, with all folders in it, as a flat list of files in order of their names.

const PICTURE = /\.(png|jpe?g|bmp|tiff?|webp|gif|pgm|ppm)$/i;

export function isPicture(file) {
  return file.type.startsWith('image/') || PICTURE.test(file.name);
}

function entries(folder) {
  const reader = folder.createReader();
  const all = [];
  return new Promise((resolve, reject) => {
    const next = () => reader.readEntries((some) => { // at most 100 come at a time
      if (!some.length) { resolve(all); return; }
      all.push(...some);
      next();
    }, reject);
    next();
  });
}

async function inside(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const found = [];
  for (const each of await entries(entry)) found.push(...await inside(each));
  return found;
}

export async function dropped(transfer) {
  // The list of items is emptied as soon as this function waits, so the entries are taken first.
  const tops = [...transfer.items].filter((item) => item.kind === 'file').map((item) => [item.webkitGetAsEntry?.(), item.getAsFile()]);
  const files = [];
  for (const [entry, file] of tops) files.push(...(entry ? await inside(entry) : [file]));
  return sorted(files.filter(isPicture));
}

export function sorted(files) {
  const name = (file) => file.webkitRelativePath || file.name;
  return [...files].sort((a, b) => name(a).localeCompare(name(b), undefined, { numeric: true }));
}
