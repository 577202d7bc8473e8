// Files -> one ZIP archive without compression: pictures are compressed already, and the station unpacks one archive
// under its limits instead of thousands of requests. Format: PKWARE APPNOTE.TXT 6.3, sections 4.3.7, 4.3.12 and 4.3.16.

const TABLE = new Uint32Array(256).map((_, index) => {
  let value = index;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

function checksum(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = TABLE[(value ^ byte) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}

/** Numbers in little endian: [value, bytes] each. */
function packed(fields) {
  const view = new DataView(new ArrayBuffer(fields.reduce((sum, [, size]) => sum + size, 0)));
  let at = 0;
  for (const [value, size] of fields) {
    if (size === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += size;
  }
  return new Uint8Array(view.buffer);
}

const UTF8 = 0x0800;

/** One archive of all files, numbered so that two of the same name stay two; `told` hears how many are done. */
export async function zipped(files, told) {
  const parts = [];
  const entries = [];
  let offset = 0;
  for (const [index, file] of files.entries()) {
    const name = new TextEncoder().encode(`${String(index).padStart(5, '0')}-${file.name}`);
    const sum = checksum(new Uint8Array(await file.arrayBuffer()));
    const common = [[UTF8, 2], [0, 2], [0, 2], [0x21, 2], [sum, 4], [file.size, 4], [file.size, 4], [name.length, 2], [0, 2]];
    const header = packed([[0x04034b50, 4], [20, 2], ...common]);
    parts.push(header, name, file);
    entries.push(packed([[0x02014b50, 4], [20, 2], [20, 2], ...common, [0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]]), name);
    offset += header.length + name.length + file.size;
    told(index + 1);
  }
  const size = entries.reduce((sum, each) => sum + each.length, 0);
  const end = packed([[0x06054b50, 4], [0, 2], [0, 2], [files.length, 2], [files.length, 2], [size, 4], [offset, 4], [0, 2]]);
  return new Blob([...parts, ...entries, end], { type: 'application/zip' });
}
