// Pictures and maps on canvases. Colours come from the server, which has one place for them.

const DIM = 0.3;
const heat = new Uint8ClampedArray(3 * 256);

export function useHeat(stops) {
  const colours = stops.map((text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16)));
  for (let value = 0; value < 256; value++) {
    const place = (value / 255) * (colours.length - 1);
    const low = Math.min(Math.floor(place), colours.length - 2);
    for (let band = 0; band < 3; band++) {
      heat[3 * value + band] = colours[low][band] + (place - low) * (colours[low + 1][band] - colours[low][band]);
    }
  }
}

export function sheet(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

// An image's pixels, its longer side at most so long.
export function pixelsOf(image, width, height) {
  const pen = sheet(width, height).getContext("2d", { willReadFrequently: true });
  pen.fillStyle = "white"; // what the classifier sees behind transparent parts
  pen.fillRect(0, 0, width, height);
  pen.drawImage(image, 0, 0, width, height);
  return pen.getImageData(0, 0, width, height);
}

export function fitted(image, most) {
  const scale = Math.min(1, most / Math.max(image.width, image.height));
  return [Math.max(1, Math.round(image.width * scale)), Math.max(1, Math.round(image.height * scale))];
}

// A map (a grey picture of any size) as one number per pixel of the picture.
export function values(map, width, height) {
  const data = pixelsOf(map, width, height).data;
  return Uint8Array.from({ length: width * height }, (_, at) => data[4 * at]);
}

// The same, stretched until its highest value is 255; a map of zeros stays one.
export function stretched(map) {
  const highest = Math.max(1, map.reduce((most, value) => Math.max(most, value), 0));
  return map.map((value) => (255 * value) / highest);
}

// Paints a map on a picture: as an "overlay", what it has "kept", or "removed"; or the "original".
// Below the threshold nothing counts; a threshold of 0 leaves the mask soft.
export function paint(canvas, picture, map, { view, opacity, threshold }) {
  const { width, height, data } = picture;
  const pixels = new ImageData(width, height);
  const out = pixels.data;
  const cut = Math.round(255 * threshold);
  for (let pixel = 0, at = 0; pixel < map.length; pixel++, at += 4) {
    let value = map[pixel];
    if (cut) value = value < cut ? 0 : view === "overlay" ? value : 255;
    if (view === "original") value = 255;
    const grey = 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
    if (view === "overlay") {
      const alpha = opacity * Math.sqrt(value / 255);
      for (let band = 0; band < 3; band++) out[at + band] = grey * (1 - alpha) + heat[3 * value + band] * alpha;
    } else {
      const keep = view === "removed" ? 1 - value / 255 : value / 255;
      for (let band = 0; band < 3; band++) out[at + band] = data[at + band] * keep + DIM * grey * (1 - keep);
    }
    out[at + 3] = 255;
  }
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

// The colours of a map, from 0 to 1; what lies below the threshold is grey, as in the picture.
export function paintScale(canvas, threshold) {
  [canvas.width, canvas.height] = [256, 1];
  const pixels = new ImageData(256, 1);
  for (let value = 0; value < 256; value++) {
    const colour = value < 255 * threshold ? [128, 128, 128] : heat.subarray(3 * value, 3 * value + 3);
    pixels.data.set([...colour, 255], 4 * value);
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

export function show(canvas, image) {
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d").drawImage(image, 0, 0);
}

// Pictures beside each other, each with its title, as one PNG: rows of { canvas, title }.
export function joined(rows, heading) {
  const [gap, line] = [12, 22];
  const side = Math.max(240, ...rows.flat().map(({ canvas }) => canvas.width));
  const tall = ({ canvas }) => Math.round((canvas.height * side) / canvas.width);
  const heights = rows.map((row) => Math.max(...row.map(tall)) + line + gap);
  const columns = Math.max(...rows.map((row) => row.length));
  const whole = sheet(columns * (side + gap) + gap, heights.reduce((sum, height) => sum + height, line + 2 * gap));
  const pen = whole.getContext("2d");
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, whole.width, whole.height);
  pen.fillStyle = "#1d1d22";
  pen.font = "bold 16px system-ui, sans-serif";
  pen.fillText(heading, gap, gap + 16, whole.width - 2 * gap);
  pen.font = "14px system-ui, sans-serif";
  let top = line + 2 * gap;
  for (const [number, row] of rows.entries()) {
    for (const [at, panel] of row.entries()) {
      const left = gap + at * (side + gap);
      pen.drawImage(panel.canvas, left, top, side, tall(panel));
      pen.fillText(panel.title, left, top + tall(panel) + 16, side);
    }
    top += heights[number];
  }
  return toBlob(whole, "image/png");
}

export function toBlob(canvas, type) {
  return new Promise((done) => canvas.toBlob(done, type, 0.85));
}

// Numbers in [0, 1] as a grey picture.
export function greySheet(map, width, height) {
  const canvas = sheet(width, height);
  const grey = new ImageData(width, height);
  const words = new Uint32Array(grey.data.buffer);
  for (let at = 0; at < map.length; at++) {
    words[at] = 0xff000000 + 0x010101 * Math.round(255 * Math.min(1, Math.max(0, map[at])));
  }
  canvas.getContext("2d").putImageData(grey, 0, 0);
  return canvas;
}

export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
