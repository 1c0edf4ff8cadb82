// A file that somebody brings: what it is, by its first bytes, and how large its picture is.

const HEAD = 1 << 12; // bytes
const KINDS = [
  [/^%PDF/, "a PDF document"],
  [/^....ftyp(hei|hev|mif1|msf1)/s, "a HEIC picture, as phones of Apple make them"],
  [/^....ftyp(qt|isom|iso2|mp4|M4V|avc1|3gp)/s, "a film"],
  [/^\x1a\x45\xdf\xa3/, "a film"],
  [/^(II\*\0|MM\0\*)/, "a TIFF picture"],
  [/^SIMPLE {2}=/, "a FITS file"],
  [/^.{128}DICM/s, "a DICOM file"],
  [/^\x93NUMPY/, "an array of NumPy"],
  [/^PK\x03\x04/, "an archive or office document"],
  [/^\x1f\x8b/, "a compressed file"],
  [/^\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<svg/is, "a drawing (SVG)"],
  [/^\s*<(!doctype|html)/i, "a web page"],
  [/^[\t\n\r\x20-\x7e\x80-\xff]+$/, "a text"],
];

// Reads the first bytes of a file.
// Throws where it is empty, a folder, or cannot be read any more.
export async function inspect(file) {
  const name = file.name || "the picture";
  let head;
  try {
    head = new Uint8Array(await file.slice(0, HEAD).arrayBuffer());
  } catch {
    throw new Error(`${name} is a folder, or cannot be read any more; choose one picture file.`);
  }
  if (head.length === 0) throw new Error(`${name} is empty (0 bytes); choose another picture.`);
  const text = Array.from(head, (byte) => String.fromCharCode(byte)).join("");
  const kind = KINDS.find(([pattern]) => pattern.test(text))?.[1];
  return { name, kind, moves: await isMoving(file, text) };
}

// Why a file that is no picture for the reader was refused, in one line.
export function refusal({ name, kind }, reader) {
  if (kind === undefined) return `${name} cannot be read as a picture by ${reader}; it may be damaged. Save it anew as JPEG or PNG.`;
  return `${name} is ${kind}, which ${reader} cannot read; bring a picture as JPEG or PNG.`;
}

// Whether a picture has several frames, of which the first is explained.
async function isMoving(file, text) {
  if (text.startsWith("GIF8")) {
    const all = new Uint8Array(await file.slice(0, 1 << 24).arrayBuffer());
    let frames = 0;
    for (let at = 0; at < all.length - 7 && frames < 2; at++) {
      if (all[at] === 0x21 && all[at + 1] === 0xf9 && all[at + 2] === 4 && all[at + 7] === 0) frames++;
    }
    return frames > 1;
  }
  if (text.startsWith("\x89PNG")) return text.includes("acTL");
  return text.startsWith("RIFF") && text.slice(12, 40).includes("ANIM");
}

// Width and height of a picture without decoding it; null where the browser cannot tell.
export async function measure(file) {
  const address = URL.createObjectURL(file);
  const image = new Image();
  try {
    await new Promise((resolve, reject) => Object.assign(image, { onload: resolve, onerror: reject, src: address }));
    return image.naturalWidth ? { width: image.naturalWidth, height: image.naturalHeight } : null;
  } catch {
    return null;
  } finally {
    URL.revokeObjectURL(address);
  }
}
